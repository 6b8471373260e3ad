"""mergekit's variant of each method, as pure functions of one tensor.

Arithmetic is in the tensors' own dtype, as in mergekit: a recipe's `dtype` says which.
"""
