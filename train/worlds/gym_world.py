"""Any Gymnasium environment as a world: what it shows, how it is played, and what of it is recorded, in one YAML file.

``GymWorld.look`` finds it all out; a person may set right what it found. The file's path is the world's name, for
``train.record --world world.yaml`` as for everything else.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import yaml
from gymnasium import spaces

from tokenizer.action_space import ActionSpace
from tokenizer.frames import said_size
from tokenizer.state_schema import StateSchema
from train.data.inferred_state import infer_state
from train.data.resizing import Resizing
from train.worlds.contract import Policy, Recipe, Size

CELL = 8
FEW_COLOURS = 64  # a picture of no more is drawn pixel by pixel, and loses small things where pixels are averaged
_LEAST_SIDE = 16  # pixels of what is a picture, and not a map of tiles
_MOST_VALUES = 256  # of a state that is found
_STICKY = (0.0, 0.5, 0.75, 0.9)
_LOOKED_AT = 200  # environment steps for each stickiness that is tried, and at least half as many steps
_BEGINNINGS = 32  # further ones, of which only the state is looked at
_SHORT = 5  # steps of an episode
_CROPPED = 2  # most pixels that are cut off a side
_KEYS = {
    "up": ("ArrowUp", "↑"), "forward": ("ArrowUp", "↑"), "down": ("ArrowDown", "↓"),
    "left": ("ArrowLeft", "←"), "right": ("ArrowRight", "→"), "fire": ("Space", "fire"),
    "toggle": ("Space", "toggle"), "pickup": ("KeyP", "pick up"), "drop": ("KeyX", "drop"),
}  # fmt: skip
_OWNERS = {"ALE": "ale_py", "MiniGrid": "minigrid", "BabyAI": "minigrid"}  # who registers whose names
_IDLE = ("noop", "none", "idle", "done", "nothing")


@dataclass(frozen=True, kw_only=True)
class GymWorld:
    """A world that is a Gymnasium environment.

    Attributes:
        env: its id, or ``my_module:MyEnv-v0``.
        env_args: further arguments of ``gymnasium.make``.
        frame_skip: environment steps a step; the action is repeated, the reward summed, and every frame recorded.
        size: (height, width) that is recorded, in multiples of 8.
        fps: environment steps a second.
        pixels: where pictures come from: ``observation``, ``render``, or a key of a Dict observation (``a.b`` within).
        resize: ``every n-th pixel`` for pictures of few colours, or ``area``.
        policy: who plays: ``random``, ``sticky`` (holds an action with the chance ``stickiness``) or ``my_module:act``,
            which is called with observation and info.
        fresh: it is made anew for each episode, for it carries something over from one to the next.
        state: ``none``, ``obs``, ``ram``, ``info:KEY`` or ``obs:KEY``; several may be joined by commas.
        schema: what it records, as ``StateSchema.to_json`` gives it.
        notes: what was found out, a sentence each.
    """

    env: str
    env_args: Mapping[str, Any] = field(default_factory=dict)
    frame_skip: int = 1
    size: Sequence[int] = (64, 64)
    fps: int = 15
    pixels: str = "observation"
    resize: str = "area"
    policy: str = "sticky"
    stickiness: float = 0.5
    fresh: bool = False
    state: str = "none"
    schema: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    # -- looking, writing, reading ------------------------------------------------------------------------

    @classmethod
    def look(
        cls,
        env: str,
        *,
        env_args: Mapping[str, Any] | None = None,
        frame_skip: int | None = None,
        size: Size | None = None,
        shorter: int = 64,
        pixels: str = "auto",
        policy: str = "sticky",
        state: str = "none",
        seed: int = 0,
    ) -> GymWorld:
        """Opens the environment and plays it a little. ``shorter``: about how many pixels the shorter side gets.

        Raises ValueError for an environment or an argument that is unknown, for actions that can't be recorded and for
        an environment that shows nothing; ImportError where something is not installed.
        """
        args, usual = dict(env_args or {}), _usual_arguments(env)
        if "frameskip" in usual and "frameskip" not in args:  # its own skipping would hide frames
            frame_skip = _whole(usual["frameskip"]) if frame_skip is None else frame_skip
            args["frameskip"] = 1
        world = cls(
            env=env, env_args=args, frame_skip=1 if frame_skip is None else frame_skip, policy=policy,
            size=(64, 64) if size is None else size,
        )  # fmt: skip
        replace(world, state="none" if state == "auto" else state)._refuse_faults()
        with world.opened() as made:
            observation, info = world.begun(made, seed)
            where = _find_pixels(made, observation) if pixels == "auto" else pixels
            picture = _picture(made, observation, where, env)
            stored = (picture.shape[0], picture.shape[1])
            few = len(np.unique(picture.reshape(-1, 3), axis=0)) <= FEW_COLOURS
            chosen, resize = _resized(stored, shorter, few) if size is None else (size, _by_pixels(stored, size, few))
            found = _find_state(made, observation, info) if state == "auto" else state
            fps = round(made.metadata.get("render_fps") or 15) * (2 if "frameskip" in usual else 1)
            repeats = _repeats(fps) if frame_skip is None else frame_skip
            schema = StateSchema(name=_name_of(env), fps=max(1, fps), actions=_actions(made))
            world = replace(world, size=tuple(chosen), fps=max(1, fps), pixels=where, resize=resize, state=found)
            while True:
                schema = replace(schema, frames_per_step=repeats)
                tried = replace(world, frame_skip=repeats, schema=schema.to_json())
                played, usual = tried._played(made, seed, stored)
                if frame_skip is not None or repeats == 1 or usual >= _SHORT:
                    return played
                repeats //= 2  # its episodes are too short for that

    def _played(self, made: gymnasium.Env[Any, Any], seed: int, stored: Size) -> tuple[GymWorld, float]:
        """With the stickiness at which most happens and a schema of the states that were seen, and after how many steps
        half of the episodes have ended."""
        notes = [self._said_pictures(stored), f"actions: {made.action_space}, {_said_actions(self.recorded_schema)}"]
        trials = {
            stickiness: replace(self, stickiness=stickiness)._trial(made, seed)
            for stickiness in (_STICKY if self.policy == "sticky" else (self.stickiness,))
        }
        fresh = not np.array_equal(self._again(made, seed), self._again(made, seed, acted=True))
        if fresh:
            notes.append("it carries something over from one episode to the next, so it is made anew for each")
        best = max(trials, key=lambda stickiness: (trials[stickiness].moved, -stickiness))
        if trials[best].moved == 0:
            raise ValueError(f"{self.env} shows the same picture whatever is done: there is nothing to learn from it")
        held = f"holds an action with a chance of {best:g} a step, for then most happens"
        notes.append(f"who plays {held}" if self.policy == "sticky" else f"who plays: {self.policy}")
        lengths = sorted(length for trial in trials.values() for length in trial.lengths)
        usual = lengths[len(lengths) // 2] if lengths else inf
        if usual < _SHORT:
            notes.append(f"most episodes end within {usual} steps: little can be learned of what comes later")
        schema = self.recorded_schema
        if self.state == "none":
            notes.append("no state is recorded: pictures alone")
        else:
            values = [states for trial in trials.values() for states in trial.states] + self._beginnings(made, seed)
            inferred = infer_state(values, self._state_names(made))
            schema = replace(schema, entities=inferred.entities)
            count = f"{schema.num_values} value{'s' if schema.num_values > 1 else ''}"
            notes += [f"a state of {count}, from {self.state}", *inferred.said]
        world = replace(self, stickiness=best, fresh=fresh, schema=schema.to_json(), notes=tuple(notes))
        return world, usual

    def _beginnings(self, made: gymnasium.Env[Any, Any], seed: int) -> list[np.ndarray]:
        """First states of further episodes: few are played, and each may begin anywhere."""
        seeds = range(seed + _LOOKED_AT, seed + _LOOKED_AT + _BEGINNINGS)
        return [self._values(made, *self.begun(made, one))[None] for one in seeds]

    def _again(self, made: gymnasium.Env[Any, Any], seed: int, acted: bool = False) -> np.ndarray:
        """The first picture of a seed, after some steps of another episode."""
        env = GymSimulator(self, made)
        env.reset(seed=seed + 1)
        policy = self.behaviour("random", np.random.default_rng([seed, acted]))
        for _ in range(3 if acted else 1):
            env.step(policy(None))
        return env.reset(seed=seed)[0]

    def _trial(self, made: gymnasium.Env[Any, Any], seed: int) -> _Trial:
        """What playing a little shows."""
        values: list[np.ndarray] = []
        lengths: list[int] = []
        moved, steps, most = 0.0, 0, max(_LOOKED_AT // 2, _LOOKED_AT // self.frame_skip)
        env, policy = GymSimulator(self, made), self.behaviour(self.policy, np.random.default_rng([seed, 1]))
        while steps < most:
            picture, info = env.reset(seed=seed + steps)
            pictures, states, over = [picture], [info.get("state")], False
            while steps < most and len(pictures) <= _LOOKED_AT // 2 and not over:
                picture, _, terminated, truncated, info = env.step(policy(info["seen"]))
                pictures.append(picture)
                states.append(info.get("state"))
                over, steps = terminated or truncated, steps + 1
            lengths += [len(pictures) - 1] if over else []
            values += [np.stack(states)] if self.state != "none" else []  # type: ignore[arg-type]
            moved += len(pictures) * float(np.stack(pictures).astype(np.float32).std(0).mean())
        return _Trial(moved / steps, values, lengths)

    def save(self, path: str | Path) -> None:
        about = json.loads(json.dumps(asdict(self), default=list))
        del about["schema"]
        schema = {"schema": self.recorded_schema.brief_json()}
        text = yaml.safe_dump(about, sort_keys=False, allow_unicode=True, width=120)
        text += yaml.safe_dump(schema, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
        Path(path).write_text(text, encoding="utf-8")  # a line a field

    @classmethod
    def load(cls, path: str | Path) -> GymWorld:
        """Raises ValueError, saying what to mend, for a file that describes no such world."""
        try:
            about = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"there is no {path}: name the environment with --env, which writes one") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no YAML ({' '.join(str(error).split())}): set that right") from None
        if not isinstance(about, dict) or "env" not in about:
            raise ValueError(f"{path} names no environment: it needs a line 'env: ID'")
        unknown = sorted(about.keys() - cls.__dataclass_fields__.keys())
        if unknown:
            known = ", ".join(cls.__dataclass_fields__)
            raise ValueError(f"{path} has an unknown {', '.join(unknown)}: it may say {known}")
        world = cls(**about)
        try:
            world = replace(world, schema=world.recorded_schema.to_json())
            world.recipe()
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: {error}") from None
        return world

    def said(self) -> list[str]:
        """What was found, a sentence each."""
        return [f"{self.env}: {self.notes[0]}", *self.notes[1:]] if self.notes else [self.env]

    def _said_pictures(self, stored: Size) -> str:
        origin = {"observation": "the observation", "render": "render()"}.get(self.pixels, f"{self.pixels!r}")
        how = self.resize if self.resize != "area" else "averaged"
        size = (
            said_size(stored)
            if tuple(stored) == tuple(self.size)
            else f"{said_size(stored)}, {how} to {said_size((self.size[0], self.size[1]))}"
        )
        each = f"{self.frame_skip} frames a step" if self.frame_skip > 1 else "one frame a step"
        return f"pictures from {origin}, {size}, {self.fps} frames a second, {each}; reward and end are recorded"

    # -- the recipe ---------------------------------------------------------------------------------------

    @property
    def recorded_schema(self) -> StateSchema:
        return StateSchema.from_json(dict(self.schema))

    def recipe(self) -> Recipe:
        """Raises ValueError for what no recipe can be made of."""
        self._refuse_faults()
        schema, (height, width) = self.recorded_schema, self.size
        for name, named in (("fps", "fps"), ("frame_skip", "frames_per_step")):
            if getattr(self, name) != (told := getattr(schema, named)):
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but the schema's {named} is {told}: give both alike"
                )
        return Recipe(
            schema=schema,
            make=self.simulator,
            sizes=((height, width),),
            shares={self.policy: 1.0},
            behaviour=self.behaviour,
            page={"name": _name_of(self.env), "intro": f"{self.env}, as a model imagines it.", "keys": self._keys()},
            source=json.dumps(asdict(self), default=list, sort_keys=True),
        )

    def _refuse_faults(self) -> None:
        for fault in self._faults():
            raise ValueError(fault)

    def _faults(self) -> Iterator[str]:
        """What a person may have written wrongly, a sentence each."""
        for name in ("frame_skip", "fps"):
            number: object = getattr(self, name)
            if type(number) is not int or number < 1:
                yield f"{name} is {number!r}: it is a whole number, at least 1"
        size: object = self.size
        if not isinstance(size, list | tuple) or len(size) != 2 or any(type(side) is not int for side in size):
            yield f"size is {size!r}: it is height and width, as [64, 96]"
        elif min(size) < CELL or any(side % CELL for side in size):
            yield f"size {size[0]}x{size[1]} is no multiple of {CELL}: choose {said_size(_rounded(size))}"
        stickiness: object = self.stickiness
        if not isinstance(stickiness, int | float) or not 0 <= stickiness < 1:
            yield f"stickiness is {stickiness!r}: it is a chance, from 0 to less than 1"
        if not isinstance(self.env_args, Mapping):
            yield f"env_args is {self.env_args!r}: it holds names and values"
        if self.resize != "area" and not re.fullmatch(r"every \d+(st|nd|rd|th) pixel", self.resize):
            yield f"resize {self.resize!r} is unknown: choose area, or every 2nd pixel"
        if self.policy not in ("sticky", "random") and ":" not in self.policy:
            yield f"unknown policy {self.policy!r}: choose sticky, random, or my_module:act"
        for part in _parts_of(self.state):
            if part not in ("obs", "ram") and not re.fullmatch(r"(obs|info):.+", part):
                yield f"--state {part} is unknown: choose none, auto, obs, obs:KEY, info:KEY or ram"

    def simulator(self, size: Size) -> GymSimulator:
        return GymSimulator(replace(self, size=size))

    def behaviour(self, name: str, rng: np.random.Generator) -> Policy:
        """Raises ValueError for a policy of one's own that there is not."""
        space = copy.deepcopy(self.recorded_schema.actions.space)
        if ":" in name:
            return partial(_asked, _imported(name))
        assert space is not None
        space.seed(int(rng.integers(2**31)))
        return Sticky(space, self.stickiness if name == "sticky" else 0.0, rng)

    def _keys(self) -> dict[str, Any]:
        """Arrow keys, the space bar and two letters for the choices whose names mean them."""
        parts, keys = self.recorded_schema.actions.parts, {}
        if len(parts) != 1:
            return {}
        for name in parts[0].names:
            words = set(name.lower().replace("-", " ").replace("_", " ").split())
            meant = [key for word, key in _KEYS.items() if word in words]
            if words & set(_IDLE):
                keys[name] = {"keys": [], "idle": True}
            elif len(meant) == 1:
                code, sign = meant[0]
                place = {"place": code.removeprefix("Arrow").lower()} if code.startswith("Arrow") else {}
                keys[name] = {"keys": [code], "sign": sign} | place
        return keys

    # -- the environment ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def opened(self) -> Iterator[gymnasium.Env[Any, Any]]:
        env = self.make_env()
        try:
            yield env
        finally:
            env.close()

    def make_env(self) -> gymnasium.Env[Any, Any]:
        """Raises ValueError and ImportError with a sentence."""
        for part in ("VIDEO", "AUDIO"):  # no window, no sound
            os.environ.setdefault(f"SDL_{part}DRIVER", "dummy")
        known = _spec(self.env)
        args = dict(self.env_args)
        if "render_mode" not in args and _renders(known):
            args["render_mode"] = "rgb_array"
        with _quietly():
            try:
                return gymnasium.make(known, disable_env_checker=True, **args)  # which would warn at every step
            except gymnasium.error.DependencyNotInstalled as error:
                raise ImportError(f"{self.env} needs what is not installed: {error}") from None
            except TypeError as error:
                raise ValueError(f"{self.env} does not take {args}: {error}") from None

    def begun(self, env: gymnasium.Env[Any, Any], seed: int) -> tuple[Any, dict[str, Any]]:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            try:
                return env.reset(seed=seed)
            except Exception as error:
                kind = type(error).__name__
                raise RuntimeError(f"{self.env} cannot begin with seed {seed} ({kind}: {error})") from error

    def _sized(self, picture: np.ndarray) -> np.ndarray:
        stored, (height, width) = picture.shape[:2], self.size
        if self.resize != "area":
            by = max(1, stored[0] // height)
            thinned = picture[::by, ::by]
            top, left = ((a - b) // 2 for a, b in zip(thinned.shape[:2], (height, width)))
            return thinned[top : top + height, left : left + width].copy()
        if stored == (height, width):
            return picture.copy()  # the environment may draw into the same array again
        return Resizing(stored=(stored[0], stored[1]), target=(height, width), fit="crop").frames(picture[None])[0]

    def _values(self, env: gymnasium.Env[Any, Any], observation: Any, info: Mapping[str, Any]) -> np.ndarray:
        """float32 (num_values,); none where no state is recorded."""
        found = [_vector(env, observation, info, part, self.env) for part in _parts_of(self.state)]
        return np.concatenate(found).astype(np.float32) if found else np.zeros(0, np.float32)

    def _state_names(self, env: gymnasium.Env[Any, Any]) -> list[str]:
        observation, info = self.begun(env, 0)
        names: list[str] = []
        for part in _parts_of(self.state):
            count = len(_vector(env, observation, info, part, self.env))
            stem = part.partition(":")[2] or part
            names += [stem] if count == 1 else [f"{stem}.{i}" for i in range(count)]
        return names


@dataclass(frozen=True)
class _Trial:
    """How far pixels stray from their episode's mean, states by episode, and how long those were that ended."""

    moved: float
    states: list[np.ndarray]
    lengths: list[int]


class Sticky:
    """Holds an action with a chance, else draws another from the space."""

    def __init__(self, space: spaces.Space[Any], stickiness: float, rng: np.random.Generator) -> None:
        self.space, self.stickiness, self.rng = space, stickiness, rng
        self._held: Any = None

    def __call__(self, _: Any) -> Any:
        if self._held is None or self.rng.random() >= self.stickiness:
            self._held = self.space.sample()
        return self._held


class GymSimulator:
    """The ``Simulator`` of a ``GymWorld``. A policy sees the environment's own observation and info."""

    def __init__(self, world: GymWorld, env: gymnasium.Env[Any, Any] | None = None) -> None:
        self.world, self._given, self._played = world, env, False
        self.env = world.make_env() if env is None else env
        self.observation_space = spaces.Box(0, 255, (*world.size, 3), np.uint8)
        self.action_space = self.env.action_space

    def reset(self, *, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        if self.world.fresh and self._played and self._given is None:
            self.env.close()
            self.env = self.world.make_env()
        self._played = True
        observation, info = self.world.begun(self.env, 0 if seed is None else seed)
        return self._told(observation, info, [self._frame(observation)], [self._state(observation, info)])

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Repeats the action; an end in the middle holds the last frame. Raises RuntimeError where the environment
        fails."""
        frames: list[np.ndarray] = []
        states: list[np.ndarray] = []
        total, terminated, truncated = 0.0, False, False
        observation: Any = None
        info: dict[str, Any] = {}
        while len(frames) < self.world.frame_skip:
            if not (terminated or truncated):
                try:
                    with _quietly():
                        observation, reward, terminated, truncated, info = self.env.step(action)
                except Exception as error:
                    kind = type(error).__name__
                    raise RuntimeError(f"{self.world.env} failed in a step with {action} ({kind}: {error})") from error
                total += float(reward)
                frames.append(self._frame(observation))
                states.append(self._state(observation, info))
            else:
                frames.append(frames[-1])
                states.append(states[-1])
        picture, told = self._told(observation, info, frames, states)
        return picture, total, bool(terminated), bool(truncated), told

    def close(self) -> None:
        self.env.close()

    def _frame(self, observation: Any) -> np.ndarray:
        return self.world._sized(_picture(self.env, observation, self.world.pixels, self.world.env))

    def _state(self, observation: Any, info: Mapping[str, Any]) -> np.ndarray:
        return self.world._values(self.env, observation, info)

    def _told(
        self, observation: Any, info: Mapping[str, Any], frames: list[np.ndarray], states: list[np.ndarray]
    ) -> tuple[np.ndarray, dict[str, Any]]:
        told: dict[str, Any] = {"frames": np.stack(frames), "seen": (observation, info)}
        if self.world.state != "none":
            told |= {"state": states[-1], "states": np.stack(states)}
        mission = observation.get("mission") if isinstance(observation, Mapping) else None
        if isinstance(mission, str):
            told["caption"] = mission
        return frames[-1], told


# -- by command -------------------------------------------------------------------------------------------


def add_environment_options(parser: Any) -> None:
    """What a command may be told of an environment, as ``environment`` takes it."""
    parser.add_argument("--env-args", default="{}", help="for gymnasium.make, as JSON: '{\"difficulty\": 2}'")
    parser.add_argument("--frame-skip", type=int, help="environment steps a step; 1, or as the environment itself does")
    parser.add_argument("--pixels", default="auto", help="auto, observation, render, or a key of a Dict observation")
    parser.add_argument("--policy", default="sticky", help="sticky, random, my_module:act; to record, a saved one too")
    parser.add_argument("--state", default="none", help="none, auto, obs, obs:KEY, info:KEY or ram")


def environment(path: Path, chosen: Any, size: Size | None, shorter: int = 64) -> GymWorld:
    """The world at ``path``, which is written there first if it isn't yet, of a command's options.

    Raises ValueError and ImportError as ``look`` does, and ValueError for a file of another environment.
    """
    if path.is_file():
        world = GymWorld.load(path)
        if world.env != chosen.env:
            raise ValueError(f"{path} tells of {world.env}, not of {chosen.env}: choose another --out")
        return world
    try:
        args = json.loads(chosen.env_args)
    except ValueError as error:
        raise ValueError(f"--env-args is no JSON ({error}): write it as '{{\"name\": 1}}'") from None
    if not isinstance(args, dict):
        raise ValueError("--env-args names no arguments: write it as '{\"name\": 1}'")
    asked = {name: getattr(chosen, name) for name in ("frame_skip", "pixels", "policy", "state")}
    world = GymWorld.look(chosen.env, env_args=args, size=size, shorter=shorter, **asked)
    path.parent.mkdir(parents=True, exist_ok=True)
    world.save(path)
    return world


# -- looking at an environment ------------------------------------------------------------------------------


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """What an environment prints and warns of is not said to whoever records it."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _spec(env: str) -> Any:
    """Raises ValueError for an environment that nobody has registered, ImportError for a module that is not there."""
    module, _, name = env.rpartition(":")
    owner = module or _OWNERS.get(name.split("/")[0].split("-")[0]) or name.partition("/")[0]
    try:
        package = importlib.import_module(owner.replace("-", "_"))
        if owner == "ale_py":
            package.ALEInterface.setLoggerMode(package.LoggerMode.Error)  # no banner for every process
            gymnasium.register_envs(package)
    except ModuleNotFoundError as error:
        if module or owner in _OWNERS.values():
            raise ImportError(
                f"{env} needs the module {error.name}: install it, or put its folder on PYTHONPATH"
            ) from None
    except (ImportError, ValueError):
        pass  # no package of that name: Gymnasium's own
    try:
        return gymnasium.spec(name)
    except gymnasium.error.Error as error:
        raise ValueError(
            f"Gymnasium knows no {env} ({error}): name the package that registers it, as in my_module:{name}"
        ) from None


def _usual_arguments(env: str) -> Mapping[str, Any]:
    return _spec(env).kwargs


def _renders(spec: Any) -> bool:
    entry = spec.entry_point
    if isinstance(entry, str):
        module, _, name = entry.partition(":")
        try:
            entry = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            return True
    return "rgb_array" in getattr(entry, "metadata", {}).get("render_modes", ["rgb_array"])


def _repeats(fps: int) -> int:
    """Environment steps a step: so many that somebody decides 10 to 20 times a second, where there are more than 30."""
    repeats = 1
    while fps > 30 and fps / repeats > 20:
        repeats *= 2
    return repeats


def _whole(frameskip: Any) -> int:
    return int(frameskip) if isinstance(frameskip, int) else int(np.mean(frameskip))


def _name_of(env: str) -> str:
    return env.rpartition(":")[2].rpartition("/")[2]


def _is_picture(space: Any) -> bool:
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) not in (2, 3):
        return False
    return _sides(space.shape) is not None


def _sides(shape: Sequence[int]) -> Size | None:
    if len(shape) == 3 and shape[2] not in (1, 3, 4):
        shape = (*shape[1:], shape[0]) if shape[0] in (1, 3) else ()
    return (shape[0], shape[1]) if len(shape) >= 2 and min(shape[:2]) >= _LEAST_SIDE else None


def _find_pixels(env: gymnasium.Env[Any, Any], observation: Any) -> str:
    space = env.observation_space
    if _is_picture(space):
        return "observation"
    if isinstance(space, spaces.Dict):
        keys = [key for key, part in space.spaces.items() if _is_picture(part)]
        if keys:
            return next((key for key in ("pixels", "image", "rgb") if key in keys), keys[0])
    return "render"


def _picture(env: gymnasium.Env[Any, Any], observation: Any, where: str, name: str) -> np.ndarray:
    """uint8 (height, width, 3). Raises ValueError where there is none."""
    if where == "render":
        found: Any = env.render() if env.render_mode is not None else None
    elif where == "observation":
        found = observation
    else:
        found = _within(observation, where)
    if isinstance(found, list):
        found = found[-1] if found else None
    if not isinstance(found, np.ndarray) or found.dtype != np.uint8 or _sides(found.shape) is None:
        got = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
        raise ValueError(
            f"{name} gives no picture by {where!r}, but {got}: choose --pixels observation, render, or a key of its "
            "observation, of at least 16 pixels a side"
        )
    if found.ndim == 2:
        found = found[..., None]
    if found.shape[2] not in (1, 3, 4):
        found = np.moveaxis(found, 0, 2)
    return found.repeat(3, 2) if found.shape[2] == 1 else found[..., :3]


def _resized(stored: Size, shorter: int, few: bool) -> tuple[Size, str]:
    """(height, width) to record, and how pictures get there."""
    by = max(1, round(min(stored) / shorter))
    whole = tuple(side // by // CELL * CELL for side in stored)
    left = [side // by - kept for side, kept in zip(stored, whole)]
    if few and min(whole) > 0 and max(left) <= _CROPPED:
        return (whole[0], whole[1]), f"every {_th(by)} pixel"
    scale = min(1.0, shorter / min(stored))
    return _rounded([side * scale for side in stored]), "area"


def _rounded(size: Sequence[float]) -> Size:
    height, width = (max(1, round(side / CELL)) * CELL for side in size)
    return height, width


def _by_pixels(stored: Size, size: Size, few: bool) -> str:
    by = [a // b if b else 0 for a, b in zip(stored, size)]
    fits = by[0] == by[1] and by[0] > 0 and all(a // by[0] - b <= _CROPPED for a, b in zip(stored, size))
    return f"every {_th(by[0])} pixel" if few and fits else "area"


def _th(number: int) -> str:
    return {1: "1st", 2: "2nd", 3: "3rd"}.get(number, f"{number}th")


def _actions(env: gymnasium.Env[Any, Any]) -> ActionSpace:
    """Raises ValueError, saying why, for actions that can't be recorded as they are."""
    space, names = env.action_space, None
    meanings: Any = getattr(env.unwrapped, "get_action_meanings", None)
    listed = getattr(env.unwrapped, "actions", None)  # MiniGrid's are an Enum
    if isinstance(space, spaces.Discrete):
        if meanings is not None:
            names = [str(name) for name in meanings()]
        elif isinstance(listed, type) and hasattr(listed, "__members__"):
            names = list(listed.__members__)
        names = names if names and len(names) == space.n and len(set(names)) == space.n else None
    return ActionSpace(space, choices=names) if names else ActionSpace(space)


def _said_actions(schema: StateSchema) -> str:
    return "; ".join(f"{part.name}: {part.listed}" for part in schema.actions.parts)


def _find_state(env: gymnasium.Env[Any, Any], observation: Any, info: Mapping[str, Any]) -> str:
    """Vectors of the observation, else of info; ``none`` where there is nothing."""
    space = env.observation_space
    if _is_vector(space, observation):
        return "obs"
    found = []
    if isinstance(space, spaces.Dict):
        found = [f"obs:{key}" for key, part in space.spaces.items() if _is_vector(part, observation[key])]
    if not found:
        found = [f"info:{key}" for key, value in info.items() if _is_number(value) and not key.endswith("number")]
    return ",".join(found) or "none"


def _is_vector(space: Any, value: Any) -> bool:
    return isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete) and _is_number(value)


def _is_number(value: Any) -> bool:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    return array.ndim <= 1 and 0 < array.size <= _MOST_VALUES and bool(np.isfinite(array).all())


def _parts_of(state: str) -> list[str]:
    return [] if state == "none" else [part.strip() for part in state.split(",")]


def _vector(
    env: gymnasium.Env[Any, Any], observation: Any, info: Mapping[str, Any], part: str, name: str
) -> np.ndarray:
    kind, _, key = part.partition(":")
    if part == "ram":
        console = getattr(env.unwrapped, "ale", None)
        if console is None:
            raise ValueError(f"{name} has no memory to read: --state ram is for Atari's games")
        return np.asarray(console.getRAM(), dtype=np.float64)
    found = _within(info if kind == "info" else observation, key) if key else observation
    if not _is_number(found):
        told = ", ".join(map(str, info if kind == "info" else observation if isinstance(observation, Mapping) else ()))
        raise ValueError(
            f"{name} has no numbers under {part}: {f'there is {told}' if told else 'choose another --state'}"
        )
    return np.asarray(found, dtype=np.float64).reshape(-1)


def _within(value: Any, key: str) -> Any:
    if isinstance(value, Mapping) and key in value:
        return value[key]
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


# -- playing ------------------------------------------------------------------------------------------------


def _imported(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no policy {name} ({error}): name it as my_module:act") from None


def _asked(act: Callable[..., Any], seen: tuple[Any, Mapping[str, Any]]) -> Any:
    return act(*seen)
