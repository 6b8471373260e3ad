"""What methods share that keep one vector and give a model for each task."""

from merge_lib.errors import MethodInputError


def check_task(task: int, count: int) -> None:
    """Refuse a task that is not there.

    Raises:
        MethodInputError: names the tasks that are.
    """
    if not -1 <= task < count:
        raise MethodInputError(
            f"`task` is {task}, but {count} experts were given. Give the expert's place, 0 to {count - 1}, or −1 for "
            "the vector that all tasks share."
        )
