"""The loop of `merge_lib.recurrent.rounds`, on two linear regressions through one low-rank adapter."""

import copy

import pytest
import torch

from merge_lib.recurrent import (
    CODE,
    PAPER,
    Cells,
    Recurrence,
    begin_task,
    fuse,
    observe,
    replay_batch,
    select_examples,
)

INPUTS, OUTPUTS, RANK, EXAMPLES, STEPS = 10, 6, 3, 200, 200


class Adapted(torch.nn.Module):
    """y = BAx: the base is 0."""

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.lora_A = torch.nn.Parameter(torch.randn(RANK, INPUTS, generator=generator) / INPUTS**0.5)
        self.lora_B = torch.nn.Parameter(torch.zeros(OUTPUTS, RANK))

    def forward(self, inputs):
        return inputs @ self.lora_A.T @ self.lora_B.T


def regression(seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(EXAMPLES, INPUTS, generator=generator)
    weight = torch.randn(OUTPUTS, INPUTS, generator=generator)
    return inputs, inputs @ weight.T


def loss(model, data):
    inputs, targets = data
    return torch.nn.functional.mse_loss(model(inputs), targets)


def loss_of(model, data):
    with torch.no_grad():
        return loss(model, data).item()


def trainable(model):
    return dict(model.named_parameters())


def write(model, parameters):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(parameters[name])


def step(model, optimiser, data):
    optimiser.zero_grad()
    loss(model, data).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def task_batch(data, number):
    start = number * 8 % EXAMPLES
    return tuple(part[start : start + 8] for part in data)


def learn_alone(model, data):
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.02)
    for number in range(STEPS):
        step(model, optimiser, task_batch(data, number))


def learn_in_rounds(model, data, memory, recurrence):
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.02)
    rounds, done = begin_task(trainable(model)), 0
    while done < STEPS or rounds.phase(recurrence) != "inner":
        phase = rounds.phase(recurrence)
        if phase == "fusion":
            fused = fuse(rounds, trainable(model), recurrence)
            write(model, fused.parameters)
            rounds = fused.rounds
            continue
        places = list(replay_batch(len(memory[0]), 8, step=rounds.outer.steps))
        batch = task_batch(data, done) if phase == "inner" else tuple(part[places] for part in memory)
        gradients = step(model, optimiser, batch)
        rounds = observe(rounds, trainable(model), gradients, recurrence)
        done += phase == "inner"
    return rounds


@pytest.fixture(scope="module")
def learned():
    """The two tasks, a model that learned the first, and one that then learned the second as well."""
    first, second = regression(1), regression(2)
    start = Adapted(seed=3)
    learn_alone(start, first)
    sequential = copy.deepcopy(start)
    learn_alone(sequential, second)
    return first, second, start, sequential


def in_rounds(learned, recurrence):
    """What a model that learns the second task in rounds loses of the first, and its loss on the second."""
    first, second, start, _ = learned
    model = copy.deepcopy(start)
    places = list(select_examples([0] * EXAMPLES, share=0.1))
    rounds = learn_in_rounds(model, second, tuple(part[places] for part in first), recurrence)
    assert (rounds.fusions, rounds.inner_done) == (STEPS // 8, 0)
    return loss_of(model, first) - loss_of(start, first), loss_of(model, second)


@pytest.mark.parametrize(
    "recurrence", [CODE, PAPER, Recurrence(weights="soft")], ids=["code", "paper", "soft"]
)
def test_less_is_forgotten_than_by_training_in_sequence(learned, recurrence):
    first, second, start, sequential = learned
    forgotten, left = in_rounds(learned, recurrence)
    assert forgotten < 0.6 * (loss_of(sequential, first) - loss_of(start, first))
    assert left < 0.5 * loss_of(start, second)  # and it learned the second


def test_the_fusion_does_more_than_the_memory_alone(learned):
    ones = dict.fromkeys(("shared", "new", "historical", "redundant"), (1.0, 1.0))
    alternating, _ = in_rounds(learned, Recurrence(weights=Cells(**ones)))
    assert in_rounds(learned, CODE)[0] < 0.75 * alternating
