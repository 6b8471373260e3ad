"""Runs before anything of the package is imported: shapes and types are checked at run time during tests."""

import os
import sys
from types import ModuleType

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors; several threads on busy cores only wait

import beartype
from hypothesis import settings
from jaxtyping import install_import_hook

_checker = ModuleType("checker_for_tests")
_checker.check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))  # density=1 is a float
sys.modules[_checker.__name__] = _checker

install_import_hook(
    ["merge_lib.methods", "merge_lib.continual", "merge_lib.ops", "merge_lib.workloads"],
    "checker_for_tests.check",
)

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=60, database=None)
settings.load_profile("repeatable")
