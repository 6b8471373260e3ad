"""The entry to the workloads: light to import, strict about its settings."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from merge_lib import workloads
from merge_lib.errors import DataError, SpecError, UnknownMethodError

SETTINGS = {"name": "vision", "scenario": "class-incremental"}


def test_configuration_is_read_without_torch_and_numpy():
    code = (
        "import sys; from merge_lib import workloads;"
        f"workloads.parse({SETTINGS!r});"
        "print(sorted({'torch', 'numpy', 'PIL', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_data_stages_start_without_torch():
    code = (
        "import sys; import merge_lib.workloads.vision.prepare, merge_lib.workloads.vision.glyphs;"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scenario": "class"}, "class-incremental"),
        ({"model": {"patch_size": 3}}, "image_size 8 is not a multiple of patch_size 3"),
        ({"model": {"heads": 5}}, "width 64 is not a multiple of heads 5"),
        ({"fine_tuning": {"epoch": 3}}, "Extra inputs are not permitted"),
        ({"fine_tuning": {"learning_rate": float("inf")}}, "finite"),
    ],
)
def test_wrong_settings_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        workloads.parse(SETTINGS | change)


def test_a_workload_that_nobody_registered_is_refused():
    with pytest.raises(
        UnknownMethodError, match=r"no workload 'visoin': did you mean 'vision'\?.*`plugins:`"
    ):
        workloads.parse(SETTINGS | {"name": "visoin"})


def test_defaults_are_the_published_ones():
    config = workloads.parse(SETTINGS)
    assert config.data == "data"
    assert (config.model.image_size, config.model.patch_size, config.model.width) == (8, 4, 64)


def test_missing_snapshot_is_named_with_its_remedy(tmp_path):
    with pytest.raises(DataError, match=r"tasks/digits-01\.safetensors' does not exist\. Run `dvc repro`"):
        workloads.create(workloads.parse(SETTINGS), tasks=["digits-01"], data=tmp_path)


@pytest.mark.parametrize("tasks", [[], ["digits-01", "digits-01"]])
def test_task_sequence_names_each_task_once(tmp_path, tasks):
    with pytest.raises(SpecError, match="at least one task, each once"):
        workloads.create(workloads.parse(SETTINGS), tasks=tasks, data=tmp_path)
