"""Averages of the weights."""

from __future__ import annotations

import contextlib

import torch
from torch import nn

from guided_diffusion.training.ema import EMA


def constant(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


def test_average_follows_its_recursion_with_warm_up():
    model, rates = nn.Linear(2, 1), [0.5, 0.9999]
    constant(model, 1.0)
    ema = EMA(model, rates)
    expected = dict.fromkeys(rates, 1.0)
    for step in range(1, 30):
        constant(model, float(step))
        ema.update(step)
        for rate in rates:
            decay = min(rate, (1 + step) / (10 + step))
            expected[rate] = decay * expected[rate] + (1 - decay) * step
    for rate in rates:
        for value in ema.state_dict()[f"{rate:g}"].values():
            assert torch.allclose(value, torch.full_like(value, expected[rate]), rtol=1e-5)


def test_initial_weights_are_forgotten_early():
    """Without a warm-up 0.9999 would hold 90 % of the initial weights after 1000 steps."""
    model = nn.Linear(1, 1, bias=False)
    constant(model, 1.0)
    ema = EMA(model, [0.9999])
    constant(model, 0.0)
    for step in range(1, 1001):
        ema.update(step)
    assert float(ema.state_dict()["0.9999"]["weight"]) < 1e-4


def test_averages_taken_over_are_not_wiped_out_by_the_first_steps():
    model = nn.Linear(1, 1, bias=False)
    constant(model, 1.0)
    ema = EMA(model, [0.9999], initial_step=100)
    constant(model, 0.0)
    for step in range(1, 11):
        ema.update(step)
    assert 0.3 < float(ema.state_dict()["0.9999"]["weight"]) < 0.7
    for step in range(11, 401):
        ema.update(step)
    assert float(ema.state_dict()["0.9999"]["weight"]) < 1e-4, "nor kept for longer than a short finetuning lasts"


def test_applied_swaps_and_puts_back_even_after_an_error():
    model = nn.Linear(2, 1)
    ema = EMA(model, [0.5])
    constant(model, 3.0)
    average = ema.state_dict()["0.5"]["weight"].clone()
    with contextlib.suppress(RuntimeError), ema.applied("0.5"):
        assert torch.equal(model.weight, average)
        raise RuntimeError
    assert torch.equal(model.weight, torch.full_like(model.weight, 3.0))


def test_saved_averages_come_back_and_new_rates_start_from_the_slowest():
    model = nn.Linear(2, 1)
    ema = EMA(model, [0.5, 0.99])
    constant(model, 3.0)
    ema.update(1)
    saved = {rate: {name: v.clone() for name, v in weights.items()} for rate, weights in ema.state_dict().items()}
    other = EMA(nn.Linear(2, 1), [0.5, 0.7])
    other.load_state_dict(saved)
    assert torch.equal(other.state_dict()["0.5"]["weight"], saved["0.5"]["weight"])
    assert torch.equal(other.state_dict()["0.7"]["weight"], saved["0.99"]["weight"])
    ema.load_state_dict({})
    assert torch.equal(ema.state_dict()["0.99"]["weight"], model.weight)


def test_rates_that_differ_little_are_averages_of_their_own():
    model = nn.Linear(2, 1)
    assert list(EMA(model, (0.9999, 0.99990001, 0.9999999)).averages) == ["0.9999", "0.99990001", "0.9999999"]
