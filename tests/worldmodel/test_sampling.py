"""Ids are drawn as often as their probability says, each row from its own dice."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.sampling import MOST, Sampling, sample, uniforms

LOGITS = torch.tensor([-torch.inf, 2.0, 0.5, -torch.inf, -1.0, 1.0])
MANY = 20_000


def shares(temperature: float, top_p: float = 1.0) -> torch.Tensor:
    evenly = ((torch.arange(MANY) + 0.5) / MANY)[None]
    ids, _ = sample(LOGITS.expand(1, MANY, -1), temperature, evenly, top_p)
    return torch.bincount(ids[0], minlength=len(LOGITS)) / MANY


def test_ids_are_drawn_as_often_as_their_probability_says():
    for temperature in (0.5, 1.0, 2.0):
        torch.testing.assert_close(shares(temperature), (LOGITS / temperature).softmax(0), atol=2e-3, rtol=0)


def test_top_p_keeps_the_likeliest_that_make_it_up():
    p = LOGITS.softmax(0)
    kept = torch.tensor([0, 1, 1, 0, 0, 1]) * p  # .62 and .23 are less than .9, with .14 more
    assert p[1] + p[5] < 0.9 < p[1] + p[5] + p[2]
    torch.testing.assert_close(shares(1.0, 0.9), kept / kept.sum(), atol=2e-3, rtol=0)
    assert shares(1.0, 1e-6)[1] == 1


def test_top_p_chooses_among_the_likeliest_of_a_large_codebook():
    logits = torch.zeros(1, 1, 4 * MOST)
    logits[..., ::4] = 1  # MOST of them, and a little more than a third of the probability
    evenly = ((torch.arange(MANY) + 0.5) / MANY)[None]
    ids, _ = sample(logits.expand(1, MANY, -1), 1.0, evenly, 0.9)
    assert set(ids[0].tolist()) == set(range(0, 4 * MOST, 4))


def test_temperature_zero_takes_the_likeliest_and_still_tells_the_probabilities():
    ids, probabilities = sample(LOGITS.expand(2, 3, -1), 0.0, torch.rand(2, 3))
    assert (ids == 1).all()
    torch.testing.assert_close(probabilities, LOGITS.softmax(0).expand(2, 3, -1))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("video_temperature", "guidance") for value in (nan, -1, "1", True, inf, None)),
        *(("top_p", value) for value in (0, 1.5, nan, "x")),
        *(("tokens_per_pass", value) for value in (0, 2.5, "8", True, nan, inf)),
    ],
)
def test_what_cannot_be_drawn_by_is_refused(name: str, value: Any):
    with pytest.raises(ValueError, match=f"^{name} is .*: give a "):
        Sampling(**{name: value})


@settings(deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.3, 1.0, 3.0]), st.sampled_from([0.3, 1.0]))
def test_an_impossible_id_is_never_drawn_not_even_at_the_edges(seed: int, temperature: float, top_p: float):
    chance = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(1, 3, 7, generator=chance)
    ruled_out = torch.rand(1, 3, 7, generator=chance) < 0.6
    ruled_out[..., 3] = False
    logits = logits.masked_fill(ruled_out, -torch.inf)
    for uniform in (0.0, 0.5, 1 - 2**-24):
        ids, probabilities = sample(logits, temperature, torch.full((1, 3), uniform), top_p)
        assert not ruled_out.gather(-1, ids[..., None]).any()
        assert (probabilities[ruled_out] == 0).all()


def test_a_rows_numbers_do_not_depend_on_its_neighbours():
    def dice(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(s) for s in seeds]

    cpu = torch.device("cpu")
    together, alone = uniforms(dice(1, 2, 3), 5, cpu), uniforms(dice(2), 5, cpu)
    assert torch.equal(together[1], alone[0])
    assert ((together >= 0) & (together < 1)).all()
