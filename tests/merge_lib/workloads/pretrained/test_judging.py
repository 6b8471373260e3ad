"""Judging by the harness's own library, on a task and data that are files."""

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from merge_lib.errors import DataError, SpecError
from merge_lib.workloads.pretrained.judge_tasks import check_known, check_tasks, names_in
from merge_lib.workloads.pretrained.judging import judge
from merge_lib.workloads.pretrained.loading import load_model

CHOICES = ["a", "b", "c", "d"]
WORDS = ["<pad>", "</s>", "<unk>", "copy", ":", "=", *CHOICES]


@pytest.fixture
def tokenizer():
    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")


@pytest.fixture
def tasks(tmp_path):
    """A folder with the task `tiny_copy`: which letter stands in the prompt?"""
    lines = [{"prompt": f"copy : {word} =", "answer": at % 3} for at, word in enumerate(CHOICES)]
    (tmp_path / "copy.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "copy.yaml").write_text(
        f"""
task: tiny_copy
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path}/copy.jsonl}}, cache_dir: {tmp_path}/cache}}
test_split: test
output_type: multiple_choice
doc_to_text: prompt
doc_to_choice: {CHOICES}
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""
    )
    return tmp_path


@pytest.fixture
def model(located, model_class):
    return load_model(located, model_class)


@pytest.mark.parametrize("kind", ["llama"])
def test_the_harness_scores_what_the_model_answers(model, tokenizer, tasks):
    prompts = tokenizer([f"copy : {word} =" for word in CHOICES[:3]], return_tensors="pt")
    letters = torch.tensor(tokenizer.convert_tokens_to_ids(CHOICES))
    with torch.no_grad():
        answers = model(**prompts).logits[:, -1, letters].argmax(1)
    (found,) = judge(model, tokenizer, ["tiny_copy"], include=tasks, limit=3, batch_size=2)
    assert found.value == pytest.approx((answers == torch.arange(3)).double().mean().item())
    assert (found.task, found.metric, found.examples, found.shots) == ("tiny_copy", "acc", 3, 0)
    assert found.is_higher_better


@pytest.mark.parametrize("kind", ["llama"])
def test_what_cannot_be_judged_is_refused(model, tokenizer, tasks, tmp_path):
    with pytest.raises(SpecError, match=r"--include '.*nowhere' is no folder"):
        judge(model, tokenizer, ["tiny_copy"], include=tmp_path / "nowhere")
    (tasks / "copy.jsonl").unlink()
    with pytest.raises(
        DataError, match=r"The tasks tiny_copy could not be judged: .*must be in the Hugging Face"
    ):
        judge(model, tokenizer, ["tiny_copy"], include=tasks)


def test_names_are_found_however_they_are_written(tmp_path):
    written = {
        "one.yaml": "task: plain_one  # a remark\n",
        "two.yaml": "include: _shared\n'task': \"quoted two\"\ntag: [alpha_tag, 'beta_tag']\n",
        "_shared": "tag:\n  - gamma_tag\n- delta_tag\n",
        "group.yaml": "group: whole_group\ntask:\n  - plain_one\n  - task: inner_task\n    num_fewshot: 2\n",
    }
    for name, text in written.items():
        (tmp_path / name).write_text(text)
    names = {"plain_one", "quoted two", "whole_group", "inner_task"}
    names |= {f"{letter}_tag" for letter in ("alpha", "beta", "gamma", "delta")}
    assert names <= names_in(tmp_path)
    check_tasks(sorted(names), tmp_path)
    with pytest.raises(
        SpecError, match=r"not know the tasks 'plain_oen' \(near: plain_one.*\)\. `lm-eval ls"
    ):
        check_known(["plain_oen", "plain_one"], names_in(tmp_path))


@pytest.mark.slow  # the harness has 14,000 files
def test_unknown_tasks_are_told_with_the_nearest_of_the_harness_and_ones_own(tmp_path):
    (tmp_path / "one.yaml").write_text("task: plain_one\n")
    with pytest.raises(
        SpecError,
        match=r"not know the tasks 'plain_oen' \(near: .*plain_one.*\), 'hellaswagg' \(near: hellaswag",
    ):
        check_tasks(["plain_oen", "plain_one", "hellaswagg"], tmp_path)
    check_tasks(["plain_one", "hellaswag", "arc_easy", "mmlu", "RC_tasks"], tmp_path)
