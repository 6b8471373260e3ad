"""Kernels by name: machine code from the cache, compiled by numba where it is not there yet.

Importing numba takes longer than most merges, and memory that a bound may not have room for, so a process of its own
compiles. The machine code is kept as a file: an image that is copied into memory, or, where `linking` does not know
the system, an object file, for which llvmlite is imported. A file's name is a digest of the kernels' sources, the
compilers' versions and the processor; its content begins with a digest of the rest.
"""

import ctypes
import json
import mmap
import os
import struct
import subprocess
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

import xxhash

from merge_lib.errors import MergeError
from merge_lib.user_cache import cache_folder, forget_unused, mark_used

# What numba's wrapper would call to raise an error or to free an array; no kernel does either.
_NEVER_CALLED = (
    "NRT_Free", "NRT_MemInfo_call_dtor", "PyBytes_FromStringAndSize", "PyErr_Clear", "PyErr_SetNone",
    "PyErr_SetString", "PyErr_WriteUnraisable", "PyUnicode_FromString", "Py_DecRef", "numba_do_raise",
    "numba_gil_ensure", "numba_gil_release", "numba_runtime_build_excinfo_struct", "numba_unpickle",
)  # fmt: skip
if sys.platform != "linux" or os.uname().machine != "x86_64":
    import llvmlite.binding  # noqa: F401 -- object files will need it; a bound on memory counts what is there now
_PROTOTYPE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)
_DIGEST_BYTES = 16
_CPUINFO = 8192  # characters: more than the first processor's
_FACTS = frozenset(
    {
        "vendor_id", "cpu family", "model", "model name", "stepping", "flags",
        "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features",
    }
)  # fmt: skip
_KEEP_DAYS, _KEEP_BYTES = 60, 64 << 20  # all kernels of one state of the sources take about 2 MB
_TOLD = 600  # characters of what the compiler printed last
_loaded: dict[str, Callable[[int], int]] = {}
_held: list[Any] = []  # machine code lives as long as these
_lock = Lock()


def load(name: str) -> Callable[[int], int]:
    """The kernel `module.function`; called with the address of its block, it runs without the GIL."""
    with _lock:
        if name not in _loaded:
            path = cache_folder() / "kernels" / f"{name}-{_fingerprint()}.o"
            about, code = _read(path) or _compile_to(path, name)
            placed = _place_image(about, code) if "entry" in about else _place_object(about["symbol"], code)
            _loaded[name] = _PROTOTYPE(placed)
    return _loaded[name]


@cache
def _fingerprint() -> str:
    """Changes with all that the machine code depends on."""
    digest = xxhash.xxh3_128()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    digest.update(json.dumps([version("llvmlite"), version("numba"), *_processor()]).encode())
    return digest.hexdigest()


def _processor() -> list[str]:
    """What machine code for this processor depends on: the model and what it can do."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:  # noqa: PTH123 -- not a file on a disk
            first = file.read(_CPUINFO).partition("\n\n")[0]
    except OSError:
        import llvmlite.binding as llvm

        return [llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]
    return [line for line in first.splitlines() if line.partition(":")[0].strip() in _FACTS]


def _read(path: Path) -> tuple[dict[str, Any], bytes] | None:
    """What is said of the machine code, and the code; None where there are none, or only damaged ones."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    body = content[_DIGEST_BYTES:]
    if xxhash.xxh3_128_digest(body) != content[:_DIGEST_BYTES]:
        return None
    mark_used(path)
    return _decode(body)


def _decode(body: bytes) -> tuple[dict[str, Any], bytes]:
    about, _, code = body.partition(b"\n")
    return json.loads(about), code


def _compile_to(path: Path, name: str) -> tuple[dict[str, Any], bytes]:
    body = _compiled_apart(name)
    with suppress(OSError):  # without a cache it is compiled again the next time
        _keep(path, xxhash.xxh3_128_digest(body) + body)
    return _decode(body)


def _keep(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all; those that other sources or processors have left go in time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    forget_unused(path.parent, keep_days=_KEEP_DAYS, keep_bytes=_KEEP_BYTES)


def _compiled_apart(name: str) -> bytes:
    """A line of JSON and the machine code, from another process."""
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


def _place_image(about: dict[str, Any], code: bytes) -> int:
    """The address of the function, in memory of its own that can no longer be written."""
    memory = mmap.mmap(-1, len(code), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(code)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for place in about["moved"]:
        struct.pack_into("<q", memory, place, struct.unpack_from("<q", memory, place)[0] + start)
    for symbol, places in about["imported"].items():
        for place in places:
            struct.pack_into("<q", memory, place, _address(symbol))
    process = ctypes.CDLL(None, use_errno=True)
    if process.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(len(code)), mmap.PROT_READ | mmap.PROT_EXEC):
        reason = os.strerror(ctypes.get_errno())
        raise MergeError(f"The system does not let this process run compiled kernels: {reason}. Allow it.")
    _held.append(memory)
    return start + about["entry"]


def _address(symbol: str) -> int:
    """Of a function of this process."""
    name = "abort" if symbol in _NEVER_CALLED else symbol
    return ctypes.cast(getattr(ctypes.CDLL(None), name), ctypes.c_void_p).value or 0


def _place_object(symbol: str, code: bytes) -> int:
    """The address of the function, from an object file."""
    import llvmlite.binding as llvm

    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _held.append(engine)
    return engine.get_function_address(symbol)


@cache
def _machine() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_asmprinter()
    llvm.initialize_native_target()
    for symbol in _NEVER_CALLED:
        if llvm.address_of_symbol(symbol) is None:
            llvm.add_symbol(symbol, _address("abort"))
    return llvm.Target.from_default_triple().create_target_machine(codemodel="jitdefault")
