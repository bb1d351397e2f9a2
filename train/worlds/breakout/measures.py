"""Whether imagined Breakout is Breakout: ``breakout`` in an evaluation, by picture and by state.

Pictures are 80x80, and so are the positions' units. The real recording is measured alike, under ``recorded_`` keys:
what it gets is as good as a measure can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tokenizer.clip import Episode
from tokenizer.scene import tile_middles
from tokenizer.state_schema import StateSchema
from tokenizer.view import Plane
from train.measure.free_running import captions, in_batches, num_steps
from train.measure.measurement import Numbers
from train.measure.rollout import MARKS
from worldmodel.sampling import Sampling
from worldmodel.world import World

FIELD = (slice(33, 78), slice(4, 76))  # rows and columns between wall, sides and paddle: nothing but the ball is seen
INSIDE = (34.0, 76.0)  # heights at which a ball is wholly there
LIT = 100  # of 255, in its brightest channel: half as bright as the ball
BALL = (5, 4)  # rows and columns that one ball covers at the most
AGREES = 4.0  # pixels
REACH = 8.0  # pixels that a ball may be away, before or after a step, from a brick that it broke
POINTS = (7, 7, 4, 4, 1, 1)  # by row


@dataclass(frozen=True)
class Ball:
    """Where pictures (...) show a ball: place (..., 2) as x and y, NaN where there is none or more than one."""

    place: Tensor
    none: Tensor

    @property
    def one(self) -> Tensor:
        return ~self.place[..., 0].isnan()

    @classmethod
    def seen(cls, pictures: Tensor) -> Ball:
        """In uint8 (..., 80, 80, 3)."""
        lit = pictures[..., FIELD[0], FIELD[1], :].amax(-1) > LIT
        none, ends = ~lit.flatten(-2).any(-1), []
        for size, across in ((BALL[1], lit.any(-2)), (BALL[0], lit.any(-1))):
            first = across.int().argmax(-1)
            last = across.shape[-1] - 1 - across.flip(-1).int().argmax(-1)
            ends.append(torch.where(last - first < size, (first + last + 1) / 2, float("nan")))
        place = torch.stack([ends[0] + FIELD[1].start, ends[1] + FIELD[0].start], -1)
        place = torch.where(place.isnan().any(-1, keepdim=True) | none[..., None], float("nan"), place)
        return cls(place, none)


class Game:
    """States (..., num_values) of Breakout by name."""

    def __init__(self, schema: StateSchema, states: Tensor) -> None:
        def read(entity: str, field: str) -> Tensor:
            return states[..., schema.columns(entity, field)]

        self.ball, self.paddle = read("ball", "position"), read("paddle", "position")[..., 0]
        self.present, self.bricks = read("ball", "present")[..., 0] > 0.5, read("wall", "bricks") > 0.5
        self.score, self.lives = read("game", "score")[..., 0], read("game", "lives")[..., 0]


def _judged(schema: StateSchema, pictures: Tensor, states: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """What holds and where it is asked, by name: pictures (B, T, 80, 80, 3) after each step, states (B, 1 + T, F)."""
    before, after, seen = Game(schema, states[:, :-1]), Game(schema, states[:, 1:]), Ball.seen(pictures)
    inside = after.present & (after.ball[..., 1] > INSIDE[0]) & (after.ball[..., 1] < INSIDE[1])
    away = (seen.place - after.ball).norm(dim=-1)
    assert isinstance(schema.view, Plane)
    assert schema.view.tiles is not None
    middles = tile_middles(schema.view.tiles)
    column, row = middles.long().unbind(-1)
    near = torch.minimum(*((game.ball[..., None, :] - middles).norm(dim=-1) for game in (before, after))) < REACH
    gone, back = before.bricks & ~after.bricks, ~before.bricks & after.bricks
    worth = torch.tensor(POINTS).repeat_interleave(schema.view.tiles.grid[1])
    gained, lost = after.score - before.score, before.lives - after.lives
    always = torch.ones_like(inside)
    return {
        "one_ball": (seen.one, inside),
        "ball_agrees": (seen.one & (away < AGREES), inside),
        "no_ball": (seen.none, ~after.present),
        "bricks_shown": ((pictures[:, :, row, column].amax(-1) > LIT) == after.bricks, always[..., None]),
        "bricks_gone_by_a_hit": (near, gone),
        "bricks_stay_gone": (~back.any(-1) | (after.bricks.all(-1)), always),
        "score_agrees": (gained.round() == (gone * worth).sum(-1), always),
        "lives_lost_with_the_ball": (before.present & ~after.present, lost > 0.5),
    }


def measure_breakout(
    world: World, episodes: Sequence[Episode], *, horizon: int, seed: int, sampling: Sampling
) -> Numbers:
    """Rollouts of ``horizon`` free steps under true actions, from every moment ``horizon`` steps apart.

    ``one_ball``: of the steps after which the state has a ball between wall and paddle, the share whose picture shows
    exactly one there; ``ball_agrees``: and less than 4 pixels from it. ``no_ball``: of those after which it has none,
    the share that shows none. ``bricks_shown``: of all places for bricks, the share that shows what the state says.
    ``bricks_gone_by_a_hit``: of the bricks that go, the share that the ball was near. ``bricks_stay_gone``: steps that
    bring none back, but for a new wall. ``score_agrees``: steps that score what the rows of the bricks gone are worth.
    ``ball_error_8`` and so on: pixels from where the ball was truly, if it was there; ``paddle_error``, likewise;
    ``bricks_error``: share of bricks that are not as they truly were; all with ``copy_last``.
    """
    r, schema = world.tokenizer.frames_per_step, world.schema
    clips = [
        episode.window(begin, horizon)
        for episode in episodes
        for begin in range(0, num_steps(episode, schema.frames_per_step) - horizon + 1, horizon)
    ]
    held: dict[str, list[tuple[Tensor, Tensor]]] = {}
    errors: dict[str, list[Tensor]] = {}
    for rows in in_batches(clips):
        frames, states, actions = (
            torch.from_numpy(np.stack([getattr(clip, name) for clip in rows]))
            for name in ("frames", "states", "actions")
        )
        rollout = world.start(
            captions(world, rows), frames=frames[:, :1], state=states[:, 0], seed=seed, sampling=sampling
        )
        made = [rollout.step(action) for action in actions.unbind(1)]
        shown = torch.stack([step.frames[:, -1].cpu() for step in made], 1)
        led = torch.stack([states[:, 0], *(step.state.cpu() for step in made)], 1)
        for name, (good, asked) in _judged(schema, shown, led).items():
            held.setdefault(name, []).append((good, asked))
        for name, (good, asked) in _judged(schema, frames[:, r::r], states).items():
            held.setdefault(f"recorded_{name}", []).append((good, asked))
        truth = Game(schema, states[:, 1:])
        for suffix, game in (("", Game(schema, led[:, 1:])), ("_copy_last", Game(schema, states[:, :1]))):
            ball = (game.ball - truth.ball).norm(dim=-1)
            both = truth.present & game.present
            errors.setdefault(f"ball_error{suffix}", []).append(torch.where(both, ball, float("nan")))
            errors.setdefault(f"paddle_error{suffix}", []).append((game.paddle - truth.paddle).abs())
            errors.setdefault(f"bricks_error{suffix}", []).append((game.bricks != truth.bricks).float().mean(-1))
    numbers: Numbers = {"rows": len(clips), "horizon": horizon}
    for name, parts in held.items():
        good, asked = (sum(float(count) for count in counts) for counts in zip(*(_counts(*part) for part in parts)))
        numbers[name] = good / asked if asked else None
    for name, parts in errors.items():
        by_step = torch.cat(parts).nanmean(0)
        numbers |= {f"{name}_{mark}": by_step[mark - 1] for mark in MARKS if mark <= horizon}
    return numbers


def _counts(good: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    asked = asked.expand_as(good)
    return (good & asked).sum(), asked.sum()
