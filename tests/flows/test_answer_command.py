"""`mergeline answer`: requests that are refused before anything is read."""

import pytest
from typer.testing import CliRunner

from flows.cli import make_app
from merge_lib.errors import CheckpointError, SpecError

FILES = ["--base", "b.safetensors", "--state", "s.safetensors", "--prototypes", "p.safetensors"]


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--voters", "0", "--no-base-vote"], SpecError, "leaves nobody to vote"),
        (["--weights", "sum"], SpecError, "--voters 4 --weights sum: Input should be 'mean' or 'similarity'"),
        ([], CheckpointError, r"p\.safetensors"),
    ],
)
def test_a_wrong_request_is_told(words, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        CliRunner().invoke(make_app(["answer"]), ["answer", "a.png", *FILES, *words], catch_exceptions=False)
