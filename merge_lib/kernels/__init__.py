"""Compiled arithmetic on pieces of tensors, loaded without a compiler once a machine has compiled it.

`loading.load` gives a kernel by name. The other modules hold their sources for numba and are imported only to
compile them. Every kernel takes the address of one block of 64-bit integers, laid out in `calls`.
"""

from pathlib import Path


def modules() -> tuple[str, ...]:
    """The names of all modules here, whose sources decide what kernels compute; none is imported."""
    return tuple(sorted(f"{__name__}.{path.stem}" for path in Path(__file__).parent.glob("[!_]*.py")))
