"""What the first modules of a run import: Prefect reads its settings when it is imported, so its server comes first."""

import subprocess
import sys

import pytest

_LOADED = "import sys; from importlib import import_module; import_module(sys.argv[1]); print('prefect' in sys.modules)"


@pytest.mark.parametrize(
    ("module", "is_imported"),
    [
        ("flows.preflight", False),
        ("flows.launch", False),
        ("flows.servers", False),
        ("flows.walk", False),
        ("flows.study", True),
    ],
)
def test_prefect_is_imported_by_the_flow_alone(module, is_imported):
    command = [sys.executable, "-c", _LOADED, module]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(is_imported)
