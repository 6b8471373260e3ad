"""Which texts stand for which class."""

import torch

from merge_lib.workloads.clip.heads import Subject, heads_of, own_head
from merge_lib.workloads.clip.model import class_logits, class_weights

PETS = Subject(("cat", "dog"), ("a {}", "my {}"))
BEASTS = Subject(("dog", "cow"), ("a {}", "the {}"))


def test_a_head_averages_the_texts_of_each_class():
    head = own_head(PETS).head
    assert head.prompts == ("a cat", "my cat", "a dog", "my dog")
    assert head.average.tolist() == [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]
    assert own_head(PETS, most=1).head.prompts == ("a cat", "a dog")


def test_class_weights_are_renormalised_means_of_unit_features():
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, -1.0]])
    weights = class_weights(features, own_head(PETS).head.average)
    torch.testing.assert_close(weights, torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, -1.0]]))
    logits = class_logits(torch.tensor([[0.0, 1.0]]), weights, torch.tensor(10.0))
    torch.testing.assert_close(logits, torch.tensor([[10 * 0.5**0.5, -10.0]]))


def test_tasks_that_are_known_have_their_own_classes():
    targets = heads_of("task-incremental", {"pets": PETS, "beasts": BEASTS})
    assert [targets[task].head.names for task in ("pets", "beasts")] == [("cat", "dog"), ("dog", "cow")]
    assert targets["beasts"].of(torch.tensor([1, 0])).tolist() == [1, 0]


def test_classes_of_all_tasks_stand_once_with_the_templates_of_all_tasks_that_have_them():
    targets = heads_of("class-incremental", {"pets": PETS, "beasts": BEASTS})
    head = targets["pets"].head
    assert head is targets["beasts"].head
    assert dict(zip(head.names, head.texts, strict=True)) == {
        "cat": ("a cat", "my cat"),
        "dog": ("a dog", "my dog", "the dog"),
        "cow": ("a cow", "the cow"),
    }
    assert targets["beasts"].of(torch.tensor([0, 1])).tolist() == [1, 2]
