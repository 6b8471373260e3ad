import pytest
import torch

from merge_lib.routing.voting import elected, logits, voter_weights

NEAR = torch.tensor([[0.2, 0.6, 0.4], [0.5, 0.5, 0.1]])


def weights_of(similarity, voters=4, weights="mean", include_base=True):
    return voter_weights(similarity, voters=voters, weights=weights, include_base=include_base)


def test_the_most_similar_tasks_vote_and_of_equals_the_one_learned_first():
    assert elected(NEAR, 1).tolist() == [[False, True, False], [True, False, False]]
    assert elected(NEAR, 2).tolist() == [[False, True, True], [True, True, False]]
    assert elected(torch.full((1, 3), 0.5), 2).tolist() == [[True, True, False]]


@pytest.mark.parametrize("include_base", [True, False])
@pytest.mark.parametrize("voters", [1, 2, 4, 11])
@pytest.mark.parametrize("seen", [1, 2, 3])
def test_there_are_min_of_k_and_t_voters_beside_the_base(seen, voters, include_base):
    found = weights_of(NEAR[:, :seen], voters, include_base=include_base)
    assert found.shape == (2, seen + 1)
    assert (found > 0).sum(1).tolist() == [min(voters, seen) + include_base] * 2
    torch.testing.assert_close(found.sum(1), torch.ones(2))


def test_two_tasks_and_the_authors_k_of_four_give_three_voters_that_count_alike():
    torch.testing.assert_close(weights_of(NEAR[:, :2]), torch.full((2, 3), 1 / 3))


def test_without_a_voter_among_the_tasks_the_base_answers_alone():
    assert weights_of(NEAR, 0).tolist() == [[0, 0, 0, 1], [0, 0, 0, 1]]
    assert weights_of(NEAR, 0, "similarity").tolist() == [[0, 0, 0, 1], [0, 0, 0, 1]]
    assert weights_of(NEAR[:, :0]).tolist() == [[1], [1]]


def test_votes_by_similarity_the_base_counting_as_the_voters_on_average():
    found = weights_of(NEAR[:1], 2, "similarity")
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.4, 0.4 * 2 / 3, 1 / 3]]))
    alone = weights_of(NEAR[:1], 2, "similarity", include_base=False)
    torch.testing.assert_close(alone, torch.tensor([[0.0, 0.6, 0.4, 0.0]]))


def test_duplicate_tasks_count_alike():
    found = weights_of(torch.tensor([[0.3, 0.3]]), weights="similarity", include_base=False)
    assert found.tolist() == [[0.5, 0.5, 0.0]]


def test_a_negative_similarity_counts_as_none_and_if_all_are_so_votes_count_alike():
    found = weights_of(torch.tensor([[-0.2, 0.5], [-0.2, -0.5]]), weights="similarity", include_base=False)
    assert found.tolist() == [[0.0, 1.0, 0.0], [0.5, 0.5, 0.0]]


def test_a_voter_says_a_hundred_times_the_cosine():
    said = logits(torch.tensor([[0.6, 0.8]]), torch.tensor([[2.0, 0.0], [0.0, 0.5]]))
    torch.testing.assert_close(said, torch.tensor([[60.0, 80.0]]))
