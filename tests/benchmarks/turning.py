"""Whether a world seen from within turns as it is told, and moves on as the real one does.

``python -m tests.benchmarks.turning --world W --recording DIR [--left JSON --right JSON] [--json F]``, where DIR is
what W was trained on: with latent actions, the labelled one. Unless they are given, ``left`` and ``right`` are the
actions by which pictures of the training episodes move most to the right and to the left, as where one turns.

``turning.opposite``: of ``PAIRS`` held-out moments, from how many ``HELD`` steps of left move the picture to the right,
and as many of right to the left. ``turning.left``, ``turning.right``: each alone. ``turning.recorded_left``,
``…_right``: how often a recorded step of that action does, which is what can be expected. With ``--replayed N``, N of
the moments are also played in the environment that was recorded: ``turning.itself_opposite``, and of the moments in
which that turns both ways, ``turning.opposite_too``, in how many the world does.

Over ``STEPS`` free steps on recorded actions: ``moving.flow_against_real``, the mean length of the optical flow
(Farneback) over the real one's, ``moving.sharpness_against_real``, the same of the Laplacian's variance, each also of
the last quarter alone, ``…_late``, and ``moving.frozen``: of the steps in which the real picture moves, how many don't.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from tests.benchmarks.pixels import replay
from tokenizer.clip import Episode
from train.data.episode_store import EpisodeStore
from train.measure.free_running import CONTEXT, imagine, in_batches, recorded_actions, start
from train.measure.metrics import laplacian_variance
from train.worlds.gym_world import GymSimulator, GymWorld
from train.worlds.play import draw_episode
from worldmodel.world import World

PAIRS, HELD, STEPS = 50, 8, 64
EPISODES = 24  # from which actions are known
LEAST = 0.02  # of all steps, in which an action must be seen
STILL = 0.05  # pixels of flow, below which nothing moves


def flow(pictures: Tensor) -> np.ndarray:
    """Farneback's optical flow between uint8 pictures (1 + n, H, W, 3): pixels (n, H, W, 2) to the right and down."""
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures.numpy()]
    flows = [
        cv2.calcOpticalFlowFarneback(a, b, np.zeros((*a.shape, 2), np.float32), 0.5, 3, 11, 3, 5, 1.1, 0)
        for a, b in pairwise(grey)
    ]
    return np.stack(flows) if flows else np.zeros((0, *pictures.shape[1:3], 2), np.float32)


def sideways(pictures: Tensor) -> np.ndarray:
    """How far each picture has moved to the right, (n,)."""
    return flow(pictures)[..., 0].mean((1, 2))


def turners(store: EpisodeStore) -> tuple[Any, Any]:
    """The actions of left and right, by training episodes. Raises ValueError where there is no such choice."""
    actions, r = store.schema.actions, store.schema.frames_per_step
    if actions.num_parts != 1 or not hasattr(actions.parts[0], "names"):
        raise ValueError("this recording's actions are not one choice: say --left and --right")
    moved: dict[int, list[float]] = {}
    for index in store.split("train")[:EPISODES]:
        episode = store.read(index)
        if episode.actions is None:
            raise ValueError(f"{store.path} has no actions: name the labelled recording")
        for action, dx in zip(episode.actions[1:, 0], sideways(torch.from_numpy(episode.frames[r::r])), strict=False):
            moved.setdefault(int(action), []).append(float(dx))
    total = sum(map(len, moved.values()))
    mean = {action: float(np.mean(values)) for action, values in moved.items() if len(values) >= LEAST * total}
    left, right = max(mean, key=mean.__getitem__), min(mean, key=mean.__getitem__)
    if not mean[left] > 0 > mean[right]:
        raise ValueError("no two actions move this recording's pictures to either side: say --left and --right")
    return left, right


def moments(store: EpisodeStore, after: int) -> list[tuple[int, Episode, int]]:
    """Held-out episodes, by number, and steps at which a prompt ends, ``after`` steps before the end at least."""
    found: list[tuple[int, Episode, int]] = []
    chosen = [*store.split("test"), *store.split("validation")]
    apart = max(HELD, sum(store.num_frames(i) for i in chosen) // store.schema.frames_per_step // PAIRS)
    for index in chosen:
        episode = store.read(index)
        found += [(index, episode, step) for step in range(CONTEXT, episode.num_steps - after, apart)]
    if not found:
        raise ValueError(f"{store.path} has no held-out episode of {CONTEXT + after} steps: record longer ones")
    return found[:PAIRS]


def turned(pictures: Tensor, sign: int) -> bool:
    """Whether pictures uint8 (n, H, W, 3) move to the right, or, by ``sign`` -1, to the left."""
    return bool(sign * sideways(pictures).mean() > 0)


def replayed(store: EpisodeStore, chosen: list[tuple[int, Episode, int]], left: Any, right: Any) -> np.ndarray:
    """Whether the environment itself turns both ways from each of these moments, bool (n,).

    Raises ValueError where the recording is of no environment, or an episode cannot be played again.
    """
    made_of = GymWorld.load(store.settings["world"])
    simulator, space = GymSimulator(made_of), store.schema.actions
    turns = []
    for index, episode, step in chosen:
        seed, _ = draw_episode(made_of.recipe(), store.settings["seed"], index)
        both = []
        for action, sign in ((left, 1), (right, -1)):
            replay(simulator, episode, seed, step)
            held = space.unflatten(np.atleast_1d(np.asarray(action, dtype=np.float32)))
            both.append(turned(torch.from_numpy(np.stack([simulator.step(held)[0] for _ in range(HELD)])), sign))
        turns.append(all(both))
    return np.array(turns)


def measure_turning(world: World, store: EpisodeStore, left: Any, right: Any, again: int) -> dict[str, float]:
    right_way: dict[str, list[np.ndarray]] = {"left": [], "right": []}
    chosen = moments(store, HELD)
    for rows in in_batches(chosen):
        clips = [episode.window(step - CONTEXT, CONTEXT) for _, episode, step in rows]
        for name, action, sign in (("left", left, 1), ("right", right, -1)):
            rollout = start(world, clips, seed=0, sampling=world.sampling)
            given = np.asarray(action) if isinstance(action, list) else action
            last = imagine(rollout, [given] * HELD).frames[:, :, -1]
            right_way[name].append(np.array([turned(one, sign) for one in last]))
    lefts, rights = (np.concatenate(right_way[name]) for name in ("left", "right"))
    numbers = {"turning.opposite": (lefts & rights).mean()}
    numbers |= {"turning.left": lefts.mean(), "turning.right": rights.mean()}
    if again:
        some = np.linspace(0, len(chosen) - 1, min(again, len(chosen))).astype(int)
        real = replayed(store, [chosen[i] for i in some], left, right)
        numbers["turning.itself_opposite"] = real.mean()
        if real.any():
            numbers["turning.opposite_too"] = (lefts & rights)[some][real].mean()
    recorded: dict[str, list[bool]] = {"left": [], "right": []}
    r = store.schema.frames_per_step
    for index in [*store.split("test"), *store.split("validation")][:EPISODES]:
        episode = store.read(index)
        assert episode.actions is not None
        moved = sideways(torch.from_numpy(episode.frames[r::r]))
        for name, action, sign in (("left", left, 1), ("right", right, -1)):
            same = (episode.actions[1:] == np.asarray(action)).all(1)[: len(moved)]
            recorded[name] += (sign * moved[same] > 0).tolist()
    numbers |= {f"turning.recorded_{name}": np.mean(values) for name, values in recorded.items() if values}
    return {name: float(value) for name, value in numbers.items()}


def measure_moving(world: World, store: EpisodeStore) -> dict[str, float]:
    sums: dict[str, list[float]] = {}
    r, late = store.schema.frames_per_step, slice(3 * STEPS // 4, None)
    still = moved = 0
    for rows in in_batches(moments(store, STEPS)[:16]):
        clips = [episode.window(step - CONTEXT, CONTEXT) for _, episode, step in rows]
        rollout = start(world, clips, seed=0, sampling=world.sampling)
        after = [episode.window(step, STEPS) for _, episode, step in rows]
        made = imagine(rollout, recorded_actions(world, after, STEPS)).frames[:, :, -1]
        for ours, clip in zip(made, after, strict=True):
            real = torch.from_numpy(clip.frames[r::r])
            lengths = [np.linalg.norm(flow(pictures), axis=-1).mean((1, 2)) for pictures in (ours, real)]
            sharp = [laplacian_variance(pictures).numpy() for pictures in (ours, real)]
            for name, (own, true) in {"flow": lengths, "sharpness": sharp}.items():
                for part, steps in (("", slice(None)), ("_late", late)):
                    sums.setdefault(f"{name}{part}", []).append(own[steps].mean())
                    sums.setdefault(f"{name}{part} real", []).append(true[steps].mean())
            moved += int((lengths[1] > STILL).sum())
            still += int(((lengths[1] > STILL) & (lengths[0] < STILL)).sum())
    numbers = {"moving.frozen": still / max(1, moved)}
    for name in ("flow", "flow_late", "sharpness", "sharpness_late"):
        kind, _, when = name.partition("_")
        key = f"moving.{kind}_against_real{'_' + when if when else ''}"
        numbers[key] = float(np.sum(sums[name]) / np.sum(sums[f"{name} real"]))
    return numbers


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--world", required=True)
    parser.add_argument("--recording", type=Path, required=True)
    parser.add_argument("--left", type=json.loads, help="an action, as JSON")
    parser.add_argument("--right", type=json.loads)
    parser.add_argument("--replayed", type=int, default=0, metavar="N")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    try:
        world, store = World.from_pretrained(asked.world), EpisodeStore(asked.recording)
        told = asked.left is not None and asked.right is not None
        left, right = (asked.left, asked.right) if told else turners(store)
        numbers = measure_turning(world, store, left, right, asked.replayed) | measure_moving(world, store)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"left is {left}, right is {right}")
    for name, value in numbers.items():
        print(f"{name:32} {value:.3g}")
    if asked.json:
        asked.json.write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
