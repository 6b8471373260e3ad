"""From a kernel's Python source to machine code for this processor.

`python -m merge_lib.kernels.compiling NAME` writes to the standard output what `loading` reads: a line of JSON, and
the code, as an image where that can be made, else as an object file.
"""

import json
import sys
from dataclasses import asdict
from importlib import import_module

import llvmlite.binding as llvm
from numba import cfunc, types

from merge_lib.kernels.linking import LinkError, link


def compile_kernel(name: str) -> tuple[str, bytes]:
    """Symbol and machine code of the kernel `module.function`."""
    module, _, function = name.partition(".")
    source = getattr(import_module(f"merge_lib.kernels.{module}"), function)
    signature = types.int64(types.CPointer(types.int64))
    compiled = cfunc(signature, nopython=True, error_model="numpy", boundscheck=False)(source)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        reloc="pic",
        codemodel="jitdefault",
    )
    text = compiled.inspect_llvm()
    if "@NRT_MemInfo_alloc" in text or "@NRT_Allocate" in text:
        raise AssertionError(f"Kernel '{name}' allocates memory, for which it would need numba's runtime.")
    return compiled.native_name, machine.emit_object(llvm.parse_assembly(text))


def encode(symbol: str, code: bytes) -> bytes:
    """The line and the code."""
    about = {"symbol": symbol}
    try:
        told = asdict(link(code, symbol))
    except LinkError:  # of another processor or system
        return json.dumps(about).encode() + b"\n" + code
    image = told.pop("code")
    return json.dumps({**about, **told}).encode() + b"\n" + image


if __name__ == "__main__":
    sys.stdout.buffer.write(encode(*compile_kernel(sys.argv[1])))
