"""Toy tasks of text, and byte-level models of one layer."""

from pathlib import Path

import pytest

from merge_lib.workloads import LanguageConfig, create
from merge_lib.workloads.language.encoding import Limits
from merge_lib.workloads.language.generated import Strings, Words, examples_of, labels_of
from merge_lib.workloads.language.mini import MiniModelConfig, initial_model
from merge_lib.workloads.language.models import LanguageModels
from merge_lib.workloads.language.snapshots import Shares, Source, Wording, make_snapshot, write_snapshot
from merge_lib.workloads.language.tokens import byte_tokenizer
from merge_lib.workloads.pretrained.config import TuningConfig
from merge_lib.workloads.pretrained.locating import locate

SHARES = Shares(seed=0, validation=0.2, test=0.3, most={})
TASKS = {
    "copying": ("copy", ()),
    "counting": ("count", ()),
    "moods": ("words", ("glad", "calm", "wild", "dark")),
}
TARGETS = {"t5": ("q", "v"), "llama": ("q_proj", "v_proj")}


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    """A project's folder: tasks, and a model of each architecture with random weights."""
    root = tmp_path_factory.mktemp("language")
    for name, (kind, labels) in TASKS.items():
        strings, words = Strings(letters=4, longest=4), Words()
        examples = examples_of(kind, name, count=60, seed=1, strings=strings, words=words, labels=labels)
        snapshot = make_snapshot(
            Source(examples, [None] * len(examples)),
            name,
            Wording(name, "{instruction} {input} ="),
            labels_of(kind, strings, labels),
            SHARES,
        )
        write_snapshot(snapshot, root / "data" / "tasks" / f"{name}.jsonl")
    for architecture in ("t5", "llama"):
        config = MiniModelConfig(architecture=architecture, width=16, depth=1, heads=2)
        folder = root / "data" / "models" / f"tiny-{architecture}"
        initial_model(config).save_pretrained(folder)
        byte_tokenizer(architecture).save_pretrained(folder)
    return root


@pytest.fixture(params=["t5", "llama"])
def architecture(request) -> str:
    return request.param


@pytest.fixture
def make_models(root):
    def made(architecture, tuning=None, limits=None):
        located = locate(f"data/models/tiny-{architecture}", root, parts=("model", "tokenizer"))
        return LanguageModels(located, tuning or TuningConfig(), limits or Limits(64, 16, "error"))

    return made


@pytest.fixture
def make_workload(root):
    """Open the toy workload."""

    def opened(architecture="t5", tasks=tuple(TASKS), lora=None, **settings):
        toy = {"name": "language", "model": f"data/models/tiny-{architecture}", "fine_tuning": {"epochs": 1}}
        if lora is not None:
            toy["tuning"] = {"kind": "lora", "lora": {"targets": TARGETS[architecture], "rank": 2} | lora}
        return create(LanguageConfig(**(toy | settings)), tasks=tasks, data=root / "data")

    return opened
