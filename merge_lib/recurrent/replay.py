"""Which examples of earlier tasks are kept in memory, and which of them an outer step is shown."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random

from merge_lib.errors import DataError


@dataclass(frozen=True)
class ReplayItem:
    """One example in memory: the task that it is of, and its place in that task's training data."""

    task: str
    index: int


def select_examples(labels: Sequence[Hashable], *, share: float = 0.02, seed: int = 42) -> tuple[int, ...]:
    """A small share of a task's examples, as many of each class as can be.

    n = ⌊share·size⌋ examples: of each class max(1, ⌊n / classes⌋), or all that it has; then others at random until
    there are n. Every class has one, so there are more than n where n is less than the classes.

    Variant: both come from one random order of the examples, which depends on their number and the seed alone.
    Differs from the paper: nothing in the numbers; which examples are drawn is not the authors' draw.
    Reference: Feng et al., "Recurrent Knowledge Identification and Fusion for Language Model Continual Learning",
        ACL 2025, arXiv:2502.17510, replay memory of the experiments.

    Args:
        labels: the class of each training example.
        share: (0, 1]; counts as the decimal number that it was written as.
        seed: of the order.

    Returns:
        Places among the examples, ascending.

    Raises:
        DataError: there is no example, or the share is out of range.
    """
    if not labels or not 0 < share <= 1:
        raise DataError(
            f"Replay memory of a share of {share} of {len(labels)} examples was asked for. The share must be in (0, 1] "
            "and the task must have examples."
        )
    wanted = int(Fraction(repr(share)) * len(labels))
    quota = max(1, wanted // len(set(labels)))
    taken: Counter[Hashable] = Counter()
    chosen, rest = [], []
    for index in _shuffled(len(labels), seed):
        taken[labels[index]] += 1
        (chosen if taken[labels[index]] <= quota else rest).append(index)
    return tuple(sorted(chosen + rest[: max(0, wanted - len(chosen))]))


def select_memory(
    tasks: Mapping[str, Sequence[Hashable]], *, share: float = 0.02, seed: int = 42
) -> tuple[ReplayItem, ...]:
    """The memory of all earlier tasks, one after another.

    Args:
        tasks: of each earlier task the class of each training example, in the order of the sequence.
        share: of each task.
        seed: of each task's draw.

    Raises:
        DataError: a task has no example, or the share is out of range.
    """
    return tuple(
        ReplayItem(task, index)
        for task, labels in tasks.items()
        for index in select_examples(labels, share=share, seed=seed)
    )


def replay_batch(count: int, size: int, *, step: int, seed: int = 42) -> tuple[int, ...]:
    """The places in memory that an outer step is shown: a fresh draw for each step.

    Within a step nothing comes twice, unless the memory is smaller than the batch: then it is repeated, each time
    in another order.

    Args:
        count: examples in memory.
        size: of the batch.
        step: of the outer learner, from 0; a loop that goes on later draws as if it had not stopped.
        seed: of all steps.

    Raises:
        DataError: the memory is empty, or the batch is.
    """
    if count < 1 or size < 1:
        raise DataError(
            f"A batch of {size} from a memory of {count} examples was asked for. Both must be at least 1; a task "
            "without earlier ones is trained without a memory."
        )
    turns = -(-size // count)
    drawn = [index for turn in range(turns) for index in _shuffled(count, seed, step, turn)]
    return tuple(drawn[:size])


def _shuffled(count: int, *key: int) -> list[int]:
    """0 … count − 1 in an order that the key decides, on every machine."""
    return Random("/".join(map(str, key))).sample(range(count), count)
