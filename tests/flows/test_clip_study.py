"""A study of a tiny CLIP from a folder, with adapters, from the first step to the report."""

import pytest
from transformers import CLIPImageProcessorPil

from merge_lib.workloads.clip.mini import initial_model
from merge_lib.workloads.clip.mini_config import Sizes
from merge_lib.workloads.clip.tokens import make_tokenizer
from tasks.journal import results_of

STUDY = """\
study: tiny-clip
workload:
  name: clip
  model: {model}
  zero_shot: [digits-23]
  templates: ["a {{}}"]
  tuning: {{kind: lora, lora: {{rank: 2, targets: [fc1, fc2]}}}}
  fine_tuning: {{epochs: 1, learning_rate: 1.0e-2}}
tasks: [digits-01]
seeds: [0]
regimes: [parallel]
references: []
landscape: false
audit: false
methods: [wise_ft]
"""


@pytest.fixture
def clip(project, tmp_path):
    tokenizer = make_tokenizer(["a b"], length=8)
    sizes = Sizes(image_size=8, patch_size=4, width=8, depth=1, text_depth=1, heads=1)
    initial_model(sizes, tokenizer, 0, length=8).save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    CLIPImageProcessorPil().save_pretrained(tmp_path / "clip")
    (project.root / "studies" / "digits.yaml").write_text(STUDY.format(model=tmp_path / "clip"))
    return project


def test_data_sets_that_are_never_trained_on_are_measured_before_and_after(clip, run, tmp_path):
    run_id, worked = run()
    assert (worked["train"], worked["evaluate"]) == (1, 3)
    rows = {row.label: row for row in results_of(clip, run_id).rows}
    for label in ("base", "expert", "wise_ft"):
        assert 0.0 <= rows[label].probes[-1]["digits-23"] <= 1.0
    # Other files of the model change everything, the batch of evaluation nothing.
    config = tmp_path / "clip" / "config.json"
    config.write_text(config.read_text() + "\n")
    _, again = run("workload.evaluation_batch=8")
    assert (again["pretrain"], again["train"]) == (1, 1)
