"""mergekit's variant of each method, worked by hand on a few numbers."""

import pytest
import torch

from merge_lib.mergekit.methods.linear import linear, passthrough
from merge_lib.mergekit.methods.sce import sce
from merge_lib.mergekit.methods.sparsify import drop_by_rank, drop_extremes, drop_random, keep_largest
from merge_lib.mergekit.methods.spherical import karcher, multislerp, nuslerp, slerp
from merge_lib.mergekit.methods.task_vectors import breadcrumbs, dare, della, task_arithmetic, ties
from merge_lib.mergekit.methods.towards import arcee_fusion, model_stock, nearswap
from merge_lib.ops.chance import TensorGenerator

ROOT_HALF = 0.5**0.5


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


def close(got, *expected):
    torch.testing.assert_close(got, tensor(*expected), atol=1e-6, rtol=1e-6)


def test_linear_divides_by_the_sum_of_the_weights_where_told():
    experts = rows([1.0, 2.0], [3.0, 6.0])
    close(linear(experts, weight=(1.0, 3.0), normalize=True), 2.5, 5.0)
    close(linear(experts, weight=(1.0, 3.0), normalize=False), 10.0, 20.0)


def test_passthrough_scales():
    close(passthrough(rows([1.0, -2.0]), scale=(0.5,)), 0.5, -1.0)


def test_slerp_interpolates_the_tensors_not_their_directions():
    close(slerp(rows([0.0, 2.0]), tensor(1.0, 0.0), t=0.5), ROOT_HALF, 2 * ROOT_HALF)
    close(slerp(rows([0.0, 2.0]), tensor(1.0, 0.0), t=0.0), 1.0, 0.0)


def test_slerp_of_parallel_tensors_is_a_straight_line():
    close(slerp(rows([3.0, 0.0]), tensor(1.0, 0.0), t=0.25), 1.5, 0.0)


def test_nuslerp_takes_its_place_from_the_weights_and_works_on_task_vectors_with_a_base():
    options = {"flatten": True, "row_wise": False}
    experts = rows([1.0, 0.0], [0.0, 2.0])
    close(nuslerp(experts, None, weight=(1.0, 1.0), **options), ROOT_HALF, 2 * ROOT_HALF)
    close(nuslerp(experts, None, weight=(1.0, -1.0), **options), ROOT_HALF, 2 * ROOT_HALF)
    base = tensor(1.0, 1.0)
    close(nuslerp(experts + base, base, weight=(1.0, 1.0), **options), 1 + ROOT_HALF, 1 + 2 * ROOT_HALF)


def test_nuslerp_turns_every_row_or_every_column_by_itself():
    experts = rows([[1.0, 0.0], [1.0, 0.0]], [[0.0, 2.0], [3.0, 0.0]])
    by_row = nuslerp(experts, None, weight=(1.0, 1.0), flatten=False, row_wise=False)
    close(by_row[0], ROOT_HALF, 2 * ROOT_HALF)
    close(by_row[1], 2.0, 0.0)  # parallel: a straight line
    by_column = nuslerp(experts.mT.contiguous(), None, weight=(1.0, 1.0), flatten=False, row_wise=True)
    torch.testing.assert_close(by_column, by_row.mT)


def test_multislerp_is_the_mean_direction_with_the_mean_length():
    experts = rows([1.0, 0.0], [0.0, 3.0])
    close(multislerp(experts, None, weight=(1.0, 1.0), normalize_weights=True), 2 * ROOT_HALF, 2 * ROOT_HALF)
    close(multislerp(experts, None, weight=(1.0, 1.0), normalize_weights=False), 4 * ROOT_HALF, 4 * ROOT_HALF)
    base = tensor(1.0, 1.0)
    close(
        multislerp(experts + base, base, weight=(1.0, 1.0), normalize_weights=True),
        1 + 2 * ROOT_HALF,
        1 + 2 * ROOT_HALF,
    )


def test_karcher_halves_the_angle_of_two_and_centres_three_axes():
    close(karcher(rows([1.0, 0.0], [0.0, 3.0]), max_iter=10, tol=1e-9), 2 * ROOT_HALF, 2 * ROOT_HALF)
    third = (1 / 3) ** 0.5
    axes = torch.eye(3, dtype=torch.float64)
    close(karcher(axes, max_iter=10, tol=1e-9), third, third, third)
    close(karcher(rows([0.0, 0.0], [0.0, 0.0]), max_iter=10, tol=1e-9), 0.0, 0.0)


def test_karcher_finds_the_mean_angle_where_the_mean_direction_is_another():
    angles = tensor(0.0, 0.1, 1.0)
    experts = torch.stack([torch.cos(angles), torch.sin(angles)], dim=1)
    mean = 1.1 / 3  # on a circle the nearest point has the mean angle
    expected = torch.stack([torch.cos(tensor(mean)), torch.sin(tensor(mean))])[:, 0]
    torch.testing.assert_close(karcher(experts, max_iter=50, tol=1e-12), expected)


def test_task_arithmetic_with_scale_and_division():
    experts, base = rows([2.0, 1.0], [1.0, 4.0]), tensor(1.0, 1.0)
    close(task_arithmetic(experts, base, weight=(1.0, 0.5), normalize=False, scale=1.0), 2.0, 2.5)
    close(task_arithmetic(experts, base, weight=(1.0, 0.5), normalize=True, scale=0.5), 1 + 1 / 3, 1.5)
    cancelled = task_arithmetic(experts, base, weight=(1.0, -1.0), normalize=True, scale=1.0)
    close(cancelled, 2.0, -2.0)  # a sum of 0 divides by 1


def test_ties_elects_signs_on_weighted_task_vectors():
    """One weight, task vectors +3 and −2, weights 0.3 and 0.7: −1.4 outvotes +0.9, and −1.4 / 0.7 = −2."""
    options = {"density": (1.0, 1.0), "rescale": False, "scale": 1.0}
    experts, base = rows([3.0], [-2.0]), tensor(0.0)
    close(ties(experts, base, weight=(0.3, 0.7), normalize=True, **options), -2.0)
    close(ties(experts, base, weight=(0.3, 0.7), normalize=False, **options), -1.4)


def test_ties_trims_each_tensor_and_rescales_where_told():
    experts, base = rows([1.0, -3.0, 2.0, 0.5]), torch.zeros(4, dtype=torch.float64)
    options = {"weight": (1.0,), "density": (0.5,), "normalize": True, "scale": 1.0}
    close(ties(experts, base, rescale=False, **options), 0.0, -3.0, 2.0, 0.0)
    close(ties(experts, base, rescale=True, **options), 0.0, -3.9, 2.6, 0.0)  # 6.5 / 5


def test_among_equal_magnitudes_the_first_is_kept_and_at_least_one_entry():
    close(keep_largest(tensor(1.0, -1.0, 1.0, 2.0), 0.5), 1.0, 0.0, 0.0, 2.0)
    close(keep_largest(tensor(1.0, 3.0), 0.1), 0.0, 3.0)
    close(keep_largest(tensor(1.0, 3.0), 1.0), 1.0, 3.0)


def test_breadcrumbs_drops_both_ends():
    task_vector = tensor(5.0, -1.0, 2.0, 4.0, 3.0)
    close(drop_extremes(task_vector, 0.6, 0.2), 0.0, 0.0, 2.0, 4.0, 3.0)
    close(drop_extremes(task_vector, 0.6, 0.1), 5.0, 0.0, 0.0, 4.0, 3.0)  # ⌊0.1 · 5⌋ = 0: no outliers
    close(drop_extremes(task_vector, 0.8, 0.4), 0.0, -1.0, 2.0, 4.0, 3.0)  # too much asked: one outlier
    base = torch.ones(5, dtype=torch.float64)
    merged = breadcrumbs(
        (base + task_vector)[None],
        base,
        weight=(0.5,),
        density=(0.6,),
        gamma=(0.2,),
        normalize=False,
        rescale=False,
        scale=1.0,
        elect=False,
    )
    close(merged, 1.0, 1.0, 2.0, 3.0, 2.5)


def test_dare_keeps_the_share_and_the_l1_norm():
    generator = TensorGenerator(3, "w")
    base = torch.zeros(20_000, dtype=torch.float64)
    expert = torch.linspace(-1, 1, 20_000, dtype=torch.float64)
    options = {"weight": (1.0,), "density": (0.3,), "normalize": False, "scale": 1.0, "elect": False}
    raw = dare(expert[None], base, rescale=False, generator=generator, **options)
    assert (raw != 0).double().mean() == pytest.approx(0.3, abs=0.015)
    assert torch.equal(raw[raw != 0], expert[raw != 0])
    rescaled = dare(expert[None], base, rescale=True, generator=generator, **options)
    assert rescaled.abs().sum().item() == pytest.approx(expert.abs().sum().item())
    again = dare(expert[None], base, rescale=True, generator=TensorGenerator(3, "w"), **options)
    assert torch.equal(rescaled, again)
    close(drop_random(tensor(1.0, 2.0), 1.0, generator=generator, expert=0), 1.0, 2.0)


def test_della_keeps_large_entries_more_often():
    row = torch.arange(1.0, 5.0, dtype=torch.float64).repeat(40_000, 1)  # ranks 0 … 3 in every row
    kept = drop_by_rank(row, 0.5, 0.3, generator=TensorGenerator(0, "w"), expert=0) != 0
    assert kept.double().mean(dim=0).tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8], abs=0.01)
    single = drop_by_rank(
        torch.ones(40_000, 1).double(), 0.5, 0.3, generator=TensorGenerator(0, "w"), expert=0
    )
    assert single.mean().item() == pytest.approx(0.5, abs=0.01)


def test_della_with_density_one_is_task_arithmetic():
    experts, base = rows([2.0, 1.0], [1.0, 4.0]), tensor(1.0, 1.0)
    merged = della(
        experts,
        base,
        weight=(1.0, 0.5),
        density=(1.0, 1.0),
        epsilon=(0.1, 0.1),
        normalize=False,
        rescale=True,
        scale=1.0,
        elect=False,
        generator=TensorGenerator(0, "w"),
    )
    close(merged, 2.0, 2.5)


def test_model_stock_goes_by_the_angle():
    """Right angle: t = 0, the base. cos 60° and two models: t = 2·½ / 1½ = 2/3."""
    close(model_stock(rows([1.0, 0.0], [0.0, 1.0]), tensor(0.0, 0.0), filter_wise=False), 0.0, 0.0)
    experts = rows([1.0, 0.0], [0.5, 0.75**0.5])
    close(model_stock(experts, tensor(0.0, 0.0), filter_wise=False), 2 / 3 * 0.75, 2 / 3 * 0.75**0.5 / 2)


def test_model_stock_by_rows():
    experts = rows([[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]])
    merged = model_stock(experts, torch.zeros(2, 2, dtype=torch.float64), filter_wise=True)
    close(merged[0], 0.0, 0.0)
    close(merged[1], 1.0, 0.0)


def test_nearswap_moves_by_t_at_most():
    close(nearswap(rows([1.5, 0.95, 3.0]), tensor(1.0, 1.0, 3.0), t=0.1), 1.1, 0.95, 3.0)


def test_sce_weighs_by_energy_and_erases_the_minority():
    """Energies 5 and 20: weights 0.2 and 0.8. Entry 0: both plus. Entry 1: −6 outvotes +1."""
    experts, base = rows([3.0, 1.0], [2.0, -6.0]), tensor(0.0, 0.0)
    close(sce(experts, base, select_topk=1.0), 0.2 * 3 + 0.8 * 2, -6.0)
    close(sce(experts, base, select_topk=0.5), 0.0, -6.0)  # variances 0.25 and 12.25


def test_arcee_fusion_takes_over_what_stands_out():
    base = torch.zeros(1, 8, dtype=torch.float64)
    expert = base.clone()
    expert[0, 3], expert[0, 5] = 4.0, 0.001
    merged = arcee_fusion(expert[None], base)  # six importances of 0: median and quartiles are 0
    torch.testing.assert_close(merged, expert)
    even = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 4.0]], dtype=torch.float64)
    close(arcee_fusion(even[None], base)[0], 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 4.0)
