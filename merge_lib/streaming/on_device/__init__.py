"""The merging kernels as torch operations on a device, and the way of the pieces there and back.

The plan, the statistics, the journal, the files and the digests are those of the route on kernels; only the
calls that merge a piece run here. torch's device "cpu" does for a GPU in the tests.
"""
