"""The data stages of the mini-CLIP."""

import numpy as np
import pytest

from merge_lib.workloads.clip.prepare import main
from merge_lib.workloads.vision.data import read_snapshot

PARAMS = """\
rendered:
  plain: {characters: "abc", count: 90, seed: 4}
  turned: {characters: "abc", count: 90, seed: 4, turn: 90, negative: true}
  styles: {characters: small letters, tells: style, count: 60, templates: ["a letter in {}"]}
  greek: {characters: "αβ", names: [alpha, beta], fonts: [DejaVuSans], count: 60}
mini_clip:
  tiny: {count: 62, epochs: 1, batch_size: 31, sizes: {image_size: 8, width: 8, depth: 1, text_depth: 1, heads: 1}}
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "params.yaml").write_text(PARAMS)
    return lambda *words: main(["--params", f"{tmp_path}/params.yaml", "--data", f"{tmp_path}/data", *words])


def test_rendered_tasks_have_names_and_templates(run, tmp_path):
    for name in ("plain", "turned", "styles", "greek"):
        assert run("rendered", name) == 0
    plain, turned, styles, greek = (
        read_snapshot(tmp_path / "data" / "tasks" / f"{name}.safetensors")
        for name in ("plain", "turned", "styles", "greek")
    )
    assert plain.classes == ("small letter a", "small letter b", "small letter c")
    assert {split: len(part.labels) for split, part in plain.splits.items()} == {
        "train": 54,
        "validation": 9,
        "test": 27,
    }
    assert (turned.splits["test"].images == 16 - np.rot90(plain.splits["test"].images, 1, axes=(1, 2))).all()
    assert styles.classes == ("upright", "bold", "italic", "bold italic")
    assert styles.templates == ("a letter in {}",)
    assert greek.classes == ("alpha", "beta")
    images = [image.tobytes() for part in plain.splits.values() for image in part.images]
    assert len(set(images)) == len(images)


def test_a_model_is_written_as_save_pretrained_does(run, tmp_path):
    assert run("model", "tiny") == 0
    names = {path.name for path in (tmp_path / "data" / "models" / "tiny").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"} <= names


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("rendered: {x: {characters: abc, count: 90}}", "no 'plain'; did you mean"),
        ("rendered: {plain: {characters: αβ, count: 90}}", "α, β are neither digits nor Latin letters"),
        ("rendered: {plain: {characters: ab, names: [a], count: 90}}", "1 names, but there are 2 characters"),
        ("rendered: {plain: {characters: ab, fonts: [Times], count: 90}}", "begin the name of no font"),
        (
            "rendered: {plain: {characters: ab, count: 90, templates: [the]}}",
            "templates.0: String should match",
        ),
    ],
)
def test_wrong_parameters_are_explained(run, tmp_path, capsys, params, message):
    (tmp_path / "params.yaml").write_text(params)
    assert run("rendered", "plain") == 1
    assert message.split("did")[0] in capsys.readouterr().err
