"""The README says what is there."""

import re
from pathlib import Path

import typer

from flows.cli import make_app
from merge_lib.catalogue import builtin_methods

README = Path("README.md").read_text(encoding="utf-8")


def test_every_method_has_its_row_with_its_declared_facts():
    rows = {match[1]: match[0] for match in re.finditer(r"^\| `(\w+)` \|.*\|$", README, re.MULTILINE)}
    for name, info in builtin_methods().items():
        cells = [cell.strip() for cell in rows[name].strip("|").split("|")]
        said = (cells[2], cells[3], cells[4])
        assert said == ("yes" if info.needs_base else "no", "yes" if info.order_free else "no", info.scope), (
            name
        )
        assert info.paper in cells[5]
    assert {name for name in rows if name != "mergeline"} == set(builtin_methods())


def test_every_command_is_told():
    for command in typer.main.get_command(make_app()).commands:
        assert f"mergeline {command}" in README, command


def test_the_example_method_is_the_file():
    assert Path("examples/median.py").read_text(encoding="utf-8").strip() in README


def test_files_and_links_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert Path(target).exists(), target
    tree = README.split("## Files")[1].split("```")[1]
    folder = Path()
    for line in tree.strip().splitlines():
        inside = line.startswith("  ")
        for name in line.strip().split("  ")[0].split(", "):
            path = (folder if inside else Path()) / name
            assert path.exists(), path
        if not inside:
            folder = Path(line.split()[0])
