"""Methods that say they work on entries or rows give the same bytes for pieces of a tensor as for the whole."""

from itertools import pairwise

import pytest
import torch

from merge_lib import registry
from merge_lib.arithmetic import accepted
from merge_lib.layers import describe_layers
from merge_lib.ops.chance import TensorGenerator

SHAPE = (9, 1024)
CUTS = (0, 1, 3, 8, 9)  # rows; each holds 1024 entries, as pieces of entries begin at multiples of those
CUTTABLE = [
    info.name
    for info in registry.methods()
    if info.kind == "batch" and info.data == "none" and info.works_on in ("entry", "row")
]


def gather(method, params, pieces, layer):
    """The statistics of a model of one tensor that is seen in pieces."""
    statistics = method.implementation.statistics
    if statistics is None:
        return None
    state = statistics.begin(pieces[0].shape[0], pieces[0].dtype, **params)
    while not state.complete:
        for piece in pieces:
            state = statistics.fold(state, piece, layer)
        state = statistics.close(state)
    return state


def merge(method, params, base, experts, cuts):
    """The merged tensor, or task vector, made piece by piece."""
    layer = describe_layers({"w": tuple(base.shape)})["w"]
    rows = experts - base if method.receives == "task_vectors" else experts
    spans = list(pairwise(cuts))
    statistics = gather(method, params, [rows[:, start:stop] for start, stop in spans], layer)
    merged = []
    for start, stop in spans:
        given = {
            **dict.fromkeys(("task_vectors", "experts"), rows[:, start:stop]),
            "base": base[start:stop],
            "layer": layer,
            "statistics": statistics,
        }
        keywords = accepted(method.implementation.merge, params)
        if method.randomised:
            keywords["generator"] = TensorGenerator(3, "w", offset=start * base.shape[1])
        merged.append(
            method.implementation.merge(*[given[word] for word in method.implementation.takes], **keywords)
        )
    return torch.cat(merged)


@pytest.mark.parametrize("name", CUTTABLE)
def test_pieces_have_the_bytes_of_the_whole(name):
    method = registry.get(name)
    generator = torch.Generator().manual_seed(4)
    base, *experts = torch.randn(4, *SHAPE, generator=generator)
    for task in (-1, 1) if method.decodes else (None,):
        params = method.check_params({} if task is None else {"task": task})
        whole = merge(method, params, base, torch.stack(experts), (0, SHAPE[0]))
        assert torch.equal(merge(method, params, base, torch.stack(experts), CUTS), whole)
