"""Generated tasks, the command line of the data stages, and the small models."""

import json

import pytest
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from merge_lib.errors import DataError
from merge_lib.workloads.language.generated import SKILLS, Strings, Words, banks, examples_of, labels_of
from merge_lib.workloads.language.mini import KNOWN, MiniModelConfig, lines
from merge_lib.workloads.language.prepare import main
from merge_lib.workloads.language.snapshots import read_snapshot

LABELS = ("land", "sea", "air", "fire")
PARAMS = """\
glyphs: {}
language:
  generated:
    sorting: {kind: sort, instruction: sort, count: 40}
    topics: {kind: words, labels: [land, sea], count: 40, words: {length: 2}}
    odd: {kind: words}
  tasks:
    reviews: {raw: RAW, input: text, target: label, labels: [bad, good], most: {train: 4}}
    gone: {raw: nowhere.jsonl}
  hub:
    news: {dataset: someone/news}
  models:
    tiny-t5: {architecture: t5, width: 16, depth: 1, heads: 2, lines: 20, steps: 2, batch_size: 4}
    tiny-llama: {architecture: llama, width: 16, depth: 1, heads: 2, lines: 20, steps: 2, batch_size: 4}
"""


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """Run the command in a project's folder; its exit code."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    raw = tmp_path / "reviews.jsonl"
    raw.write_text("".join(json.dumps({"text": f"t{n}", "label": n % 2}) + "\n" for n in range(30)))
    (tmp_path / "params.yaml").write_text(PARAMS.replace("RAW", str(raw)))
    place = ["--params", str(tmp_path / "params.yaml"), "--data", str(tmp_path / "data")]
    return lambda *words: main([*place, *words])


def made(kind, *, count=60, labels=(), name="task", seed=0, strings=None, words=None):
    strings, words = strings or Strings(), words or Words()
    return examples_of(kind, name, count=count, seed=seed, strings=strings, words=words, labels=labels)


@pytest.mark.parametrize(
    ("kind", "text", "answer"),
    [
        ("copy", "dab", "dab"),
        ("reverse", "dab", "bad"),
        ("sort", "dabb", "abbd"),
        ("count", "abca", "two"),
        ("first", "dab", "d"),
        ("largest", "dab", "d"),
    ],
)
def test_skills(kind, text, answer):
    assert SKILLS[kind](text) == answer
    labels = labels_of(kind, Strings(), ())
    assert labels is None or answer in labels
    assert all(SKILLS[kind](example.input) == example.target for example in made(kind))


def test_words_of_a_class_and_of_the_task_tell_the_label():
    for name in ("topics", "moods"):
        every = made("words", labels=LABELS, name=name, words=Words(shared=1.0, own=1.0))
        shared = {word: label for label, bank in zip(LABELS, banks(4), strict=True) for word in bank}
        own: dict[str, set[str]] = {}
        for example in every:
            words = example.input.split()
            assert {shared[word] for word in words if word in shared} <= {example.target}
            own.setdefault(example.target, set()).update(word for word in words if word not in shared)
        assert all(len(found) == 1 for found in own.values())
        assert len(set.union(*own.values())) == 4


def test_draws_depend_on_the_seed_and_are_distinct():
    assert made("sort") == made("sort") != made("sort", seed=1)
    assert len({example.input for example in made("sort")}) == 60
    with pytest.raises(DataError, match="should have 60 different inputs, but only 4 were found"):
        made("sort", strings=Strings(letters=2, shortest=2, longest=2))


def test_stages_write_snapshots(prepare, tmp_path):
    assert [
        prepare(*stage.split()) for stage in ("generated sorting", "generated topics", "task reviews")
    ] == [0] * 3
    tasks = {
        name: read_snapshot(tmp_path / f"data/tasks/{name}.jsonl")
        for name in ("sorting", "topics", "reviews")
    }
    assert tasks["sorting"].wording.prompt("cab") == "sort: cab ="
    assert tasks["topics"].labels == ("land", "sea")
    assert len(tasks["reviews"].splits["train"]) == 4


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("generated sortin", "has no 'sortin'; did you mean 'sorting'"),
        ("generated odd", "'odd' of kind words needs `labels`"),
        ("task gone", "Raw data 'nowhere.jsonl' of task 'gone' does not exist"),
        ("task news", "`hf download someone/news --repo-type dataset` puts it there"),
    ],
)
def test_faults_are_told(prepare, capsys, stage, message):
    assert prepare(*stage.split()) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "auto"), [("tiny-t5", AutoModelForSeq2SeqLM), ("tiny-llama", AutoModelForCausalLM)]
)
def test_small_models_load_as_any_other(prepare, tmp_path, name, auto):
    assert prepare("model", name) == 0
    folder = tmp_path / "data/models" / name
    weights = (folder / "model.safetensors").read_bytes()
    tokenizer, model = AutoTokenizer.from_pretrained(folder), auto.from_pretrained(folder)
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.decode(tokenizer("sort: cab =")["input_ids"], skip_special_tokens=True) == "sort: cab ="
    assert prepare("model", name) == 0
    assert (folder / "model.safetensors").read_bytes() == weights


def test_lines_ask_for_everything_that_tasks_ask():
    found = lines(MiniModelConfig(architecture="t5", lines=300))
    assert {example.input.partition(":")[0] for example in found} == set(KNOWN)
    assert max(len(e.input.split()[1]) for e in found if e.input.startswith("sort")) == 4
