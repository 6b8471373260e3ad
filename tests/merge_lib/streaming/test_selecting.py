"""Counts of magnitudes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from merge_lib.files.headers import read_header
from merge_lib.kernels import calls as layout
from merge_lib.streaming.calls import Call, Workspace
from merge_lib.streaming.planning import Work
from merge_lib.streaming.scanning import SAMPLE, Inputs, Scan
from merge_lib.streaming.selecting import Wanted, _added, find_largest


def test_more_zeros_than_a_bin_holds():
    """A thread that meets five billion zeros and seven other entries of the first bin."""
    row = np.zeros(layout.ROW_WORDS, np.int64)
    row[layout.ROW_ZEROS] = 5_000_000_000
    call = Call("selection.histogram", (0, 1), words=np.concatenate([np.array([1, 0], np.int64), row]))
    counts = np.array([(5_000_000_000 + 7) % 2**32, 3], np.uint32)
    assert _added([counts, counts], [call, call], 0).tolist() == [2 * (5_000_000_000 + 7), 6]


@pytest.mark.parametrize("sampled_zeros", [False, True], ids=["sample like the whole", "sample of zeros"])
@pytest.mark.parametrize("rank", [1, 700, 120_000, 590_000, 600_000])
def test_ranks_of_bfloat16_magnitudes(tmp_path: Path, rank: int, sampled_zeros: bool) -> None:
    """What a sort finds, whether or not the sample says where it lies."""
    values = torch.randn(600_000, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    if sampled_zeros:
        for start in range(0, len(values), 64 * SAMPLE):
            values[start : start + SAMPLE] = 0
    files = [tmp_path / "base.safetensors", tmp_path / "expert.safetensors"]
    save_file({"w": torch.zeros_like(values)}, files[0])
    save_file({"w": values}, files[1])
    headers = tuple(read_header(file).tensors["w"] for file in files)
    work = Work("w", "merge", "BF16", (600_000,), headers, arithmetic="BF16")
    with Inputs(files, lambda _: None) as inputs:
        scan = Scan([work], inputs, [Workspace(2, 1 << 17)], None)
        (found,) = find_largest(scan, (0, 1), layout.MAGNITUDE, [Wanted(0, rank)])
    bits = values.abs().view(torch.int16).sort(descending=True).values.to(torch.int64) << 16
    assert found.bits == bits[rank - 1]
    assert found.above == int((bits > found.bits).sum())
    assert found.equal == int((bits == found.bits).sum())
