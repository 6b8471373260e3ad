"""Kernels by name: machine code from the cache, compiled by numba where it is not there yet.

Importing numba takes longer than most merges, and memory that a bound may not have room for, so a process of its own
compiles. The machine code is kept as a file and loaded by llvmlite alone. A file's name is a digest of the kernels'
sources, the compilers' versions and the processor; its content begins with a digest of the rest.
"""

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import xxhash

from merge_lib.errors import MergeError
from merge_lib.user_cache import cache_folder

# What numba's wrapper would call to raise an error or to free an array; no kernel does either.
_NEVER_CALLED = (
    "NRT_Free", "NRT_MemInfo_call_dtor", "PyBytes_FromStringAndSize", "PyErr_Clear", "PyErr_SetNone",
    "PyErr_SetString", "PyErr_WriteUnraisable", "PyUnicode_FromString", "Py_DecRef", "numba_do_raise",
    "numba_gil_ensure", "numba_gil_release", "numba_runtime_build_excinfo_struct", "numba_unpickle",
)  # fmt: skip
_PROTOTYPE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)
_DIGEST_BYTES = 16
_TOLD = 600  # characters of what the compiler printed last
_loaded: dict[str, Callable[[int], int]] = {}
_engines: list[Any] = []  # machine code lives as long as these
_lock = Lock()


def load(name: str) -> Callable[[int], int]:
    """The kernel `module.function`; called with the address of its block, it runs without the GIL."""
    with _lock:
        if name not in _loaded:
            path = cache_folder() / "kernels" / f"{name}-{_fingerprint()}.o"
            symbol, code = _read(path) or _compile_to(path, name)
            _loaded[name] = _PROTOTYPE(_link(symbol, code))
    return _loaded[name]


@cache
def _fingerprint() -> str:
    """Changes with all that the machine code depends on."""
    digest = xxhash.xxh3_128()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    about = [llvmlite.__version__, llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]
    digest.update(json.dumps(about).encode())
    return digest.hexdigest()


def _read(path: Path) -> tuple[str, bytes] | None:
    """Symbol and machine code; None where there are none, or only damaged ones."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    body = content[_DIGEST_BYTES:]
    if xxhash.xxh3_128_digest(body) != content[:_DIGEST_BYTES]:
        return None
    symbol, _, code = body.partition(b"\n")
    return symbol.decode(), code


def _compile_to(path: Path, name: str) -> tuple[str, bytes]:
    body = _compiled_apart(name)
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(OSError):  # without a cache it is compiled again the next time
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(xxhash.xxh3_128_digest(body) + body)
        beside.replace(path)
    symbol, _, code = body.partition(b"\n")
    return symbol.decode(), code


def _compiled_apart(name: str) -> bytes:
    """The symbol, a line's end and the machine code, from another process."""
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    ended = subprocess.run(
        [sys.executable, "-m", "merge_lib.kernels.compiling", name],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        check=False,
    )
    if ended.returncode:
        told = ended.stderr.decode(errors="replace").strip()[-_TOLD:]
        raise MergeError(
            f"The kernel '{name}' could not be compiled: {told} See that `{sys.executable} -c 'import numba'` works."
        )
    return ended.stdout


@cache
def _machine() -> Any:
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_target()
    abort = ctypes.cast(ctypes.CDLL(None).abort, ctypes.c_void_p).value
    for symbol in _NEVER_CALLED:
        if llvm.address_of_symbol(symbol) is None:
            llvm.add_symbol(symbol, abort)
    return llvm.Target.from_default_triple().create_target_machine(codemodel="jitdefault")


def _link(symbol: str, code: bytes) -> int:
    """The address of the function."""
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return engine.get_function_address(symbol)
