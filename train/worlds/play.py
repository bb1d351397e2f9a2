"""Plays an episode: a function of the world, a seed and a behaviour. What is wrong is refused, not mended."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tokenizer.clip import Episode
from train.data.tokens import TokenisedEpisode
from train.worlds.contract import Policy, Recipe, Simulator, Size

ANY = "random"  # the behaviour of a world that has none of its own


def split_of(seed: int, index: int) -> str:
    """Train, validation or test (90, 5 and 5 of 100) of an episode."""
    lot = int.from_bytes(hashlib.sha256(f"{seed}/{index}".encode()).digest()[:4], "big") % 100
    return "train" if lot < 90 else "validation" if lot < 95 else "test"


def draw_behaviour(world: Recipe, rng: np.random.Generator) -> str:
    """One of the world's behaviours, as often as its shares say."""
    return str(rng.choice(list(world.shares), p=list(world.shares.values()))) if world.shares else ANY


def draw_episode(world: Recipe, seed: int, index: int) -> tuple[int, str]:
    """The simulator's seed and the behaviour of episode ``index`` of the recording ``seed``."""
    rng = np.random.default_rng([seed, index])
    return int(rng.integers(2**31)), draw_behaviour(world, rng)


def player(world: Recipe, env: Simulator, seed: int, acting: str) -> Policy:
    """Who plays: the behaviour, or draws from the action space; None for every action where nobody steers."""
    if not world.schema.actions:
        return lambda _: None
    if world.behaviour is not None and world.shares:
        return world.behaviour(acting, np.random.default_rng([seed, 1]))
    space = env.action_space
    space.seed(seed)
    return lambda _: space.sample()


def check_action(world: Recipe, env: Simulator, action: Any, acting: str) -> Any:
    """The action. Raises ValueError for one that the space does not contain, rather than rounding or clipping it."""
    if action is not None and not env.action_space.contains(action):
        raise ValueError(
            f"the behaviour {acting!r} of {world.schema.name!r} did {action!r}, which is not in {env.action_space}: "
            "return an action of the space, of its type"
        )
    return action


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """What a reset or a step showed: frames uint8 ``(k, height, width, 3)``, and what else the world tells."""

    frames: np.ndarray
    states: np.ndarray | None
    segmentation: np.ndarray | None
    caption: str
    seen: Any  # by a policy: the state, or the observation, or what the world gives it

    @classmethod
    def of(cls, world: Recipe, size: Size, observation: Any, info: dict[str, Any], count: int) -> StepRecord:
        """Raises ValueError, with a sentence, for the first of ``step_faults``."""
        for fault in step_faults(world, size, observation, info, count):
            raise ValueError(f"{world.schema.name}: {fault}")
        state = info.get("state") if world.schema.num_values else None
        states = None if state is None else info.get("states", np.repeat(np.asarray(state)[None], count, 0))
        return cls(
            frames=info["frames"] if "frames" in info else np.asarray(observation)[None],
            states=states,
            segmentation=None if world.segmented is None else info["segmentation"],
            caption=info.get("caption", ""),
            seen=seen_by_policies(world, observation, info),
        )


def seen_by_policies(world: Recipe, observation: Any, info: dict[str, Any]) -> Any:
    """What a policy is given: what the world says, or the state, or the observation where there is no state."""
    return info.get("seen", np.asarray(info["state"] if world.schema.num_values else observation))


def step_faults(world: Recipe, size: Size, observation: Any, info: dict[str, Any], count: int) -> Iterator[str]:
    """What an observation and its ``info`` of ``count`` pixel frames lack to be recorded, a sentence for each."""
    frames, shape = info.get("frames"), (count, *size, 3)
    if frames is None:
        frames = np.asarray(observation)[None]
        if world.schema.frames_per_step != 1:
            yield (
                f"info has no 'frames', so a step is one picture, but frames_per_step is {world.schema.frames_per_step}"
                ": give every pixel frame of the step in info['frames'], or set frames_per_step=1"
            )
            return
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
        yield f"frames are uint8 arrays, got {getattr(frames, 'dtype', type(frames).__name__)}"
    elif frames.shape != shape:
        when = "after reset" if count == 1 else "after a step"
        yield f"frames {when} have the shape {shape}, got {frames.shape}"
    if world.schema.num_values:
        yield from _state_faults(world, info, count)
    if world.segmented is not None:
        yield from _segmentation_faults(world, world.segmented, info.get("segmentation"), count)
    if not isinstance(info.get("caption", ""), str):
        yield f"a caption is a str, got {type(info['caption']).__name__}"


def _state_faults(world: Recipe, info: dict[str, Any], count: int) -> Iterator[str]:
    width, state, states = world.schema.num_values, info.get("state"), info.get("states")
    if state is None:
        yield f"info has no 'state', but the schema has {width} values: give it, or a schema without entities"
        return
    for name, values, shape in (("state", state, (width,)), ("states", states, (count, width))):
        if values is None:
            continue
        values = np.asarray(values)
        if values.shape != shape:
            yield f"info[{name!r}] has the shape {shape}, got {values.shape}"
        elif values.dtype.kind != "f":
            yield f"info[{name!r}] is float32, got {values.dtype}"
        elif not np.isfinite(values).all():
            yield f"info[{name!r}] has values that are not finite, in {', '.join(named(world, ~np.isfinite(values)))}"
    if states is not None and np.shape(states) == (count, width) and not np.array_equal(states[-1], state):
        yield "the last of info['states'] is not info['state'], the state as the step ends"


def named(world: Recipe, wrong: np.ndarray) -> list[str]:
    """Fields by ``entity.field`` that a mask (..., num_values) has something in."""
    places = [(e.name, f.name) for e in world.schema.entities for f in e.fields]
    return [".".join(place) for place in places if wrong[..., world.schema.columns(*place)].any()]


def _segmentation_faults(world: Recipe, segmented: Size, maps: Any, count: int) -> Iterator[str]:
    if maps is None:
        yield "info has no 'segmentation', but the recipe says how large entity maps are: give it, or segmented=None"
    elif not isinstance(maps, np.ndarray) or maps.dtype != np.uint8 or maps.shape != (count, *segmented):
        told = f"{maps.dtype} {maps.shape}" if isinstance(maps, np.ndarray) else type(maps).__name__
        yield f"info['segmentation'] is uint8 {(count, *segmented)}, got {told}"
    elif maps.max(initial=0) > len(world.schema.entities):
        yield f"info['segmentation'] shows entity {maps.max()} of {len(world.schema.entities)}"


def play_episode(
    world: Recipe, env: Simulator, seed: int, acting: str, num_steps: int, size: Size
) -> tuple[Episode, np.ndarray | None]:
    """Plays until ``num_steps``, termination or truncation. Returns the episode, and the state of every pixel frame.

    Raises ValueError for what could not be recorded as it is: see ``step_faults``.
    """
    r = world.schema.frames_per_step
    observation, info = env.reset(seed=seed)
    act = player(world, env, seed, acting)
    records = [StepRecord.of(world, size, observation, info, 1)]
    actions: list[Any] = []
    rewards: list[float] = []
    terminated = truncated = False
    while not (terminated or truncated) and len(records) <= num_steps:
        actions.append(check_action(world, env, act(records[-1].seen), acting))
        observation, reward, terminated, truncated, info = env.step(actions[-1])
        records.append(StepRecord.of(world, size, observation, info, r))
        rewards.append(float(reward))
    return as_episode(world, records, actions, rewards, bool(terminated), bool(truncated), seed=seed, acting=acting)


def as_episode(
    world: Recipe,
    records: list[StepRecord],
    actions: list[Any],
    rewards: list[float],
    terminated: bool,
    truncated: bool,
    *,
    seed: int,
    acting: str,
) -> tuple[Episode, np.ndarray | None]:
    """What was played, ``records`` one more than actions and rewards, and the state of every pixel frame."""
    states = [record.states for record in records if record.states is not None]
    maps = [record.segmentation for record in records if record.segmentation is not None]
    frame_states = np.concatenate(states) if states else None
    ends = np.zeros(len(actions), bool)
    ends[-1:] = terminated
    r = world.schema.frames_per_step
    episode = Episode(
        frames=np.concatenate([record.frames for record in records]),
        actions=_values(world, actions),
        states=None if frame_states is None else frame_states[::r],
        caption=records[0].caption,
        segmentation=np.concatenate(maps) if maps else None,
        seed=seed,
        behaviour=acting,
        frames_per_step=r,
        truncated=truncated,
        rewards=None if world.schema.role_columns("reward") else np.array(rewards, np.float32),
        terminated=None if world.schema.role_columns("terminated") else ends,
    )
    return episode, frame_states


def _values(world: Recipe, actions: list[Any]) -> np.ndarray | None:
    """Raw values of actions, (n, A); None where nobody steers."""
    space = world.schema.actions
    if not space:
        return None
    return np.array([space.flatten(action) for action in actions], space.dtype).reshape(-1, space.num_parts)


def simulate_episode(
    world: Recipe, seed: int, acting: str, num_steps: int, split: str, index: int = 0, eventful: float = 0.0
) -> TokenisedEpisode:
    """The same of states alone, without pictures. ``eventful`` is the chance that a step begins with an event.

    Raises ValueError for a world that has no states.
    """
    if not world.schema.num_values:
        raise ValueError(f"{world.schema.name!r} has no states to simulate alone: record it with its pictures")
    with closing(world.states_only()) as env:
        return _simulated(world, env, seed, acting, num_steps, split, index, eventful)


def _simulated(
    world: Recipe, env: Any, seed: int, acting: str, num_steps: int, split: str, index: int, eventful: float
) -> TokenisedEpisode:
    chance = np.random.default_rng([seed, 2])
    _, info = env.reset(seed=seed)
    act = player(world, env, seed, acting)
    states, actions, caption = [info["state"]], [], info.get("caption", "")
    events: dict[int, str] = {}
    for _ in range(num_steps):
        actions.append(check_action(world, env, act(seen_by_policies(world, None, info)), acting))
        if world.event is not None and world.editable and chance.random() < eventful:
            _, text, edit = world.event(world.schema.to_dict(torch.from_numpy(info["state"])), chance)
            with suppress(ValueError):  # bodies that a collision has pressed into one another
                env.write_state(edit)
                events[len(states)] = text
        _, _, terminated, truncated, info = env.step(actions[-1])
        states.append(info["state"])
        if terminated or truncated:
            break
    values = _values(world, actions)
    return TokenisedEpisode(
        episode=index,
        split=split,
        caption=caption,
        states=torch.from_numpy(np.stack(states)),
        actions=None if values is None else world.schema.actions.values_to_ids(values),
        events=events,
    )
