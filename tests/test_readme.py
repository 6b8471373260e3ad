"""The README says what is there."""

import re
from pathlib import Path

import typer

from flows.cli import make_app
from merge_lib.catalogue import table

README = Path("README.md").read_text(encoding="utf-8")


def test_every_method_has_its_row_with_its_declared_facts():
    assert table() in README, "paste what `python -m merge_lib.catalogue table` prints"


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
