import pytest
import torch

from merge_lib.ops.adam import minimise


def test_the_first_step_is_the_sign_of_the_gradient():
    start = torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64)
    moved = minimise(start, lambda point: 3 * point, steps=1, learning_rate=0.1)
    torch.testing.assert_close(moved, torch.tensor([0.9, -1.9, 0.0], dtype=torch.float64), rtol=0, atol=1e-8)
    assert start.tolist() == [1.0, -2.0, 0.0]


@pytest.mark.parametrize("steps", [0, 1, 2, 17])
def test_it_goes_where_torch_goes(steps):
    start = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.nn.Parameter(start.clone())
    optimiser = torch.optim.Adam([target], lr=0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        (target**4).sum().backward()
        optimiser.step()
    ours = minimise(start, lambda point: 4 * point**3, steps=steps, learning_rate=0.02)
    torch.testing.assert_close(ours, target.detach(), rtol=1e-12, atol=1e-12)
