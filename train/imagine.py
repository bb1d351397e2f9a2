"""Trains a policy inside a world, and says what it is worth outside: ``python -m train.imagine --world W --out P``.

The policy learns from imagined steps alone, by Stable-Baselines3. Then it acts in the environment that the world was
learned from, on held-out seeds, beside one that acts by chance and, with ``--compare``, one that was trained there with
as many steps. One table says how often each succeeds, what it earns, and what it cost. ``--policy P`` measures one that
was saved, without training.

``--iterate N``: so many times, the policy then plays in the environment, the world learns from that as well, and the
policy learns on inside. It needs a world that ``train.make`` made of an environment.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from train.data.episode_store import EpisodeStore
from train.making.rounds import Round
from train.making.runner import StageError, alone_in, run
from train.worlds.contract import Recipe
from train.worlds.registry import of_schema, recipe
from train.worlds.saved_policy import shown
from worldmodel.simulator_vector_env import SimulatorVectorEnv
from worldmodel.world import World

ALGORITHMS = ("ppo",)
HELD_OUT = 1_000_000  # the first seed of the episodes that a policy is measured on
SMALLEST = 36  # pixels of a side, below which the library's convolutions (Mnih et al. 2015) have nothing left
POOL = 256  # scenes that imagined episodes begin from, sampled once


@dataclass(kw_only=True)
class Scores:
    """How a policy did in the environment.

    success: share of episodes whose return is above 0. reward: their mean return. length: their mean length in steps.
    real_steps: steps in the environment that it was trained with. wall_s, cpu_s: seconds that its training took.
    """

    success: float
    reward: float
    length: float
    episodes: int
    real_steps: int = 0
    imagined_steps: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0


class Original(gymnasium.Env[Any, Any]):
    """The environment that a world was learned from, with the world's observations: ``pixels``, ``state`` or both."""

    def __init__(self, world: World, found: Recipe, observation: str, limit: int) -> None:
        rows = SimulatorVectorEnv(1, world=world, observation=observation)
        self.observation_space, self.action_space = rows.single_observation_space, rows.single_action_space
        pictured = observation != "state"
        self.simulator = found.make(world.tokenizer.size) if pictured else found.states_only()
        self.observation, self.limit, self.world = observation, limit, world

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._left = self.limit
        observed, info = self.simulator.reset(seed=seed)
        return self._observed(observed, info), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        action = action.item() if isinstance(self.action_space, gymnasium.spaces.Discrete) else action
        observed, reward, terminated, truncated, info = self.simulator.step(action)
        self._left -= 1
        return self._observed(observed, info), float(reward), terminated, truncated or not self._left, {}

    def close(self) -> None:
        self.simulator.close()

    def _observed(self, observed: Any, info: dict[str, Any]) -> Any:
        seen = shown(observed, info)
        if self.observation != "pixels":
            low, high = self.world.schema.value_bounds
            seen["state"] = np.clip(seen["state"], low, high)
        return seen if self.observation == "dict" else seen[self.observation]


def learned_from(world: World, name: str | None = None) -> Recipe:
    """The environment that a world was learned from, by name if one is given. Raises ValueError where nobody says."""
    named = name or world.recipe or of_schema(world.schema)
    if not named:
        raise ValueError("this world does not say what it was learned from: name it by --env")
    return recipe(named)


def scenes(world: World, count: int, seed: int) -> Tensor:
    """States that imagined episodes begin from, (count, num_values), sampled by the world."""
    return torch.cat([world.start(seed=seed + i, batch=min(32, count - i)).state for i in range(0, count, 32)])


def learn(envs: Any, steps: int, seed: int, name: str, begun: Path | None = None) -> Any:
    """A policy that was trained for so many steps, counted over all rows, by PPO (arXiv:1707.06347); ``begun`` is one
    that goes on."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import VecMonitor

    from worldmodel.adapters.sb3 import Scaled

    class Said(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            last = [one["r"] for one in self.model.ep_info_buffer or ()]
            earned = np.mean(last) if last else 0
            print(f"{name}: {self.num_timesteps} steps, episodes earn {earned:.2f}", flush=True)

    if begun is not None:
        policy = PPO.load(begun, env=VecMonitor(envs), device="cpu")
        policy.learn(steps, callback=Said())
        return policy
    space = envs.observation_space
    pictures = isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 3
    several = isinstance(space, gymnasium.spaces.Dict)
    large = pictures and min(space.shape[:2]) >= SMALLEST
    kind = "MultiInputPolicy" if several else "CnnPolicy" if large else "MlpPolicy"
    scaled = {} if pictures or several else {"features_extractor_class": Scaled}
    each = 8 * max(2, min(2048, steps) // envs.num_envs // 8)  # steps of a row between updates, of eight batches
    policy = PPO(
        kind, VecMonitor(envs), seed=seed, device="cpu", policy_kwargs=scaled, learning_rate=1e-3 if scaled else 3e-4,
        n_steps=each, batch_size=each * envs.num_envs // 8, n_epochs=10, gamma=0.97, ent_coef=0.01,
    )  # fmt: skip
    policy.learn(steps, callback=Said())
    return policy


def measured(
    act: Callable[[Any], Any], make: Callable[[], gymnasium.Env[Any, Any]], episodes: int, rows: int = 8
) -> Scores:
    """A policy, from observations (rows, ...) to actions (rows, ...), in episodes whose seeds were held out."""
    returns, lengths = [], []
    envs = [make() for _ in range(min(rows, episodes))]
    try:
        waiting: Iterator[int] = iter(range(episodes))
        running = {i: [env, env.reset(seed=HELD_OUT + next(waiting))[0], 0.0, 0] for i, env in enumerate(envs)}
        while running:
            seen = [one[1] for one in running.values()]
            for i, action in zip(list(running), act(_stacked(seen)), strict=True):
                env = running[i][0]
                running[i][1], reward, terminated, truncated, _ = env.step(action)
                running[i][2] += reward
                running[i][3] += 1
                if terminated or truncated:
                    returns.append(running[i][2])
                    lengths.append(running[i][3])
                    following = next(waiting, None)
                    if following is None:
                        del running[i]
                    else:
                        running[i][1:] = [env.reset(seed=HELD_OUT + following)[0], 0.0, 0]
    finally:
        for env in envs:
            env.close()
    success = float(np.mean([earned > 0 for earned in returns]))
    return Scores(success=success, reward=float(np.mean(returns)), length=float(np.mean(lengths)), episodes=episodes)


def acting(policy: Any) -> Callable[[Any], Any]:
    """What a policy takes for best."""
    return lambda seen: policy.predict(seen, deterministic=True)[0]


def _stacked(seen: list[Any]) -> Any:
    """Observations as a batch of them."""
    several = isinstance(seen[0], dict)
    return {name: np.stack([one[name] for one in seen]) for name in seen[0]} if several else np.stack(seen)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def table(rows: dict[str, Scores]) -> str:
    lines = [f"{'':22}{'success':>8} {'return':>8} {'length':>7} {'real':>8} {'imagined':>9} {'wall':>7} {'cpu':>7}"]
    for name, s in rows.items():
        lines.append(
            f"{name:22}{s.success:>7.1%} {s.reward:>8.2f} {s.length:>7.1f} {s.real_steps:>8} {s.imagined_steps:>9} "
            f"{s.wall_s:>5.0f} s {s.cpu_s:>5.0f} s"
        )
    return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A world, the environment that it was learned from, and what was asked of policies in both."""

    asked: argparse.Namespace
    world: World
    found: Recipe
    observation: str
    recording: Path | None = None  # whose pictures imagined episodes begin from

    def original(self) -> gymnasium.Env[Any, Any]:
        return Original(self.world, self.found, self.observation, self.asked.limit)

    def inside(self, seed: int) -> Any:
        from worldmodel.adapters.sb3 import WorldVecEnv

        starts: Any = None
        if self.world.schema.num_values:
            starts = scenes(self.world, POOL, 1000 * seed)
        elif self.recording is not None:
            starts = moments(EpisodeStore(self.recording), POOL, seed)
        told = {"observation": self.observation, "starts": starts, "max_episode_steps": self.asked.limit}
        return WorldVecEnv(self.asked.rows, world=self.world, **told)

    def outside(self, seed: int) -> Any:
        from stable_baselines3.common.vec_env import DummyVecEnv

        return DummyVecEnv([self.original for _ in range(min(8, self.asked.rows))])

    def train(self, place: str, seed: int, name: str, out: Path | None, begun: Path | None = None) -> Scores:
        """Trains a policy ``imagined`` or ``real``, saves it as ``out`` and measures it."""
        wall, cpu = time.monotonic(), _cpu_seconds()
        envs = self.inside(seed) if place == "imagined" else self.outside(seed)
        envs.seed(seed)
        policy = learn(envs, self.asked.steps, seed, name, begun)
        wall, cpu = time.monotonic() - wall, _cpu_seconds() - cpu
        envs.close()
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            policy.save(out)
        scores = self.measure(acting(policy))
        scores.wall_s, scores.cpu_s = wall, cpu
        setattr(scores, f"{place}_steps", policy.num_timesteps)
        print(table({name: scores}), flush=True)
        return scores

    def measure(self, act: Callable[[Any], Any]) -> Scores:
        return measured(act, self.original, self.asked.episodes)


def moments(store: EpisodeStore, count: int, seed: int) -> list[dict[str, Any]]:
    """Beginnings from recorded pictures, as ``SimulatorVectorEnv.reset`` takes them: the first of ``count`` training
    episodes, or of all. Only these are kept: an episode's pictures would fill the memory."""
    chosen = store.split("train")
    some = np.random.default_rng(seed).permutation(len(chosen))[:count]
    return [{"frames": store.read(chosen[int(i)]).frames[:1].copy()} for i in some]


def imagine(asked: argparse.Namespace) -> dict[str, Scores]:
    """All that was asked for. Raises ValueError, ImportError and OSError with a sentence that says how to mend it."""
    try:
        from stable_baselines3 import PPO
    except ImportError as error:
        raise ImportError("policies need Stable-Baselines3: pip install -c constraints.txt -e '.[sb3]'") from error

    world = World.from_pretrained(asked.world, engine=asked.engine)
    observation = asked.observation or ("state" if world.schema.num_values else "pixels")
    recording = Path(asked.world or "") / "making/recording"
    trial = Trial(
        asked=asked, world=world, found=learned_from(world, asked.env), observation=observation,
        recording=recording if asked.world and recording.is_dir() else None,
    )  # fmt: skip
    scores: dict[str, Scores] = {}
    if asked.policy is not None:
        scores[str(asked.policy)] = trial.measure(acting(PPO.load(asked.policy, device="cpu")))
    elif asked.iterate:
        scores |= iterate(trial)
    else:
        places = ("imagined", "real") if asked.compare else ("imagined",)
        for place in places:
            for seed in range(asked.seed, asked.seed + asked.seeds):
                name, out = f"{place}, seed {seed}", Path(f"{asked.out}_{seed}.zip")
                scores[name] = trial.train(place, seed, name, out if place == "imagined" else None)
    chance = trial.original().action_space
    chance.seed(asked.seed)
    scores["by chance"] = trial.measure(lambda seen: [chance.sample() for _ in _rows(seen)])
    return scores


def steps_of(recording: Path) -> int:
    """Raises ValueError where there is no recording."""
    store = EpisodeStore(recording)
    return sum((store.num_frames(i) - 1) // store.schema.frames_per_step for i in range(len(store)))


def iterate(trial: Trial) -> dict[str, Scores]:
    """A policy that learns inside, and a world that learns from what it does outside, in turns.

    Raises ValueError for a world that ``train.make`` did not make of an environment, StageError where a stage fails.
    """
    asked = trial.asked
    out, scores, begun = Path(asked.world or ""), {}, None
    played = steps_of(out / "making/recording")
    for number in range(asked.iterate + 1):
        name, path = f"round {number}", Path(f"{asked.out}_round{number}.zip")
        if number:
            assert begun is not None
            each = Round(out=out, number=number, policy=begun, episodes=asked.collect, updates=asked.updates)
            with alone_in(each.making):
                run([each.record()])
                run(each.learn())
            world = World.from_pretrained(each.world, engine=asked.engine)
            trial = replace(trial, world=world, recording=each.recording)
            played += steps_of(each.recording)
        scores[name] = trial.train("imagined", asked.seed, name, path, begun)
        scores[name].real_steps = played  # that the world has learned from
        begun = path
    return scores


def _rows(seen: Any) -> Any:
    return next(iter(seen.values())) if isinstance(seen, dict) else seen


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.imagine", description=__doc__)
    parser.add_argument("--world", help="bundled name, world folder or hub id; the default world if left out")
    parser.add_argument("--env", help="what it was learned from, as train.record --world takes it, if it does not say")
    parser.add_argument("--out", type=Path, default=Path("policy"), help="policies are saved as OUT_SEED.zip")
    parser.add_argument("--policy", type=Path, help="measure this one, and train none")
    parser.add_argument("--algo", choices=ALGORITHMS, default="ppo")
    parser.add_argument("--steps", type=int, default=40_000, help="of training, counted over all rows")
    parser.add_argument("--observation", choices=("pixels", "state", "dict"), help="the state, where there is one")
    parser.add_argument("--rows", type=int, default=64, help="imagined episodes at once")
    parser.add_argument("--limit", type=int, default=128, help="most steps of an episode")
    parser.add_argument("--engine", default="torch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1, help="policies to train, from --seed on")
    parser.add_argument("--episodes", type=int, default=200, help="on which each is measured")
    parser.add_argument(
        "--compare", action="store_true", help="also train in the environment itself, with as many steps"
    )
    rounds = parser.add_argument_group("in turns with the environment")
    rounds.add_argument("--iterate", type=int, default=0, metavar="N", help="rounds of playing outside and learning")
    rounds.add_argument("--collect", type=int, default=48, help="episodes that are recorded in each")
    rounds.add_argument("--updates", type=int, default=400, help="of the world's dynamics in each")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    if asked.iterate and (asked.seeds > 1 or asked.compare or asked.policy is not None):
        parser.error("--iterate makes one policy: leave out --seeds, --compare and --policy")
    try:
        scores = imagine(asked)
    except StageError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(scores))
    if asked.json is not None:
        numbers = {name: asdict(row) for name, row in scores.items()}
        asked.json.write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
