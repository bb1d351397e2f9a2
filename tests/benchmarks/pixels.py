"""Whether what matters in a game is there, and goes where it is told: counts of things, not errors of pixels.

``python -m tests.benchmarks.pixels --world W --recording DIR [--json F]``, where DIR is what W was trained on, recorded
from ALE/Pong-v5, ALE/Breakout-v5 or MiniGrid. Held-out episodes are imagined on their own actions, from where a prompt
of ``CONTEXT`` steps ends; a game's from where a ball is in play, for no picture tells when one will be served. Of the
last frame of each step:

``game.one_ball``: of the steps in which the real picture has exactly one ball, in how many ours has exactly one too.
``game.no_ball``: in how many it has none.
``game.ball_follows_N``: how often our ball is within 4 pixels of 80 of the real one after N steps, where there is one.
``game.paddle_obeys_N``: the same of the player's own paddle.
``game.bricks_return``: of the steps in which no brick of the real game comes back, in how many one of ours does.
``game.bricks_right_N``: how often every brick that is there after N steps, or is gone, is so in the real one too.
``game.next_exact``, ``game.exact_8``: of a grid world, how often every cell is right after 1 and after 8 steps.

``game.endless_idle_…``, ``game.endless_moving_…`` (with ``--endless N``): of the last half of N steps without an
action, and with random ones. ``one_ball`` and ``balls`` (two or more) count steps; ``sharpness`` and ``palette`` are
those of ``train.evaluate``, against the recorded pictures. Beside them ``game.recorded_one_ball``.

Beside each, ``game.held_…``: the first picture held, what a world that does nothing would get. Of Atari also
``game.tokenizer_…``: the real pictures through the tokenizer, and ``game.itself_…``: the game played again from that
moment by the same actions. It repeats the last action in a quarter of its frames, by chance: no world foresees all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenizer.clip import Episode
from train.data.episode_store import EpisodeStore
from train.measure.content import count_things
from train.measure.endless import ALONE, actions_alone, palette
from train.measure.foreground import median_picture
from train.measure.free_running import CONTEXT, ROWS, imagine, recorded_actions, start
from train.measure.metrics import laplacian_variance
from train.worlds.gym_world import GymSimulator, GymWorld
from train.worlds.play import draw_episode
from worldmodel.sampling import Sampling
from worldmodel.world import World

STEPS = 64
GRID_STEPS = 8  # of a grid world, of which nothing is asked after more
OTHER_LUCK = 7  # frames played elsewhere, so that chance goes another way
NEAR = 40  # levels within which a colour is that colour
CLOSE = 4 / 80  # of the picture's side
SAME = 24  # levels that a cell's mean error may reach


def coloured(pictures: Tensor, *colours: tuple[int, int, int]) -> Tensor:
    """Where pictures uint8 (N, H, W, 3) have one of these colours, bool (N, H, W)."""
    found = [(pictures.int() - torch.tensor(c)).abs().amax(-1) < NEAR for c in colours]
    return torch.stack(found).any(0)


@dataclass(frozen=True)
class Game:
    """ball: masks of it, given pictures and the episode's median. paddle: masks of the player's own. along: the axis on
    which it moves, 1 up and down, 2 left and right. bricks: which of a wall's are there in pictures, (N, bricks)."""

    ball: Callable[[Tensor, Tensor], Tensor]
    paddle: Callable[[Tensor], Tensor]
    along: int
    bricks: Callable[[Tensor], Tensor] | None = None


def _inside(mask: Tensor, top: float, bottom: float, left: float = 0.0, right: float = 1.0) -> Tensor:
    """Of masks (N, H, W), what lies between these shares of height and width."""
    kept, (height, width) = torch.zeros_like(mask), mask.shape[1:]
    box = slice(round(top * height), round(bottom * height)), slice(round(left * width), round(right * width))
    kept[:, box[0], box[1]] = mask[:, box[0], box[1]]
    return kept


def _differs(pictures: Tensor, median: Tensor) -> Tensor:
    return (pictures.int() - median.int()).abs().amax(-1) > NEAR


def breakout_bricks(pictures: Tensor) -> Tensor:
    """Six rows of eighteen, of the game's 210 by 160 pixels six by eight each: what is narrower is a ball."""
    height, width = pictures.shape[1:3]
    rows = ((57 + 6 * torch.arange(6) + 3) / 210 * height).long()
    columns = ((8 + 8 * torch.arange(18)[:, None] + torch.tensor([2, 4, 6])) / 160 * width).long()
    bright = pictures[:, rows].amax(-1) > 2 * NEAR
    return bright[:, :, columns].all(-1).flatten(1)


GAMES = {
    "ALE/Pong": Game(
        ball=lambda seen, median: _inside(
            _differs(seen, median) & coloured(seen, (236, 236, 236)), 0.165, 0.92, 0.12, 0.86
        ),
        paddle=lambda seen: _inside(coloured(seen, (92, 186, 92)), 0.165, 0.92, 0.8, 1.0),
        along=1,
    ),
    "ALE/Breakout": Game(
        ball=lambda seen, median: _inside(
            _differs(seen, median) & coloured(seen, (200, 72, 72)), 0.46, 0.88, 0.06, 0.94
        ),
        paddle=lambda seen: _inside(coloured(seen, (200, 72, 72)), 0.895, 0.93, 0.06, 0.94),
        along=2,
        bricks=breakout_bricks,
    ),
}


def centre(masks: Tensor, along: int) -> Tensor:
    """Mean place of each mask along an axis, (N,); NaN where there is nothing."""
    places = torch.arange(masks.shape[along], dtype=torch.float32)
    return (masks.sum(3 - along) * places).sum(1) / masks.sum((1, 2))


def off(ours: Tensor, real: Tensor, along: int) -> Tensor:
    """How far masks are from others along an axis, in shares of a picture's side, (N,).

    Infinite where ours has nothing, NaN where the real one has nothing.
    """
    there = centre(real, along)
    far = (centre(ours, along).nan_to_num(torch.inf) - there).abs() / real.shape[along]
    return torch.where(there.isnan(), torch.nan, far)


class Shares:
    """How often each thing was so, of how many times it was asked."""

    def __init__(self) -> None:
        self.right: dict[str, int] = defaultdict(int)
        self.asked: dict[str, int] = defaultdict(int)

    def note(self, name: str, good: Tensor, asked: Tensor | None = None) -> None:
        asked = torch.ones_like(good) if asked is None else asked
        self.right[name] += int((good & asked).sum())
        self.asked[name] += int(asked.sum())

    def numbers(self) -> dict[str, float]:
        return {f"game.{name}": self.right[name] / n for name, n in self.asked.items() if n}


def judge_game(game: Game, median: Tensor, real: Tensor, tried: dict[str, Tensor], shares: Shares) -> None:
    """One rollout by several: pictures (1 + T, H, W, 3) each, one before and one of each step."""
    balls, paddles = game.ball(real, median), game.paddle(real)
    one = count_things(balls) == 1
    for name, seen in tried.items():
        ours = game.ball(seen, median)
        count = count_things(ours)
        shares.note(f"{name}one_ball", count[1:] == 1, one[1:])
        shares.note(f"{name}no_ball", count[1:] == 0, one[1:])
        ball = torch.stack([off(ours, balls, along) for along in (1, 2)]).amax(0)
        paddle = off(game.paddle(seen), paddles, game.along)
        for step in (8, 16):
            if step < len(real):
                at = slice(step, step + 1)
                shares.note(f"{name}paddle_obeys_{step}", paddle[at] <= CLOSE, ~paddle[at].isnan())
                shares.note(f"{name}ball_follows_{step}", ball[at] <= CLOSE, one[at])
    if game.bricks is not None:
        judge_wall(game.bricks(real), {name: game.bricks(seen) for name, seen in tried.items()}, shares)


def judge_wall(real: Tensor, tried: dict[str, Tensor], shares: Shares) -> None:
    """Which bricks are there, bool (1 + T, bricks): of the real game and of several others."""

    def back(wall: Tensor) -> Tensor:
        return (wall[1:] & ~wall[:-1]).any(1)

    for name, wall in tried.items():
        shares.note(f"{name}bricks_return", back(wall), ~back(real))
        for step in (8, 16):
            if step < len(real):
                shares.note(f"{name}bricks_right_{step}", (wall[step] == real[step]).all()[None])


def judge_grid(cell: int, real: Tensor, ours: Tensor, shares: Shares) -> None:
    """Every cell of ``cell`` pixels right, of one rollout's pictures (1 + T, H, W, 3)."""

    def right(made: Tensor, truth: Tensor) -> Tensor:
        error = (made.float() - truth.float()).abs().mean(-1)
        return torch.nn.functional.avg_pool2d(error[:, None], cell)[:, 0].amax((1, 2))[:1] <= SAME

    for name, step in (("next_exact", 1), ("exact_8", 8)):
        if step < len(real):
            shares.note(name, right(ours[step : step + 1], real[step : step + 1]))
            shares.note(f"held_{name}", right(real[:1], real[step : step + 1]))


def replay(simulator: GymSimulator, episode: Episode, seed: int, begin: int) -> list[Any]:
    """Plays an episode again up to step ``begin``, and gives all of its actions as the environment takes them. Raises
    ValueError where it cannot be played again."""
    assert episode.actions is not None
    actions = [simulator.world.recorded_schema.actions.unflatten(action) for action in episode.actions]
    picture, _ = simulator.reset(seed=seed)
    for action in actions[:begin]:
        picture = simulator.step(action)[0]
    if (picture != episode.frames[begin * simulator.world.frame_skip]).any():
        raise ValueError("the recorded episode cannot be played again: was it recorded by another version?")
    return actions


def played_again(simulator: GymSimulator, episode: Episode, seed: int, begin: int, steps: int) -> Tensor:
    """An Atari game from step ``begin`` of an episode, by the episode's actions and other luck: the last frame of each
    step, uint8 (T, H, W, 3). Raises ValueError where the episode cannot be played again."""
    ale: Any = simulator.env.get_wrapper_attr("ale")
    actions = replay(simulator, episode, seed, begin)
    state = ale.cloneState()
    for _ in range(OTHER_LUCK):
        ale.act(0)
    ale.restoreState(state)
    return torch.from_numpy(np.stack([simulator.step(action)[0] for action in actions[begin : begin + steps]]))


def measure(
    world: World, store: EpisodeStore, made_of: GymWorld, steps: int, most: int, sampling: Sampling
) -> dict[str, float]:
    """Over at most ``most`` held-out episodes, tests before validation."""
    r, shares, env = world.tokenizer.frames_per_step, Shares(), made_of.env
    chosen = [*store.split("test"), *store.split("validation")][:most]
    episodes = [(i, one) for i, one in zip(chosen, map(store.read, chosen), strict=True) if one.num_steps > CONTEXT + 1]
    game = next((game for name, game in GAMES.items() if env.startswith(name)), None)
    if game is None and not env.startswith("MiniGrid"):
        raise ValueError(f"nothing is known of what matters in {env}: choose Pong, Breakout or MiniGrid")
    steps = GRID_STEPS if game is None else steps
    simulator = None if game is None else GymSimulator(made_of)
    begun = [(i, episode, begin) for i, episode in episodes for begin in beginnings(game, episode, r, steps)]
    for rows in (begun[i : i + ROWS] for i in range(0, len(begun), ROWS)):
        imagined = _imagined(world, [row[1:] for row in rows], steps, sampling)
        for (i, row, begin), ours in zip(rows, imagined, strict=True):
            real = torch.from_numpy(row.frames)
            seen = real[begin * r :: r][: 1 + steps]
            ours = torch.cat([seen[:1], ours])[: len(seen)]
            if game is None or simulator is None:
                judge_grid(seen.shape[1] // 8, seen, ours, shares)
            else:
                clip = torch.from_numpy(row.window(begin, len(seen) - 1).frames)
                through = world.tokenizer.decode(world.tokenizer.encode(clip[None]))[0][::r]
                seed, _ = draw_episode(made_of.recipe(), store.settings["seed"], i)
                again = played_again(simulator, row, seed, begin, len(seen) - 1)
                tried = {"": ours, "tokenizer_": through, "itself_": torch.cat([seen[:1], again])}
                judge_game(game, median_picture(real), seen, tried | {"held_": seen[:1].expand_as(seen)}, shares)
    return shares.numbers()


def measure_endless(
    world: World, store: EpisodeStore, made_of: GymWorld, steps: int, most: int, sampling: Sampling
) -> dict[str, float]:
    """Over at most ``ROWS`` held-out episodes. Raises ValueError for an environment whose ball nothing is known of."""
    game = next((game for name, game in GAMES.items() if made_of.env.startswith(name)), None)
    if game is None:
        raise ValueError(f"nothing is known of a ball in {made_of.env}: leave out --endless")
    chosen = [*store.split("test"), *store.split("validation")][: min(most, ROWS)]
    episodes = [one for one in map(store.read, chosen) if one.num_steps > CONTEXT]
    real = torch.cat([torch.from_numpy(e.frames[:: world.tokenizer.frames_per_step]) for e in episodes])
    median, sharp, colours = median_picture(real), laplacian_variance(real).mean(), palette(real)
    numbers = {"recorded_one_ball": float((count_things(game.ball(real, median)) == 1).float().mean())}
    for name in ALONE:
        generator = torch.Generator().manual_seed(0)
        rollout = start(world, [e.window(0, CONTEXT) for e in episodes], seed=0, sampling=sampling)
        late = []
        for step, action in enumerate(actions_alone(world, name, len(episodes), steps, generator)):
            frames = rollout.step(action).frames[:, -1]
            if step >= steps // 2:
                late.append(frames)
        seen = torch.cat(late)
        count = count_things(game.ball(seen, median))
        numbers |= {
            f"endless_{name}_one_ball": float((count == 1).float().mean()),
            f"endless_{name}_balls": float((count > 1).float().mean()),
            f"endless_{name}_sharpness": float(laplacian_variance(seen).mean() / sharp),
            f"endless_{name}_palette": float(torch.minimum(palette(seen), colours).sum()),
        }
    return {f"game.{key}": value for key, value in numbers.items()}


def beginnings(game: Game | None, episode: Episode, r: int, steps: int) -> list[int]:
    """Steps after a prompt to begin at, ``steps`` apart: of a game those that show one ball."""
    last = (len(episode.frames) - 1) // r - 1
    if game is None:
        return list(range(CONTEXT, last + 1, steps))
    frames, found = torch.from_numpy(episode.frames), []
    one = count_things(game.ball(frames[::r], median_picture(frames))) == 1
    for step in one.nonzero().flatten().tolist():
        if CONTEXT <= step <= last and (not found or step >= found[-1] + steps):
            found.append(step)
    return found


def _imagined(world: World, rows: list[tuple[Episode, int]], steps: int, sampling: Sampling) -> Tensor:
    """The last frame of each step, uint8 (B, T, H, W, 3)."""
    clips = [episode.window(begin - CONTEXT, CONTEXT) for episode, begin in rows]
    rollout = start(world, clips, seed=0, sampling=sampling)
    after = [episode.window(begin, min(steps, episode.num_steps - begin)) for episode, begin in rows]
    return imagine(rollout, recorded_actions(world, after, steps)).frames[:, :, -1]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--world", required=True)
    parser.add_argument("--recording", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument(
        "--video-temperature", type=float, help="the world's own, if nothing is said; so for the next two"
    )
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--tokens-per-pass", type=int)
    parser.add_argument("--endless", type=int, default=0, help="steps to go on for, idle and moving")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    told = {name: getattr(asked, name) for name in ("video_temperature", "top_p", "tokens_per_pass")}
    beside = asked.recording.parent / "world.yaml"  # where train.make writes it
    made_of = GymWorld.load(beside if beside.is_file() else asked.recording / "world.yaml")
    try:
        world, store = World.from_pretrained(asked.world), EpisodeStore(asked.recording)
        sampling = replace(world.sampling, **{name: value for name, value in told.items() if value is not None})
        numbers = measure(world, store, made_of, asked.steps, asked.episodes, sampling)
        if asked.endless:
            numbers |= measure_endless(world, store, made_of, asked.endless, asked.episodes, sampling)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, value in numbers.items():
        print(f"{name:28} {value:.1%}")
    if asked.json:
        asked.json.write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
