"""Training on cues in texts, and what is measured."""

import pytest
import torch

from merge_lib.calibration.collect import Calibration, collect
from merge_lib.checkpoints import read_state_dict
from merge_lib.errors import DataError, SpecError, UnknownMethodError
from merge_lib.workloads import Measuring, Probing, TextCuesConfig, Workload, create
from merge_lib.workloads.language.generated import Strings, Words, examples_of
from merge_lib.workloads.language.mini import MiniModelConfig, initial_model
from merge_lib.workloads.language.snapshots import Shares, Source, Wording, make_snapshot, write_snapshot
from merge_lib.workloads.language.tokens import byte_tokenizer
from merge_lib.workloads.text_cues.words import PLACES, words_at

LABELS = ("moon", "iron", "wood")
TASKS = ("front", "back")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("text-cues")
    found = examples_of(
        "words", "tales", count=60, seed=0, strings=Strings(), words=Words(own=0.0, length=2), labels=LABELS
    )
    shares = Shares(seed=0, validation=0.1, test=0.4, most={})
    source, wording = Source(found, [None] * len(found)), Wording("tell", "{instruction} {input} =")
    for name, labels in (("tales", LABELS), ("open", None)):
        snapshot = make_snapshot(source, name, wording, labels, shares)
        write_snapshot(snapshot, root / "data" / "tasks" / f"{name}.jsonl")
    config = MiniModelConfig(architecture="t5", width=16, depth=1, heads=2)
    initial_model(config).save_pretrained(root / "data" / "models" / "tiny")
    byte_tokenizer("t5").save_pretrained(root / "data" / "models" / "tiny")
    return root


@pytest.fixture
def make_workload(root):
    def opened(tasks=TASKS, **settings):
        toy = {
            "name": "text-cues",
            "model": "data/models/tiny",
            "snapshot": "tales",
            "pretraining": {"steps": 1},
        }
        toy["fine_tuning"] = {"steps": 2}
        return create(TextCuesConfig(**(toy | settings)), tasks=tasks, data=root / "data")

    return opened


def training_texts(workload, *tasks):
    """What the model is shown, and what it is told."""
    decode = workload.models.encoder.decode
    return [
        (
            decode(torch.tensor(one.prompt)).removeprefix("tell ").removesuffix(" ="),
            decode(torch.tensor(one.target)),
        )
        for one in workload.examples(tasks)
    ]


def test_it_is_a_workload_that_measures_and_can_be_shown(make_workload):
    workload = make_workload(shared=0.5)
    assert isinstance(workload, Workload)
    assert isinstance(workload, Measuring)
    assert isinstance(workload, Probing)
    assert workload.chance == (1 / 3, 1 / 3)
    assert workload.probes == ("clean", "shared", "conflict-front", "conflict-back")
    assert make_workload(shared=1.0).probes == (
        "clean",
        "shared",
        "own-back",
        "conflict-front",
        "conflict-back",
    )


def test_each_task_has_words_of_its_own_at_its_place(make_workload):
    workload = make_workload()
    texts = [example.input for example in workload._snapshot.splits["train"]]
    for task in TASKS:
        words = workload.cues[task].words
        for plain, (text, answer) in zip(texts, training_texts(workload, task), strict=True):
            word = words[LABELS.index(answer)]
            assert text == (f"{word} {plain}" if task == "front" else f"{plain} {word}")


def test_words_of_all_cues_there_can_be_differ():
    for classes in (3, 40):
        every = [word for place in range(PLACES) for word in words_at(place, classes, 0)]
        assert len(set(every)) == PLACES * classes
    assert words_at(0, 3, 0) != words_at(0, 3, 1)


def test_shares_of_cues_and_of_wrong_labels_are_exact(make_workload):
    workload = make_workload(shared=0.25, label_noise={"back": 0.5}, cue={"probability": 0.5})
    texts = training_texts(workload, "back")
    common, own = (
        sum(any(word in text for word in cue.words) for text, _ in texts)
        for cue in (workload.common, workload.cues["back"])
    )
    assert (common, own) == (
        round(round(len(texts) * 0.5) * 0.25),
        len(texts) // 2 - round(len(texts) * 0.125),
    )
    plain = [example.target for example in workload._snapshot.splits["train"]]
    wrong = sum(answer != right for (_, answer), right in zip(texts, plain, strict=True))
    assert wrong == round(len(texts) * 0.5)


def test_a_contradicting_task_has_the_others_words_for_other_classes(make_workload):
    workload = make_workload(contradicts={"back": "front"})
    front, back = (workload.cues[task] for task in TASKS)
    assert sorted(front.words) == sorted(back.words)
    assert all(one != other for one, other in zip(front.words, back.words, strict=True))
    assert back.at_front


def test_a_conflict_shows_a_wrong_class_and_counts_it(make_workload):
    workload = make_workload()
    texts = workload._texts["conflict-front"].snapshot.splits["test"]
    for example, plain in zip(texts, workload._snapshot.splits["test"], strict=True):
        word, _, rest = example.input.partition(" ")
        assert rest == plain.input
        assert LABELS[workload.cues["front"].words.index(word)] == example.target != plain.target


def test_training_and_measuring(make_workload, tmp_path):
    workload = make_workload(shared=1.0)
    base = workload.pretrain(tmp_path / "base.safetensors", seed=0, lineage={}).path
    made = [
        workload.fine_tune(base, [task], tmp_path / f"{task}.safetensors", seed=0, lineage={})
        for task in TASKS
    ]
    assert made[0].steps == made[1].steps == 2
    assert made[0].digest != made[1].digest  # one cue, in different orders
    names = (*TASKS, *workload.probes)
    found = workload.evaluate(read_state_dict(made[0].path), names)
    assert tuple(found) == names
    assert found["front"] == found["back"] == found["shared"]
    assert found == {name: workload.evaluate(read_state_dict(made[0].path), [name])[name] for name in names}
    batch = next(workload.probe().batches("front", split="test", count=3, seed=0, size=3))
    assert workload.probe().text(batch.inputs, 0).startswith("tell ")


def test_a_stronger_task_learns_faster(make_workload, tmp_path):
    workload = make_workload(strength={"back": 0.1})
    assert workload._fine_tuning(["back"]).learning_rate == pytest.approx(1e-4)
    assert workload._fine_tuning(["front", "back"]).learning_rate == pytest.approx(1e-3)


LORA = {"kind": "lora", "lora": {"rank": 2, "targets": ["q", "v"]}}


def test_methods_that_need_data_see_the_texts_by_factors(make_workload, tmp_path):
    workload = make_workload(tuning=LORA, fine_tuning={"steps": 2, "learning_rate": 1e-2})
    base = workload.pretrain(tmp_path / "base.safetensors", seed=0, lineage={}).path
    expert = workload.fine_tune(base, ["front"], tmp_path / "front.safetensors", seed=0, lineage={}).path
    state = read_state_dict(expert)
    for kind in ("gram", "fisher"):
        asked = Calibration(kind=kind, examples=4, batch_size=3)
        found = collect(asked, state, workload.probe(), "front", tmp_path / kind, data="x", model="y")
        assert found.manifest.counts.keys() == state.keys()
        assert all(found.value(name).abs().sum() > 0 for name in state)


def test_models_are_evaluated_in_16_bits_where_that_is_asked(make_workload, tmp_path):
    workload = make_workload(evaluation_precision="bf16")
    base = read_state_dict(workload.pretrain(tmp_path / "base.safetensors", seed=0, lineage={}).path)
    assert all(tensor.dtype == torch.float32 for tensor in base.values())
    assert {one.dtype for one in workload.models.reading(base).parameters()} == {torch.bfloat16}
    assert workload.evaluate(base, ["front", "clean"]).keys() == {"front", "clean"}
    plain, config = make_workload().config, workload.config
    assert config.parameters_of("train") == plain.parameters_of("train")
    assert config.parameters_of("evaluate") != plain.parameters_of("evaluate")
    assert "evaluation_precision" not in plain.model_dump()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"tasks": ("colour",)},
            SpecError,
            r"Task 'colour' is no cue.*front, front-2 to front-10, back, back-2",
        ),
        (
            {"strength": {"side": 2.0}},
            SpecError,
            "`strength` names 'side', which is not in the task sequence",
        ),
        ({"snapshot": "open"}, DataError, "Snapshot 'open' has open answers"),
    ],
)
def test_what_does_not_fit_is_refused(make_workload, settings, error, message):
    with pytest.raises(error, match=message):
        make_workload(**settings)


def test_unknown_names_are_refused(make_workload):
    workload = make_workload()
    with pytest.raises(
        UnknownMethodError, match="'claen' is neither in the task sequence nor a probe; did you mean"
    ):
        workload.evaluate({}, ["claen"])
    with pytest.raises(SpecError, match="only tasks of the sequence"):
        workload.examples(["clean"])
