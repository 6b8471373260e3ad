"""What the model hub reads of a card."""

import json

import pytest
from ruamel.yaml import YAML

from merge_lib import MergeSpec
from merge_lib.streaming.hub_card import hub_name
from merge_lib.streaming.run import merge_to


def header_of(folder):
    _, header, _ = (folder / "README.md").read_text().split("---\n", 2)
    return YAML(typ="safe").load(header)


def test_a_merge_of_files_names_them(make_checkpoints, tmp_path):
    base, experts = make_checkpoints(2)
    merge_to(MergeSpec(method="task_arithmetic", base=base, experts=(*experts, experts[0])), tmp_path / "out")
    assert header_of(tmp_path / "out") == {
        "base_model": ["model0", "model1", "model2"],
        "base_model_relation": "merge",
        "tags": ["merge", "mergeline"],
    }


def test_a_merge_of_folders_says_that_transformers_loads_it(make_checkpoints, tmp_path):
    folders = []
    names = {"one": "org/one-7b", "1.50": "/home/ada/two", "no": None}
    for path, (name, told) in zip(
        make_checkpoints(2)[1] + (make_checkpoints(0)[0],), names.items(), strict=True
    ):
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        path.rename(folders[-1] / "model.safetensors")
        (folders[-1] / "config.json").write_text(json.dumps({"_name_or_path": told}))
    merge_to(MergeSpec(method="average", experts=folders), tmp_path / "out")
    header = header_of(tmp_path / "out")
    assert header["base_model"] == ["org/one-7b", "1.50", "no"]
    assert header["library_name"] == "transformers"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("hub/models--org--name-7b/snapshots/0a1b", "org/name-7b"),
        ("hub/models--gpt2/snapshots/0a1b", "gpt2"),
        ("runs/snapshots/last", "last"),
        ("runs/best.model.safetensors", "best.model"),
    ],
)
def test_names(path, name, tmp_path):
    assert hub_name(tmp_path / path) == name


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"_name_or_path": 3}', '{"_name_or_path": "a/b/c"}', "[" * 100_000]
)
def test_a_configuration_that_names_nothing(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    assert hub_name(tmp_path) == tmp_path.name
