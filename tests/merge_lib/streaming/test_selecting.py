"""Counts of magnitudes."""

import numpy as np

from merge_lib.kernels import calls as layout
from merge_lib.streaming.calls import Call
from merge_lib.streaming.selecting import _added


def test_more_zeros_than_a_bin_holds():
    """A thread that meets five billion zeros and seven other entries of the first bin."""
    row = np.zeros(layout.ROW_WORDS, np.int64)
    row[layout.ROW_ZEROS] = 5_000_000_000
    call = Call("selection.histogram", (0, 1), words=np.concatenate([np.array([1, 0], np.int64), row]))
    counts = np.array([(5_000_000_000 + 7) % 2**32, 3], np.uint32)
    assert _added([counts, counts], [call, call], 0).tolist() == [2 * (5_000_000_000 + 7), 6]
