"""A court of 32 x 32 grey pixels with a paddle that is steered and a ball that bounces, and worlds that get it right or
wrong in one way each. They are no networks: they read the moment from the picture they begin with, and draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenizer.clip import Episode
from tokenizer.state_schema import StateSchema

SIZE, BALL, PADDLE, FLOOR, MARK = 32, 3, 8, 40, 200
SCHEMA = StateSchema(name="court", frames_per_step=1, actions=("stay", "up", "down"))
MOVES = (0, -2, 2)


@dataclass(frozen=True)
class Moment:
    """The ball's corner and direction, and the paddle's upper end. The ball's shade tells its direction."""

    y: int
    x: int
    down: bool
    right: bool
    paddle: int

    def after(self, action: int) -> Moment:
        down = self.down if 0 <= self.y + (1 if self.down else -1) <= SIZE - BALL else not self.down
        right = self.right if 4 <= self.x + (2 if self.right else -2) <= SIZE - BALL else not self.right
        y, x = self.y + (1 if down else -1), self.x + (2 if right else -2)
        return Moment(y, x, down, right, min(max(self.paddle + MOVES[action], 0), SIZE - PADDLE))

    def picture(self) -> np.ndarray:
        grey = np.full((SIZE, SIZE), FLOOR, np.uint8)
        grey[self.paddle : self.paddle + PADDLE, :2] = 120
        grey[self.y : self.y + BALL, self.x : self.x + BALL] = MARK + 2 * self.down + self.right
        return np.repeat(grey[..., None], 3, -1)

    @classmethod
    def read(cls, picture: np.ndarray) -> Moment:
        grey = picture[..., 0]
        (y, x), paddle = np.argwhere(grey >= MARK)[0], np.argwhere(grey == 120)[0]
        shade = int(grey[y, x]) - MARK
        return cls(int(y), int(x), shade >= 2, shade % 2 == 1, int(paddle[0]))


def episodes(count: int = 4, steps: int = 32) -> list[Episode]:
    made = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        # The paddle seldom rests, so it is in no median picture.
        moment = Moment(*rng.integers(4, 24, 2).tolist(), *(rng.random(2) < 0.5).tolist(), paddle=12)
        actions = 1 + np.arange(steps) // rng.integers(6, 9) % 2
        actions[rng.random(steps) < 0.1] = 0
        moments = [moment]
        for action in actions:
            moments.append(moments[-1].after(action))
        frames = np.stack([m.picture() for m in moments])
        made.append(Episode(frames=frames, actions=actions[:, None], frames_per_step=1, seed=seed))
    return made


Painter = Callable[[list[Moment], list[int]], np.ndarray]


def perfect(moments: list[Moment], actions: list[int]) -> np.ndarray:
    """The picture after the actions, where ``moments`` are what truly followed the first one."""
    return moments[-1].picture()


def empty(moments: list[Moment], actions: list[int]) -> np.ndarray:
    return np.full((SIZE, SIZE, 3), FLOOR, np.uint8)


def ballless(moments: list[Moment], actions: list[int]) -> np.ndarray:
    picture = moments[-1].picture()
    return np.where(picture >= MARK, np.uint8(FLOOR), picture)


def frozen(moments: list[Moment], actions: list[int]) -> np.ndarray:
    return moments[0].picture()


def deaf(moments: list[Moment], actions: list[int]) -> np.ndarray:
    return replace(moments[-1], paddle=moments[0].paddle).picture()


def doubling(moments: list[Moment], actions: list[int]) -> np.ndarray:
    now = moments[-1]
    ghost = replace(now, y=(now.y + 12) % (SIZE - BALL), x=4 + (now.x + 8) % (SIZE - BALL - 4))
    return np.maximum(now.picture(), ghost.picture())


def circling(moments: list[Moment], actions: list[int]) -> np.ndarray:
    return moments[1 + (len(actions) - 1) % 5].picture()


def noisy(moments: list[Moment], actions: list[int]) -> np.ndarray:
    """Right, but for grain that no eye sees."""
    rng = np.random.default_rng(len(actions))
    return moments[-1].picture() + rng.integers(0, 5, (SIZE, SIZE, 3), np.uint8)


@dataclass
class ToyRollout:
    paint: Painter
    moments: list[list[Moment]]
    actions: list[list[int]]
    frames: Tensor

    def fork(self) -> ToyRollout:
        return ToyRollout(self.paint, [*map(list, self.moments)], [*map(list, self.actions)], self.frames)

    def step(self, actions: Any) -> SimpleNamespace:
        for moments, done, action in zip(self.moments, self.actions, actions.flatten().tolist(), strict=True):
            moments.append(moments[-1].after(action))
            done.append(action)
        shown = [self.paint(*row) for row in zip(self.moments, self.actions, strict=True)]
        self.frames = torch.from_numpy(np.stack(shown))[:, None]
        rows = len(shown)
        return SimpleNamespace(
            frames=self.frames, state=torch.zeros(rows, 0), reward=torch.zeros(rows), terminated=torch.zeros(rows) > 0
        )


class ToyTokenizer:
    """Ids are shades of grey; ``blind`` ones show the floor alone."""

    frames_per_step, schema, grid, size, num_codes = 1, None, (SIZE, SIZE), (SIZE, SIZE), 256

    def __init__(self, blind: bool) -> None:
        self.blind = blind

    def encode(self, frames: Tensor) -> Tensor:
        return frames[..., 0].long()

    def decode(self, ids: Tensor, states: Tensor | None = None) -> Tensor:
        shown = torch.full_like(ids, FLOOR) if self.blind else ids
        return shown[..., None].expand(*ids.shape, 3).to(torch.uint8)


class ToyWorld:
    schema, actions, text, device = SCHEMA, SCHEMA.actions, None, torch.device("cpu")
    dynamics = SimpleNamespace(config=SimpleNamespace(rewards=False, predict_end=False))

    def __init__(self, paint: Painter, blind: bool = False) -> None:
        self.paint, self.tokenizer = paint, ToyTokenizer(blind)

    def start(self, captions: object, *, frames: Tensor, **_: object) -> ToyRollout:
        begun = [[Moment.read(clip[-1].numpy())] for clip in frames]
        return ToyRollout(self.paint, begun, [[] for _ in begun], frames[:, -1:])
