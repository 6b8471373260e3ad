"""Tensor mathematics that methods share: pure functions, the same result on any number of threads."""
