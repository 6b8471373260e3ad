"""Merges without kernels stay within the least memory that the refusal of less names."""

import re

import pytest
from typer.testing import CliRunner

from flows.cli import make_app
from flows.process_cost import ROOT, measure, mergeline
from flows.synthetic import Llama, make_checkpoints

SIZES = Llama(width=512, layers=1, vocabulary=8192)
EXPERTS = 4


@pytest.mark.slow
@pytest.mark.parametrize("method", ["consensus", "della", "karcher", "iso_c", "opcm"])
def test_a_merge_takes_no_more_than_the_least_that_was_named(method, tmp_path):
    base, experts = make_checkpoints(tmp_path, SIZES, EXPERTS)
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "merged.safetensors"
    needs_base = [] if method == "karcher" else [f"base: {base}"]
    lines = [f"method: {method}", *needs_base, "experts:", *(f"- {expert}" for expert in experts)]
    recipe.write_text("\n".join([*lines, ""]), encoding="utf-8")
    refused = CliRunner().invoke(
        make_app(["merge"]), ["merge", str(recipe), "--out", str(out), "--memory", "1M", "--dry-run"]
    )
    least = int(re.search(r"needs about (\d+) MiB", refused.output.replace("\n", " ")).group(1)) + 4
    command = mergeline(
        "merge", str(recipe), "--out", str(out), "--memory", f"{least << 20}", "--threads", "2"
    )
    cost = measure(command, log=tmp_path / "log", cwd=ROOT)
    assert out.exists()
    assert cost.rss_bytes <= least << 20
