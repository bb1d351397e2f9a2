"""What a world is worth to agents: how fast it steps, begins and forks, how true its outcomes are, what plans reach.

``python -m tests.benchmarks.agents [--world W] [--only NAME ...] [--json FILE]``, of a world with a state, on an idle
machine. The parts:

``state_only``, ``pixels``: row-steps a second of ``fast`` (OpenVINO) and ``eager`` (PyTorch), ``rows_N``, without and
with pictures. ``….share_of_matmul``: of the rate at which this machine multiplies matrices as large as the model's,
measured in the same run, how much that is, by the operations of a step as PyTorch counts them.
``reset``: milliseconds of a drawn scene, ``drawn.rows_N_ms``. ``fork``: of one row into 64, ``rows_64_ms``, and of the
first step after it beyond any other step, ``first_step_ms``.
``outcome``: reward and end against the rule on the model's own state, as the simulator applies it (Tabletop's alone):
precision, recall, how often the two disagree, and how far expected rewards are from how often they come.
``doubt``: Spearman's correlation, over held-out steps, of the entropy of an entity's ids with its error after 8 steps.
``beginnings``: the share of drawn scenes that the simulator accepts, and of fields whose drawn values differ from
recorded ones by a two-sample Kolmogorov-Smirnov test at 0.001.
``cem``: episodes that planning in the model wins in the simulator, and seconds a decision.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from train.imagine import HELD_OUT, learned_from
from train.worlds.contract import EditableSimulator
from worldmodel.planning import Planner, distance
from worldmodel.storage import default_world
from worldmodel.threads import choose_threads
from worldmodel.world import World

Numbers = dict[str, Any]
ENGINES = {"eager": "torch", "fast": "openvino"}
ROWS = (1, 8, 64)
SIDE = 64 * 39  # rows of a matrix product like a state's pass of 64 rows


def median_ms(call: Callable[[], Any], times: int = 7) -> float:
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - begun))
    return statistics.median(taken)


def matmul_rate(width: int) -> float:
    """Operations a second of a product like the widest of a block's, (SIDE, width) by (width, 4 width)."""
    a, b = torch.randn(SIDE, width), torch.randn(width, 4 * width)
    return 2 * SIDE * width * 4 * width / (median_ms(lambda: a @ b, 31) / 1000)


def step_flops(world: World, draw: bool) -> float:
    """Operations of a step of one row."""
    rollout = world.start(seed=0, draw=draw)
    for _ in range(8):
        rollout.step(world.actions.idle())
    with FlopCounterMode(display=False) as counter:
        rollout.step(world.actions.idle())
    return counter.get_total_flops()


def stepping(worlds: dict[str, World], draw: bool) -> Numbers:
    eager = worlds["eager"]
    rate, flops = matmul_rate(eager.dynamics.config.width), step_flops(eager, draw)
    numbers: Numbers = {"flops": flops, "matmul_gflops": rate / 1e9}
    for name, world in worlds.items():
        for rows in ROWS:
            rollout = world.start(seed=0, draw=draw).fork([0] * rows)
            actions = world.actions.sample(64, rows, generator=torch.Generator().manual_seed(0))
            turn = iter(range(1000))
            for _ in range(6):
                rollout.step(actions[next(turn) % 64])
            each = median_ms(lambda: rollout.step(actions[next(turn) % 64]), 40 if rows < 64 else 10)  # noqa: B023
            per_second = 1000 * rows / each
            numbers.setdefault(name, {})[f"rows_{rows}"] = {
                "row_steps_per_s": per_second,
                "share_of_matmul": per_second * flops / rate,
            }
    return numbers


def resets(world: World) -> Numbers:
    world.start(seed=0)
    drawn = {f"rows_{n}_ms": median_ms(lambda n=n: world.start(seed=7, batch=n), 5) for n in (1, 8, 32)}
    rollout = world.start(seed=0)
    for _ in range(4):
        rollout.step(world.actions.idle())
    return {"drawn": drawn, "step_ms": median_ms(lambda: rollout.step(world.actions.idle()), 20)}


def forks(world: World) -> Numbers:
    rollout, idle = world.start(seed=0, draw=False), world.actions.idle()
    for _ in range(6):
        rollout.step(idle)
    many = rollout.fork([0] * 64)
    first = median_ms(lambda: many.step(idle), 1)
    return {
        "rows_64_ms": median_ms(lambda: rollout.fork([0] * 64), 21),
        "first_step_ms": first - median_ms(lambda: many.step(idle), 5),
    }


def simulator_of(world: World, name: str | None) -> Any:
    found = learned_from(world, name)
    simulator = found.states_only()
    if not isinstance(simulator, EditableSimulator):
        raise ValueError(f"{found.schema.name} has no simulator that goes on from any state: this part needs one")
    return simulator


def outcomes(world: World, name: str | None, rows: int = 64, steps: int = 120) -> Numbers:
    """A player that goes to its goal and about it, so that there are outcomes enough."""
    simulator, schema = simulator_of(world, name), world.schema
    reward = next(iter(schema.role_columns("reward").values())).start
    end = next(iter(schema.role_columns("terminated").values())).start
    rollout, chance = world.start(seed=100, batch=rows, draw=False), np.random.default_rng(0)
    simulator.reset(seed=0)
    told, ruled, ends, expected = [], [], [], []
    for _ in range(steps):
        states = rollout.state.numpy()
        actions = [greedy(world, state, chance) for state in states]
        made = rollout.step(actions)
        for i, state in enumerate(made.state.numpy()):
            try:
                simulator.write_state(state)
            except ValueError:
                continue
            ruled.append(bool(simulator._rests_on_target()))  # what its own steps ask
            told.append(bool(state[reward] > 0.5))
            ends.append(bool(state[end] > 0.5))
            expected.append(float(made.reward_mean[i]))
    return scored(np.array(told), np.array(ruled), np.array(ends), np.array(expected))


def greedy(world: World, state: np.ndarray, chance: np.random.Generator) -> int:
    """Towards the goal, mostly, by the actions that are called as the sides of a table are."""
    schema = world.schema
    here, goal = (state[schema.columns(name, "position")] for name in ("player", "target"))
    away, names = goal - here, list(world.actions.parts[0].names)
    if chance.random() < 0.2 or np.abs(away).max() < 0.05:
        return int(chance.integers(len(names))) if chance.random() < 0.3 else names.index("none")
    x, y = away
    side = ("east" if x > 0 else "west") if abs(x) > abs(y) else ("north" if y > 0 else "south")
    return names.index(side)


def scored(told: np.ndarray, ruled: np.ndarray, ends: np.ndarray, expected: np.ndarray) -> Numbers:
    both = (told & ruled).sum()
    bins = np.digitize(expected, np.linspace(0, 1, 11)[1:-1])
    gaps = [abs(expected[bins == i].mean() - ruled[bins == i].mean()) * (bins == i).mean() for i in set(bins.tolist())]
    return {
        "steps": len(told),
        "events": int(ruled.sum()),
        "precision": float(both / max(1, told.sum())),
        "recall": float(both / max(1, ruled.sum())),
        "disagreement": float((told != ends).mean()),
        "calibration_error": float(sum(gaps)),
    }


def beginnings(world: World, name: str | None, count: int = 128) -> Numbers:
    from scipy.stats import ks_2samp  # pyright: ignore[reportMissingImports]

    simulator, schema, found = simulator_of(world, name), world.schema, learned_from(world, name)
    drawn = torch.cat([world.start(seed=500 + i, batch=32).state for i in range(0, count, 32)]).numpy()
    real = np.stack([simulator.reset(seed=HELD_OUT + i)[1]["state"] for i in range(count)])
    accepted = 0
    for state in drawn:
        try:
            simulator.write_state(state)
            accepted += 1
        except ValueError:
            pass
    differ = [
        schema.value_names[i]
        for i in range(schema.num_values)
        if ks_2samp(drawn[:, i], real[:, i]).pvalue < 0.001  # type: ignore[union-attr]
    ]
    speed = schema.columns("player", "velocity")
    moving = [(np.linalg.norm(states[:, speed], axis=1) > 0.02).mean() for states in (drawn, real)]
    return {
        "recipe": found.schema.name,
        "accepted": accepted / count,
        "fields_that_differ": differ,
        "player_moves": float(moving[0]),
        "player_moves_in_the_simulator": float(moving[1]),
    }


def doubts(world: World, name: str | None, rows: int = 32, steps: int = 8, rounds: int = 6) -> Numbers:
    from scipy.stats import spearmanr  # pyright: ignore[reportMissingImports]

    simulator, schema = simulator_of(world, name), world.schema
    places = {
        e.name: schema.columns(e.name, "position") for e in schema.entities if e.has("position") and e.has("velocity")
    }
    chance = np.random.default_rng(1)
    errors: dict[str, list[float]] = {entity: [] for entity in places}
    doubt: dict[str, list[float]] = {entity: [] for entity in places}
    names = [entity.name for entity in schema.entities]
    for i in range(rounds):
        starts = np.stack([simulator.reset(seed=HELD_OUT + 1000 + rows * i + row)[1]["state"] for row in range(rows)])
        actions = chance.integers(world.actions.num_ids, size=(steps, rows))
        rollout = world.start(state=torch.from_numpy(starts), seed=0, draw=False, doubt=True)
        unsure = torch.zeros(rows, len(names))
        for action in actions:
            made = rollout.step(action.tolist())
            assert made.doubt is not None
            unsure += made.doubt / steps
        for row in range(rows):
            simulator.write_state(starts[row])
            true = starts[row]
            for action in actions[:, row]:
                true = simulator.step(int(action))[4]["state"]
            for entity, columns in places.items():
                if true[schema.columns(entity, "present").start] > 0.5:
                    errors[entity].append(float(np.linalg.norm(made.state[row, columns].numpy() - true[columns])))
                    doubt[entity].append(float(unsure[row, names.index(entity)]))
    together = [[value for one in each.values() for value in one] for each in (doubt, errors)]
    by_entity = {entity: float(spearmanr(doubt[entity], errors[entity]).statistic) for entity in places}  # type: ignore[union-attr]
    return {"spearman": float(spearmanr(*together).statistic), **by_entity}  # type: ignore[union-attr]


def planned(world: World, name: str | None, episodes: int = 50, limit: int = 128, **setting: Any) -> Numbers:
    simulator, schema = simulator_of(world, name), world.schema
    asked: dict[str, Any] = {"method": "cem", "horizon": 16, "held": 4, "samples": 24, "iterations": 2, "elites": 4}
    steps = asked["held"]
    planner = Planner(cost=distance(schema, "player.position", "target.position", last=2.0), **(asked | setting))
    won, seconds = 0, []
    for episode in range(episodes):
        state = simulator.reset(seed=HELD_OUT + episode)[1]["state"]
        planner.reset()
        left, over = limit, False
        while left > 0 and not over:
            begun = time.perf_counter()
            rollout = world.start(state=torch.from_numpy(state)[None], seed=episode, draw=False)
            actions = planner.act(rollout, steps=steps)
            seconds.append(time.perf_counter() - begun)
            for action in actions:
                _, reward, terminated, _, info = simulator.step(int(action))
                state, left, over = info["state"], left - 1, terminated or left <= 1
                if terminated:
                    won += reward > 0
                    break
    return {"success": won / episodes, "seconds_a_decision": statistics.median(seconds), "episodes": episodes}


PARTS: dict[str, Callable[[dict[str, World], str | None], Numbers]] = {
    "state_only": lambda worlds, name: stepping(worlds, draw=False),
    "pixels": lambda worlds, name: stepping(worlds, draw=True),
    "reset": lambda worlds, name: resets(worlds["eager"]),
    "fork": lambda worlds, name: forks(worlds["eager"]),
    "outcome": lambda worlds, name: outcomes(worlds["eager"], name),
    "doubt": lambda worlds, name: doubts(worlds["eager"], name),
    "beginnings": lambda worlds, name: beginnings(worlds["eager"], name),
    "cem": lambda worlds, name: planned(worlds.get("fast", worlds["eager"]), name),
}


def shown(numbers: Numbers, before: str = "") -> list[str]:
    lines = []
    for name, value in numbers.items():
        path = f"{before}{name}"
        lines += (
            shown(value, f"{path}.")
            if isinstance(value, dict)
            else [f"{path:<48} {value:.4g}" if isinstance(value, int | float) else f"{path:<48} {value}"]
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--world")
    parser.add_argument("--env", help="what the world was learned from, if it does not say")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    threads = asked.threads or choose_threads().count
    torch.set_num_threads(threads)
    try:
        worlds = {}
        for name, engine in ENGINES.items():
            try:
                worlds[name] = World.from_pretrained(asked.world, engine=engine)
            except ValueError as error:
                if name == "eager":
                    raise
                print(f"{name}: not measured: {error}", file=sys.stderr)
        numbers: Numbers = {"about": {"world": asked.world or default_world(), "threads": threads}}
        for part in asked.only:
            numbers[part] = PARTS[part](worlds, asked.env)
            print("\n".join(shown({part: numbers[part]})), flush=True)
    except (ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if asked.json:
        asked.json.write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
