import torch
from torch.nn.functional import normalize

from merge_lib.routing.prototypes import prototypes, similarities


def test_a_prototype_joins_text_and_images_without_bringing_either_mean_to_length_one_first():
    classes = torch.tensor([[0.6, 0.0], [0.0, 1.0]])
    inputs = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.6, 0.8]])
    found = prototypes(classes, inputs, torch.tensor([0, 0, 1]))
    # (0.6, 0) + (0.5, 0.5) and (0, 1) + (0.6, 0.8), each then of length 1
    expected = normalize(torch.tensor([[1.1, 0.5], [0.6, 1.8]]), dim=1)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))


def test_a_class_without_an_image_has_its_text_alone():
    classes = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    found = prototypes(classes, torch.tensor([[0.0, 1.0]]), torch.tensor([1]))
    torch.testing.assert_close(found[0], torch.tensor([0.6, 0.8]))
    alone = prototypes(classes, classes[:0], torch.zeros(0, dtype=torch.long))
    torch.testing.assert_close(alone, normalize(classes, dim=1))


def test_an_input_is_as_near_to_a_task_as_to_its_nearest_class():
    tasks = [torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[-1.0, 0.0]])]
    found = similarities(torch.tensor([[0.6, 0.8], [-1.0, 0.0]]), tasks)
    torch.testing.assert_close(found, torch.tensor([[0.8, -0.6], [0.0, 1.0]]))
    assert similarities(torch.zeros(3, 2), []).shape == (3, 0)
