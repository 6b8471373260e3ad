"""Compiled arithmetic on pieces of tensors, loaded without a compiler once a machine has compiled it.

`loading.load` gives a kernel by name. The other modules hold their sources for numba and are imported only to
compile them. Every kernel takes the address of one block of 64-bit integers, laid out in `calls`.
"""
