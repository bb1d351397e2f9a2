"""What is said of long rollouts, held against pictures whose likeness is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tokenizer.clip import Episode
from train.measure.endless import Renderer, measure_endless, palette
from worldmodel.rollout import Rollout, Step

from ...worldmodel.tiny_world import LIVELY, PLANE, tiny_world


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The last step's pictures, row by row."""
    last: list[Tensor] = []
    step = Rollout.step

    def noted(self: Rollout, action: Tensor) -> Step:
        made = step(self, action)
        last[:] = made.frames[:, -1].unbind(0)
        return made

    monkeypatch.setattr(Rollout, "step", noted)
    return last


def measured(render: Renderer | None) -> dict:
    world = tiny_world()
    frames, states = np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, PLANE.num_values), np.float32)
    states[:, PLANE.columns("player", "size")] = 0.1
    alone = [Episode(frames=frames, actions=np.zeros(0, np.int64), states=states, frames_per_step=2) for _ in range(2)]
    found = measure_endless(world, alone, steps=16, seed=0, sampling=LIVELY, render=render)
    return {name: None if value is None else float(value) for name, value in found.items()}


def test_pictures_like_the_simulators_are_as_sharp_and_as_coloured(shown: list[Tensor]):
    numbers = measured(lambda _: shown.pop(0))
    for name in ("idle", "moving"):
        assert numbers[f"{name}_plausible_16"] == 1
        assert numbers[f"{name}_sharpness_16"] == pytest.approx(1)
        assert numbers[f"{name}_palette_16"] == pytest.approx(1)
        assert numbers[f"{name}_psnr_db_16"] == 100


def test_a_grey_simulator_is_less_sharp_and_of_other_colours(shown: list[Tensor]):
    numbers = measured(lambda _: (torch.full((16, 16, 3), 128) + torch.arange(16)[:, None] % 2).to(torch.uint8))
    assert numbers["moving_sharpness_16"] > 10
    assert numbers["moving_palette_16"] < 0.9
    assert numbers["moving_psnr_db_16"] < 40


def test_states_that_cannot_be_are_counted_and_not_compared(shown: list[Tensor]):
    numbers = measured(lambda _: None)
    assert numbers["idle_plausible_16"] == 0
    assert numbers["idle_sharpness_16"] is None
    half = measured(lambda _: shown.pop(0) if len(shown) == 2 else shown.clear())
    assert half["idle_plausible_16"] == 0.5
    assert half["idle_sharpness_16"] == pytest.approx(1)


def test_a_shade_that_hardly_differs_hardly_changes_the_palette():
    one, next_to_it, other = (torch.full((4, 4, 3), shade, dtype=torch.uint8) for shade in (127, 128, 255))
    assert palette(one).sum() == pytest.approx(1)
    assert torch.minimum(palette(one), palette(next_to_it)).sum() > 0.95
    assert torch.minimum(palette(one), palette(other)).sum() < 0.05


def test_bodies_that_are_no_longer_drawn_are_missed(monkeypatch: pytest.MonkeyPatch):
    step = Rollout.step

    def blank(self: Rollout, action: Tensor) -> Step:
        made = step(self, action)
        self.now = replace(self.now, frames=torch.full_like(self.frames, 90))
        return made

    monkeypatch.setattr(Rollout, "step", blank)
    numbers = measured(None)
    assert numbers["idle_bodies_drawn_16"] == 0
    assert numbers["moving_bodies_constant_16"] == 0
