"""The checks of `mergeline doctor`: facts gathered side by side with time limits, judged by pure functions."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Check:
    """What was found of one thing, and what to do about it."""

    name: str
    state: State
    found: str
    advice: str = ""  # empty where nothing is to be done


def ok(name: str, found: str) -> Check:
    """All is well."""
    return Check(name, "ok", found)


def warning(name: str, found: str, advice: str) -> Check:
    """Work goes on, but not as it could."""
    return Check(name, "warning", found, advice)


def problem(name: str, found: str, advice: str) -> Check:
    """Something that stops work or falsifies it."""
    return Check(name, "problem", found, advice)


@dataclass(frozen=True)
class Examination:
    """A few checks that are made together, and how long they may take."""

    name: str
    look: Callable[[], list[Check]]
    limit_s: float = 10.0


def examine(
    examinations: list[Examination], advance: Callable[[int], None] = lambda _done: None
) -> list[Check]:
    """Make all examinations side by side; one that fails or takes too long becomes a check of its own.

    `advance` is told of each that has ended.
    """
    running = [(examination, _start(examination)) for examination in examinations]
    checks = []
    for examination, (thread, answers) in running:
        thread.join(examination.limit_s)
        late = problem(
            examination.name,
            f"no answer within {examination.limit_s:.0f} s",
            "Something hangs: a network folder, a server or a busy machine. Look at it, and run this again.",
        )
        checks += answers if answers else [late]
        advance(1)
    return checks


def _start(examination: Examination) -> tuple[threading.Thread, list[Check]]:
    answers: list[Check] = []

    def look() -> None:
        try:
            answers.extend(examination.look())
        except Exception as failure:
            said = f"could not be looked at: {type(failure).__name__}: {failure}"
            answers.append(problem(examination.name, said, "Mend what it names, and run this again."))

    thread = threading.Thread(target=look, daemon=True)  # a call that hangs does not keep the command
    thread.start()
    return thread, answers
