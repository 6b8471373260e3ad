"""Examples that merges forgot: pictures in a figure, texts in a table."""

from collections.abc import Sequence

from merge_lib.report.layout import UNDEFINED, Cell, Column, Figure, Panel, Shape, Table
from merge_lib.results import ForgottenExample

NAME = "forgotten-examples"
_ACROSS, _SIDE, _ROOM = 4, 56.0, (82.0, 92.0)  # pictures in a row, the side of one, what each takes


def examples_of(examples: Sequence[ForgottenExample]) -> list[Figure | Table]:
    """Pictures as a figure, texts as a table; as a table, too, what can be shown in no way."""
    figure = example_figure(examples)
    others = [one for one in examples if not one.picture]
    return [*([figure] if figure else []), *([_example_table(others)] if others else [])]


def example_figure(examples: Sequence[ForgottenExample]) -> Figure | None:
    """The pictures, a panel for each task; None where there are none."""
    pictured: dict[str, list[ForgottenExample]] = {}
    for one in examples:
        if one.picture:
            pictured.setdefault(one.task, []).append(one)
    if not pictured:
        return None
    panels = [_example_panel(task, some) for task, some in pictured.items()]
    return Figure(
        NAME,
        "Examples that were forgotten",
        "Examples that the task's expert answers rightly and merges do not.",
        f"{said_of(examples)} Below each the right answer → the merges' most frequent one.",
        panels,
        [],
        2,
    )


def said_of(examples: Sequence[ForgottenExample]) -> str:
    """What is shown, in a sentence."""
    if not examples:
        return "No example is known that an expert answers rightly and a merge does not."
    if max(one.of for one in examples) == 1:
        return "The experts answer these rightly, the merge does not; first those that they were surest of."
    return "The experts answer these rightly; first those that most merges answer wrongly."


def _example_panel(task: str, examples: Sequence[ForgottenExample]) -> Panel:
    shapes = []
    wide, tall = _ROOM
    for place, one in enumerate(examples):
        x, y = wide * (place % _ACROSS), tall * (place // _ACROSS)
        middle = x + wide / 2
        tip = f"example {one.example}: {one.truth}, forgotten by {one.merges} of {one.of}"
        left = middle - _SIDE / 2
        shapes.append(Shape("image", "picture", left, y + 4, _SIDE, _SIDE, d=one.picture, text=tip))
        said = f"{_short(one.truth)} → {_short(one.answer)}"
        shapes.append(Shape("text", "label", middle, y + _SIDE + 18, text=said, anchor="middle"))
        if one.of > 1:
            count = f"{one.merges} of {one.of}"
            shapes.append(Shape("text", "tick", middle, y + _SIDE + 31, text=count, anchor="middle"))
    said = "; ".join(f"{one.truth} answered as {one.answer}" for one in examples)
    rows = -(-len(examples) // _ACROSS)
    return Panel(task, f"{task}: {said}.", wide * _ACROSS, tall * rows + 4, shapes)


def _example_table(examples: Sequence[ForgottenExample]) -> Table:
    columns = [
        Column("Task", is_numeric=False),
        Column("Example"),
        Column("Text", is_numeric=False),
        Column("Right answer", is_numeric=False),
        Column("The merges' answer", is_numeric=False),
        Column("Forgotten by"),
    ]
    rows = [
        [
            Cell(one.task),
            Cell(str(one.example)),
            Cell(one.text or UNDEFINED),
            Cell(one.truth),
            Cell(one.answer),
            Cell(f"{one.merges} of {one.of}"),
        ]
        for one in examples
    ]
    return Table("Forgotten examples", columns, rows, [said_of(examples)], wraps=True)


def _short(word: str) -> str:
    return word if len(word) <= 5 else f"{word[:4]}…"
