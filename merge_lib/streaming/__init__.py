"""Merging at the speed of the disk: planned from headers, streamed in chunks, without importing torch.

`run.merge_to` makes a merge, `preflight.examine` says what it would do; `run.merge_planned` and
`preflight.examine_plan` do so for any other recipe that becomes a `planning.MergePlan`, such as mergekit's.
Methods that have a kernel (`kernels`) run there; all others, and every method of a user's own, run through the
library's torch functions (`torch_route`), with the same bytes.
"""
