"""What a Minari dataset holds, and its episodes as ours.

Pictures are those of its observations. Where these have none, the dataset's environment is played again, by the
recorded seeds and actions, and looked at; an episode counts only if every observation comes out as it was recorded.
Numbers in the observations are a state, words a caption. A Minari step is one frame.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tokenizer.action_space import ActionSpace
from tokenizer.clip import Episode
from tokenizer.frames import said_size
from tokenizer.state_schema import StateSchema
from train.data.resizing import Resizing

LEAST_SIDE = 16  # of a picture; smaller ones are symbols, such as MiniGrid's 7x7 cells
FPS = 30  # where nobody says
PACE = "steps_per_second"  # what a dataset that we wrote says
TRIED = 2  # episodes that are played again to see whether they come out
NEAR = 1e-4  # of a number that is to come out as recorded

Keys = tuple[Any, ...]


class NotAsRecorded(Exception):
    """An episode that, played again, doesn't show what was recorded. The message is a reason within a sentence."""


def leaves(space: gymnasium.Space[Any], path: Keys = ()) -> Iterator[tuple[Keys, gymnasium.Space[Any]]]:
    """The parts of a nested space, with the keys that lead to them."""
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from leaves(part, (*path, key))
    elif isinstance(space, spaces.Tuple):
        for key, part in enumerate(space.spaces):
            yield from leaves(part, (*path, key))
    else:
        yield path, space


def part_of(value: Any, path: Keys) -> Any:
    for key in path:
        value = value[key]
    return value


def at_step(space: gymnasium.Space[Any], values: Any, step: int) -> Any:
    """One step's value of a space, from Minari's arrays over all steps."""
    if isinstance(space, spaces.Dict):
        return {key: at_step(part, values[key], step) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(at_step(part, values[key], step) for key, part in enumerate(space.spaces))
    return values[step]


def is_picture(space: gymnasium.Space[Any]) -> bool:
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) not in (2, 3):
        return False
    sides = [side for side in space.shape if side not in (1, 3, 4)] if len(space.shape) == 3 else list(space.shape)
    return len(sides) == 2 and min(sides) >= LEAST_SIDE


def is_numbers(space: gymnasium.Space[Any]) -> bool:
    """Whether its values are a few numbers, to be read as a state: no map, no picture."""
    if isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
        return len(space.shape or ()) < 2
    return isinstance(space, spaces.Discrete)


def as_rgb(pictures: np.ndarray) -> np.ndarray:
    """uint8 (n, H, W), (n, H, W, C) or (n, C, H, W) to (n, H, W, 3)."""
    if pictures.ndim == 3:
        pictures = pictures[..., None]
    elif pictures.shape[1] in (1, 3, 4) and pictures.shape[-1] not in (1, 3, 4):
        pictures = np.moveaxis(pictures, 1, -1)
    return np.ascontiguousarray(np.repeat(pictures, 3, -1) if pictures.shape[-1] == 1 else pictures[..., :3])


def open_dataset(source: str | Path) -> Any:
    """A ``minari.MinariDataset``, by its folder or its id; one that is not on this machine is downloaded.

    Raises ValueError where there is none, or without the package.
    """
    try:
        import minari
    except ImportError:
        raise ValueError("Minari datasets need the package: pip install 'worldmodel-stream[minari]'") from None
    folder = Path(source).expanduser()
    try:
        for data in (folder, folder / "data"):
            if (data / "metadata.json").is_file():
                return minari.MinariDataset(data)
        if folder.is_dir():
            raise ValueError("the folder has no data/metadata.json")
        return minari.load_dataset(str(source), download=True)
    except Exception as error:  # whatever storage, network and third-party spaces raise
        raise ValueError(
            f"no Minari dataset {str(source)!r} ({_brief(error)}): check the id, or give a folder"
        ) from None


def _brief(error: BaseException | str) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


@dataclass(frozen=True, kw_only=True)
class MinariSource:
    """A dataset, and how it is read.

    Attributes:
        source: its id or folder.
        pixels: where its observations have pictures; None: it is played again.
        state: whether the numbers of its observations are read as a state.
        fps: of what is recorded of it.
        size: (height, width) of its pictures.
        schema: what the recording will hold.
        notes: further sentences of what was found.
    """

    source: str
    pixels: Keys | None
    state: bool
    fps: int
    size: tuple[int, int]
    schema: StateSchema
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.schema.name

    @cached_property
    def dataset(self) -> Any:
        return open_dataset(self.source)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "dataset"}  # every process opens its own

    def said(self) -> list[str]:
        where = "its environment, played again" if self.pixels is None else _called(self.pixels)
        acts = ", ".join(part.name for part in self.schema.actions.parts)
        return [
            f"{self.dataset.id}: {len(self.dataset)} episodes, {self.dataset.total_steps} steps",
            f"pictures {said_size(self.size)} of {where}, {self.fps} a second, one a step",
            f"actions: {acts}",
            *self.notes,
        ]

    def replay(self) -> Replay:
        return Replay(self.dataset)

    def episode(self, index: int, size: Resizing, replay: Replay | None) -> Episode:
        """Episode ``index`` with its pictures at ``size``. Raises NotAsRecorded, and ValueError for actions or numbers
        that the schema does not hold."""
        recorded, about = self.dataset[index], episode_metadata(self.dataset, index)
        if replay is None:
            assert self.pixels is not None
            frames = size.frames(as_rgb(np.asarray(part_of(recorded.observations, self.pixels))))
        else:
            frames = np.concatenate([size.frames(picture[None]) for picture in replay.pictures(recorded, about)])
        space, steps = self.dataset.action_space, len(recorded.rewards)
        actions = [self.schema.actions.flatten(at_step(space, recorded.actions, step)) for step in range(steps)]
        ended = np.asarray(recorded.terminations, dtype=bool)
        return Episode(
            frames=frames,
            actions=np.stack(actions),
            states=vectors(self.dataset, recorded)[1] if self.state else None,
            caption=caption(self.dataset, recorded, about),
            rewards=np.asarray(recorded.rewards, dtype=np.float32),
            terminated=ended,
            seed=int(about.get("seed") or 0),
            frames_per_step=1,
            truncated=bool(recorded.truncations[-1]) and not ended[-1],
        )


def episode_metadata(dataset: Any, index: int) -> dict[str, Any]:
    return next(iter(dataset.storage.get_episode_metadata([dataset.episode_indices[index]])))


def _called(path: Keys) -> str:
    return "the observation" if not path else f"the observation's {'.'.join(map(str, path))!r}"


def vectors(dataset: Any, recorded: Any) -> tuple[list[str], np.ndarray]:
    """Names and values, float32 (1 + n, D), of the numbers of an episode's observations."""
    names, columns = [], [np.empty((1 + len(recorded.rewards), 0), np.float32)]
    for path, space in leaves(dataset.observation_space):
        if is_numbers(space):
            values = np.asarray(part_of(recorded.observations, path), dtype=np.float32)
            columns.append(values.reshape(len(values), -1))
            name = ".".join(map(str, path)) or "observation"
            names += [name] if columns[-1].shape[1] == 1 else [f"{name}.{i}" for i in range(columns[-1].shape[1])]
    return names, np.concatenate(columns, 1)


def caption(dataset: Any, recorded: Any, about: dict[str, Any]) -> str:
    """The words that an episode begins with, as MiniGrid has its mission, or that it was reset with."""
    texts = [path for path, space in leaves(dataset.observation_space) if isinstance(space, spaces.Text)]
    said = [str(part_of(recorded.observations, path)[0]) for path in texts]
    return ". ".join(said) or str((about.get("options") or {}).get("caption", ""))


class Replay:
    """A dataset's environment, played again. Close it.

    Raises ValueError, in one sentence, where it cannot be made or cannot be looked at.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        why = f"the observations of {dataset.id} have no pictures, and its environment cannot be played again"
        if dataset.env_spec is None:
            raise ValueError(f"{why}, for the dataset doesn't say which it is: a world is learned from pictures")
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                self.env = dataset.recover_environment(render_mode="rgb_array")
        except Exception as error:  # whatever a foreign environment raises
            raise ValueError(f"{why} ({_brief(error)}): install what it needs") from None
        self.notes = tuple(dict.fromkeys(_brief(w.message) for w in told if "install" in str(w.message).lower()))

    def close(self) -> None:
        self.env.close()

    @property
    def fps(self) -> int | None:
        found = self.env.metadata.get("render_fps")
        return None if not found else max(1, round(found))

    def pictures(self, recorded: Any, about: dict[str, Any], *, look: bool = True) -> Iterator[np.ndarray]:
        """What is seen after reset and after each step, uint8 (H, W, 3); nothing without ``look``, which is faster.
        Raises NotAsRecorded at the first observation that differs."""
        if about.get("seed") is None:
            raise NotAsRecorded("no seed was recorded")
        try:
            observation, _ = self.env.reset(seed=int(about["seed"]), options=about.get("options") or None)
            for step in range(1 + len(recorded.rewards)):
                if step:
                    action = at_step(self.dataset.action_space, recorded.actions, step - 1)
                    observation = self.env.step(action)[0]
                if not self._same(observation, recorded.observations, step):
                    raise NotAsRecorded(f"what is observed after {step} steps differs")
                if look:
                    picture: Any = self.env.render()
                    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3:
                        raise NotAsRecorded("the environment draws no picture")
                    yield picture[..., :3]
        except NotAsRecorded:
            raise
        except Exception as error:  # whatever a foreign environment raises
            raise NotAsRecorded(f"the environment fails: {_brief(error)}") from None

    def comes_out(self, index: int) -> str:
        """Why episode ``index`` does not come out as recorded; nothing if it does."""
        try:
            for _ in self.pictures(self.dataset[index], episode_metadata(self.dataset, index), look=False):
                pass
        except NotAsRecorded as error:
            return str(error)
        return ""

    def _same(self, observation: Any, recorded: Any, step: int) -> bool:
        for path, space in leaves(self.dataset.observation_space):
            try:
                ours, theirs = part_of(observation, path), part_of(recorded, path)[step]
            except (KeyError, IndexError, TypeError):
                return False
            if isinstance(space, spaces.Text):
                same = str(ours) == str(theirs)
            else:
                ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
                same = ours.shape == theirs.shape and np.allclose(ours, theirs, rtol=NEAR, atol=NEAR, equal_nan=True)
            if not same:
                return False
        return True


def look(source: str | Path, *, pixels: str | None = None, state: bool = True, fps: int | None = None) -> MinariSource:
    """Looks at a dataset: its pictures, or whether it can be played again; its numbers; its actions.

    Args:
        pixels: which of several pictures, by the last part of its name.
        state: whether numbers beside the pictures are to be read as a state.
        fps: frames a second; by default the environment's, where it is at hand.

    Raises ValueError for what cannot become a recording.
    """
    dataset = open_dataset(source)
    if not len(dataset):
        raise ValueError(f"{dataset.id} has no episodes")
    actions, notes = ActionSpace(dataset.action_space), []
    parts = list(leaves(dataset.observation_space))
    where = _chosen([path for path, space in parts if is_picture(space)], pixels, dataset.id)
    if where is None:
        with closing(Replay(dataset)) as replay:
            notes += replay.notes
            fps = fps or replay.fps
            tried = [replay.comes_out(index) for index in range(min(TRIED, len(dataset)))]
            if all(tried):
                raise ValueError(
                    f"{dataset.id} has no pictures, and played again its first episode doesn't come out as recorded "
                    f"({tried[0]}): install the versions it was made with"
                )
            first = tried.index("")
            shown = next(replay.pictures(dataset[first], episode_metadata(dataset, first)))
    else:
        shown = as_rgb(np.asarray(part_of(dataset[0].observations, where))[:1])[0]
    read = [path for path, space in parts if path == where or is_numbers(space) or isinstance(space, spaces.Text)]
    ignored = [path for path, _ in parts if path not in read]
    if ignored:
        notes.append(f"left out of the observation: {', '.join(_called(path) for path in ignored)}")
    entities: tuple[Any, ...] = ()
    if state and any(is_numbers(space) for _, space in parts):
        from train.data.inferred_state import infer_state

        numbers = [vectors(dataset, recorded) for recorded in dataset.iterate_episodes()]
        inferred = infer_state([values for _, values in numbers], numbers[0][0])
        entities, notes = inferred.entities, [*notes, *inferred.said]
    known = dataset.storage.metadata.get(PACE)
    fps = fps or (max(1, round(known)) if known else None)
    if fps is None:
        fps, notes = FPS, [*notes, f"nobody says how many frames a second it has: {FPS} are assumed"]
    schema = StateSchema(
        name=dataset.id.rsplit("/", 1)[-1], entities=entities, fps=fps, frames_per_step=1, actions=actions
    )
    return MinariSource(
        source=str(source),
        pixels=where,
        state=bool(entities),
        fps=fps,
        size=(shown.shape[0], shown.shape[1]),
        schema=schema,
        notes=tuple(notes),
    )


def _chosen(paths: Sequence[Keys], pixels: str | None, name: str) -> Keys | None:
    """The pictures that were asked for, or the only ones."""
    listed = ", ".join(".".join(map(str, path)) or "the observation itself" for path in paths) or "none"
    if pixels is not None:
        found = [path for path in paths if pixels in (".".join(map(str, path)), str(path[-1]) if path else "")]
        if len(found) != 1:
            raise ValueError(f"the observations of {name} have no pictures {pixels!r}: choose from {listed}")
        return found[0]
    if len(paths) > 1:
        raise ValueError(f"the observations of {name} have several pictures, {listed}: choose one with --pixels")
    return paths[0] if paths else None
