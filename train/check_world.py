"""Holds a world against the contract: ``python -m train.check_world NAME`` or ``my_package.my_world:RECIPE``.

Plays it a little and prints a sentence for each fault, as ``gymnasium.utils.env_checker`` does for environments. What
it must hold to stands in ``worlds/contract.py``. Ends with 1 where there is a fault.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import torch

from tokenizer.action_space import ActionSpace
from tokenizer.state_schema import StateSchema
from train.worlds import play
from train.worlds.contract import EditableSimulator, Recipe, Simulator, Size
from train.worlds.registry import names, recipe

STEPS = 12  # of an episode
SEED = 0
EVENTS = 8


def faults(world: Recipe) -> list[str]:
    """Every fault that playing a little finds, each once."""
    checks: tuple[Callable[[Recipe], Iterator[str]], ...] = (
        _recipe_faults,
        _page_faults,
        _space_faults,
        _behaviour_faults,
        _determinism_faults,
        _simulate_faults,
        _edit_faults,
        _event_faults,
        _claim_faults,
    )
    found: list[str] = []
    for check in checks:
        try:
            found += check(world)
        except ImportError:
            raise  # the simulator is not installed, which says nothing of it
        except Exception as error:  # whatever a world of others may raise is a fault of it
            found.append(f"{check.__name__.strip('_').replace('_', ' ')} could not be looked for: {_said(error)}")
    return list(dict.fromkeys(found))


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _recipe_faults(world: Recipe) -> Iterator[str]:
    if StateSchema.from_json(world.schema.to_json()) != world.schema:
        yield "the schema is another one once it was written as JSON and read"
    if not world.sizes:
        yield "the recipe names no size: give at least one (height, width)"
    for size in world.sizes:
        if len(size) != 2 or any(not isinstance(side, int) or side < 1 for side in size):
            yield f"a size is (height, width) in pixels, not {size!r}"
    if bool(world.shares) != (world.behaviour is not None):
        yield "shares and behaviour go together: give both, or neither for actions drawn from the action space"
    if world.shares and abs(sum(world.shares.values()) - 1) > 1e-6:
        yield f"the shares of the behaviours add up to {sum(world.shares.values()):g}, not to 1"
    if world.event is not None and not world.editable:
        yield "events are edits of a state: the recipe must be editable"
    for bar in world.bars:
        if len(bar.key.split(".")) != 2:
            yield f"a bar's key is part.name, not {bar.key!r}"
    if world.folder is not None and not world.folder.is_dir():
        yield f"the recipe's folder {world.folder} is not there"


def _page_faults(world: Recipe) -> Iterator[str]:
    for name in sorted(set(world.page) - {"name", "intro", "examples", "event", "keys"}):
        yield f"the page has name, intro, examples, event and keys, not {name!r}"
    for name in ("name", "intro", "event"):
        if not isinstance(world.page.get(name, ""), str):
            yield f"the page's {name} is a str"
    for title, caption in world.page.get("examples", {}).items():
        if not isinstance(caption, str):
            yield f"the page's example {title!r} is a caption, a str, not {caption!r}"
    parts = world.schema.actions.parts
    known = {part.name for part in parts} | {name for part in parts for name in part.names}
    for action, key in world.page.get("keys", {}).items():
        if action not in known:
            yield f"the page has keys for {action!r}, but the actions are {', '.join(sorted(known)) or 'none'}"
        if not isinstance(key, dict) or not all(isinstance(code, str) for code in key.get("keys", [])):
            yield f"the page's keys for {action!r} are {{'keys': [code, …], 'sign': str, 'place': str}}, not {key!r}"


def _space_faults(world: Recipe) -> Iterator[str]:
    for size in world.sizes:
        try:
            env = world.make(size)
        except ImportError:
            raise
        except Exception as error:
            yield f"make({size}) fails: {_said(error)}"
            continue
        with closing(env):
            for name in ("observation_space", "action_space"):
                if not hasattr(env, name):
                    yield f"the simulator has no {name}: it must be a Gymnasium environment"
                    return
            if world.editable and not isinstance(env, EditableSimulator):
                yield "the recipe is editable, but the simulator lacks write_state(edit) or render()"
            if world.schema.actions and ActionSpace.of(env.action_space) != _unnamed(world.schema.actions):
                yield f"the schema's actions are {world.schema.actions!r}, the simulator's {env.action_space}"
            yield from _episode_faults(world, env, size)


def _unnamed(actions: ActionSpace) -> ActionSpace:
    return ActionSpace.of(actions.space)


def _episode_faults(world: Recipe, env: Simulator, size: Size, seed: int = SEED) -> Iterator[str]:
    """What an episode under the first behaviour shows."""
    observation, info = env.reset(seed=seed)
    act, frames = play.player(world, env, seed, next(iter(world.shares), play.ANY)), 1
    for step in range(STEPS + 1):
        if not env.observation_space.contains(observation):
            yield f"the observation is not in the observation space {env.observation_space}"
        found = list(play.step_faults(world, size, observation, info, frames))
        yield from found
        if found:
            return
        yield from _range_faults(world, info)
        observation, reward, terminated, truncated, info = env.step(
            act(play.seen_by_policies(world, observation, info))
        )
        frames = world.schema.frames_per_step
        yield from _outcome_faults(reward, terminated, truncated)
        if terminated or truncated:
            (observation, info), frames = env.reset(seed=seed + 1 + step), 1


def _outcome_faults(reward: Any, terminated: Any, truncated: Any) -> Iterator[str]:
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(flag, bool | np.bool_):
            yield f"{name} is a bool, got {type(flag).__name__}"
    try:
        finite = bool(np.isfinite(float(reward)))
    except (TypeError, ValueError):
        finite = False
    if not finite:
        yield f"a reward is a finite number, got {reward!r}"


def _range_faults(world: Recipe, info: dict[str, Any]) -> Iterator[str]:
    """Values that the schema's bins would clamp, and choices that it does not have."""
    if not world.schema.num_values:
        return
    states = np.atleast_2d(np.asarray(info.get("states", info["state"])))
    for entity in world.schema.entities:
        for field in entity.fields:
            values = states[:, world.schema.columns(entity.name, field.name)]
            low, high, slack = field.low, field.high, 0.0
            if field.kind == "continuous":
                slack = (high - low) / field.bins / 2
            elif field.kind == "categorical":
                low, high = 0, len(field.names) - 1
            else:
                low, high = 0, 1
            wrong = (values < low - slack) | (values > high + slack)
            if field.kind != "continuous":
                wrong |= values != np.round(values)
            if wrong.any():
                worst = values[wrong][0]
                yield f"{entity.name}.{field.name} is {worst:g}, which is not in the schema's {low:g} to {high:g}"


def _behaviour_faults(world: Recipe) -> Iterator[str]:
    with closing(world.make(world.sizes[0])) as env:
        for acting in world.shares or (play.ANY,):
            try:
                play.play_episode(world, env, SEED, acting, STEPS, world.sizes[0])
            except ValueError as error:
                yield str(error)


def _determinism_faults(world: Recipe) -> Iterator[str]:
    with closing(world.make(world.sizes[0])) as env:
        acting = next(iter(world.shares), play.ANY)
        one, again = (play.play_episode(world, env, SEED, acting, STEPS, world.sizes[0])[0] for _ in range(2))
    for name in ("frames", "states", "actions", "segmentation", "caption"):
        if not np.array_equal(getattr(one, name), getattr(again, name)):
            yield f"two episodes with one seed have different {name}: draw everything from the environment's np_random"
            return


def _simulate_faults(world: Recipe) -> Iterator[str]:
    if world.simulate is None:
        return
    if not world.schema.num_values:
        yield "simulate is for states alone, and the schema has none"
        return
    acting = next(iter(world.shares), play.ANY)
    with closing(world.make(world.sizes[0])) as env:
        true = play.play_episode(world, env, SEED, acting, STEPS, world.sizes[0])[0]
    alone = play.simulate_episode(world, SEED, acting, STEPS, "test")
    if true.states is None or alone.states is None or not np.array_equal(alone.states.numpy(), true.states):
        yield "states simulated alone differ from those that come with pictures, of the same seed and behaviour"


def _edit_faults(world: Recipe) -> Iterator[str]:
    if not world.editable or not world.schema.num_values:
        return
    env: Any = world.make(world.sizes[0])
    with closing(env):
        if not isinstance(env, EditableSimulator):
            return
        _, info = env.reset(seed=SEED)
        state = np.asarray(info["state"])
        written = np.asarray(env.write_state(state))
        if not np.allclose(written, state, atol=1e-5):
            wrong = ", ".join(play.named(world, ~np.isclose(written, state, atol=1e-5)))
            yield f"a state that was written reads otherwise, in {wrong}"
        scene = world.schema.to_dict(torch.from_numpy(state))
        begun = np.asarray(env.reset(seed=SEED + 1, options={"state": scene})[1]["state"])
        if not np.allclose(begun, state, atol=1e-4):
            wrong = ", ".join(play.named(world, ~np.isclose(begun, state, atol=1e-4)))
            yield f"reset(options={{'state': …}}) begins with another state, in {wrong}"
        picture = np.asarray(env.render())
        if picture.shape != (*world.sizes[0], 3) or picture.dtype != np.uint8:
            yield f"render() gives uint8 {(*world.sizes[0], 3)}, got {picture.dtype} {picture.shape}"


def _event_faults(world: Recipe) -> Iterator[str]:
    if world.event is None or not world.editable:
        return
    rng = np.random.default_rng(SEED)
    env: Any = world.states_only()
    with closing(env):
        for number in range(EVENTS):
            _, info = env.reset(seed=number)
            drawn = world.event(world.schema.to_dict(torch.from_numpy(np.asarray(info["state"]))), rng)
            if len(drawn) != 3 or not isinstance(drawn[0], str) or not isinstance(drawn[1], str) or not drawn[1]:
                yield f"an event is its kind, the words that tell of it, and an edit, not {drawn!r}"
                return
            _, text, edit = drawn
            state = torch.from_numpy(np.asarray(env.write_state(edit)))
            wanted = world.schema.write(state, edit)
            if not torch.allclose(state, wanted, atol=1e-4):
                wrong = ", ".join(play.named(world, ~np.isclose(state.numpy(), wanted.numpy(), atol=1e-4)))
                yield f"the event {text!r} is not what the simulator's state has afterwards, in {wrong}"


def _claim_faults(world: Recipe) -> Iterator[str]:
    if world.claims is None:
        return
    fields = {f.name for entity in world.schema.entities for f in entity.fields}
    with closing(world.states_only()) as env:
        caption = env.reset(seed=SEED)[1].get("caption", "")
    for claim in world.claims(caption):
        for name in set(claim) - fields:
            yield f"captions claim {name!r}, which no entity of the schema has"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.check_world", description=__doc__)
    parser.add_argument("world", help=f"{', '.join(names())}, or my_package.my_world:RECIPE")
    chosen = parser.parse_args(arguments)
    try:
        found = faults(recipe(chosen.world))
    except (ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for fault in found:
        print(f"* {fault}")
    print(f"{chosen.world}: {len(found)} faults" if found else f"{chosen.world} keeps the contract")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
