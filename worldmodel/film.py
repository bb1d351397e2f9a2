"""Films: a story's shots, imagined one after the other, step by step and in constant memory.

Nothing is kept of what was shown but what the world itself remembers, so a film may be of any length. The same world,
story and seed make the same film. Beside the video lies a log of it, ``film.jsonl``: a line that says how it was made,
and one for each step with its shot, action, state and ids.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenizer.state_schema import StateSchema
from worldmodel.rollout import Rollout
from worldmodel.sampling import Sampling, whole
from worldmodel.story import POLICIES, Shot, Story
from worldmodel.video_file import VideoWriter
from worldmodel.world import World

HELD = 8  # steps that a random action is held for
PROMPT = 8  # steps that a world is shown of what it goes on from


@dataclass(frozen=True, kw_only=True)
class FilmStep:
    """What one step adds. frames: uint8 (n, H, W, 3), one more for a film's first; shot: its number, from 0; action:
    what was done; state: float32 (num_values,) and ids: (V,), of what is shown."""

    frames: np.ndarray
    shot: int
    action: Any
    state: Tensor
    ids: Tensor


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What a film goes on from: frames uint8 (1 + r * n, H, W, 3), the n actions between them (n, A) if they are known,
    and the state at their end (num_values,), if there is one and it is not to be read from them."""

    frames: Tensor
    actions: Tensor | None = None
    state: Tensor | None = None


class Film:
    """A story as a world imagines it.

    Args:
        opening: what the first shot goes on from, in place of a scene of its own.
        upsample: whether frames are upsampled.
        sampling: how ids are drawn; by default the world's own.

    Raises ValueError for a story that this world cannot tell, before anything is made.
    """

    def __init__(
        self,
        world: World,
        story: Story,
        *,
        seed: int = 0,
        upsample: bool = False,
        opening: Opening | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        self.world, self.story, self.seed, self.upsample = world, story, whole("seed", seed, 0), upsample
        self.opening, self.sampling = opening, sampling or world.sampling
        self.cameras: dict[int, dict[str, dict[str, Any]]] = {}  # of each shot, once it has begun
        if upsample and world.upsampler is None:
            raise ValueError("this world has no upsampler: leave upsampling out")
        for i, shot in enumerate(story.shots, 1):
            self._refuse(i, shot)

    def _refuse(self, number: int, shot: Shot) -> None:
        """Raises ValueError, before anything is made, for what this world does not know."""
        parts, schema = self.world.parts, self.world.schema
        blank, free = torch.full((1, schema.num_values), torch.nan), parts.limiter.free(1, schema.num_values)
        try:
            if shot.motion is not None and not schema.role_columns("motion"):
                raise ValueError("this world knows no motion: leave it out")
            if shot.camera_of is not None and not schema.role_columns("camera"):
                raise ValueError("this world has no camera: leave out camera_of")
            if number == 1 and self.opening is not None and shot.new_scene:
                raise ValueError("the film goes on from what there is, and the shot begins a scene of its own")
            parts.encode_captions([shot.prompt])
            parts.encode_events([shot.tell])
            for fields in (self._told(shot), shot.edit):
                schema.write(blank, fields or {})
            parts.limiter.hold(free, shot.hold or {})
            parts.limiter.limit(free, shot.limit or {})
            for action in (shot.action, *(a for a, _ in shot.actions)):
                self._checked(action)
        except ValueError as error:
            raise ValueError(f"shot {number}: {error}") from None

    def _checked(self, action: Any) -> None:
        if action == "likely" and not self.world.plays_itself:
            raise ValueError("this world has not learned what is likely to be done: name an action, idle or random")
        if action is not None and not (isinstance(action, str) and action in POLICIES):
            self.world.actions.batch(action, 1)

    @property
    def fps(self) -> int:
        return self.world.schema.fps

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of its frames."""
        height, width = self.world.tokenizer.size
        factor = self.world.upsampler.config.factor if self.upsample and self.world.upsampler else 1
        return height * factor, width * factor

    @property
    def steps_per_second(self) -> float:
        return self.fps / self.world.tokenizer.frames_per_step

    @property
    def num_steps(self) -> int:
        return sum(self._count(shot.seconds) for shot in self.story.shots)

    def _count(self, seconds: float) -> int:
        return max(1, round(seconds * self.steps_per_second))

    def __iter__(self) -> Iterator[FilmStep]:
        """Makes it, from the beginning."""
        rollout = self._scene(0, self.story.shots[0])
        for number, shot in enumerate(self.story.shots):
            before = rollout.fork() if number and shot.dissolve else None
            if number and shot.new_scene:
                rollout = self._scene(number, shot)
            self._begin(rollout, shot)
            yield from self._shot(number, shot, rollout, before)
            if shot.hold is not None or shot.limit is not None:
                rollout.release()

    def _told(self, shot: Shot) -> dict[str, dict[str, Any]]:
        """What a shot says of its scene's first state."""
        state = {name: dict(values) for name, values in (shot.state or {}).items()}
        if shot.motion is not None:
            for entity, field in _named(self.world.schema, "motion"):
                state.setdefault(entity, {})[field] = shot.motion
        return state

    def _scene(self, number: int, shot: Shot) -> Rollout:
        given: dict[str, Any] = {"state": self._told(shot) or None}
        opening = self.opening if number == 0 else None
        if opening is not None:
            given = {"frames": opening.frames, "state": opening.state}
            if opening.actions is not None:
                given["actions"] = [self.world.actions.unflatten(values.numpy()) for values in opening.actions]
        return self.world.start(
            shot.prompt or None,
            seed=self.seed + number,
            sampling=self.sampling,
            upsample=self.upsample,
            **given,
        )

    def _begin(self, rollout: Rollout, shot: Shot) -> None:
        if shot.camera_of is not None:
            rollout.edit(self.cameras[shot.camera_of - 1])
        if shot.edit is not None:
            rollout.edit(shot.edit)
        if shot.hold is not None:
            rollout.hold(shot.hold)
        if shot.limit is not None:
            rollout.limit(shot.limit)
        if shot.tell:
            rollout.tell(shot.tell)

    def _shot(self, number: int, shot: Shot, rollout: Rollout, before: Rollout | None) -> Iterator[FilmStep]:
        fading = 0 if before is None else round(shot.dissolve * self.steps_per_second)
        first = rollout.frames[:, -1] if number == 0 and self.opening is None else None
        for step, action in zip(range(self._count(shot.seconds)), self._actions(number, shot), strict=False):
            frames = _shown(rollout, action)
            if before is not None and step < fading:
                share = (step + (np.arange(len(frames)) + 1) / len(frames)) / (fading + 1)
                frames = _mix(_shown(before, action), frames, share[:, None, None, None])
            if step == 0:  # what is told takes a step to happen
                self.cameras[number] = _values(rollout, ("camera", "camera_rate"))
                if first is not None:
                    first = rollout.enlarged(first) if self.upsample else first
                    frames = np.concatenate([first.cpu().numpy(), frames])
            yield FilmStep(
                frames=frames,
                shot=number,
                action=action,
                state=rollout.now.shown[0].cpu(),
                ids=rollout.now.video_ids[0].cpu(),
            )

    def _actions(self, number: int, shot: Shot) -> Iterator[Any]:
        """What is done, step by step, for ever."""
        actions = self.world.actions
        for action, seconds in shot.actions:
            for _ in range(self._count(seconds)):
                yield self._one(action)
        if shot.action == "random" or (shot.action is None and not self.world.plays_itself):
            generator = torch.Generator().manual_seed(self.seed + number)
            while True:
                drawn = actions.sample(1, generator=generator) if actions else None
                for _ in range(HELD):
                    yield drawn
        while True:
            yield self._one(shot.action)

    def _one(self, action: Any) -> Any:
        if action in (None, "likely") or not self.world.actions:
            return None
        return self.world.actions.idle() if isinstance(action, str) and action == "idle" else action


def _shown(rollout: Rollout, action: Any) -> np.ndarray:
    step = rollout.step(action)
    frames = step.frames if step.upsampled is None else step.upsampled
    return frames[0].cpu().numpy()


def _named(schema: StateSchema, role: str) -> list[tuple[str, str]]:
    return [(e.name, f.name) for e in schema.entities for f in e.fields if f.role == role]


def _values(rollout: Rollout, roles: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """What the state says of these roles now, as it can be written."""
    told, found = rollout.describe(), {}
    for role in roles:
        for entity, field in _named(rollout.parts.schema, role):
            found.setdefault(entity, {})[field] = told[entity][field]
    return found


def _mix(old: np.ndarray, new: np.ndarray, share: np.ndarray) -> np.ndarray:
    return np.round(old * (1 - share) + new * share).astype(np.uint8)


# -- on disk ------------------------------------------------------------------------------------------


def log_of(video: Path) -> Path:
    """Where a film's log lies."""
    return video.with_suffix(".jsonl")


def write(film: Film, out: Path, about: Mapping[str, Any]) -> Generator[FilmStep, None, None]:
    """Writes a film and its log as it is made, step by step, and gives each step.

    What is there when it is broken off can be played. ``about`` is told in the log beside what made the film. Raises
    ValueError, ImportError and OSError as ``VideoWriter`` does.
    """
    how = {
        "world": film.world.parts.fingerprint,
        "seed": film.seed,
        "story": film.story.to_json(),
        "upsample": film.upsample,
        "sampling": asdict(film.sampling),
        "fps": film.fps,
        **about,
    }
    with ExitStack() as stack:
        smooth = film.upsample
        video = stack.enter_context(VideoWriter(out, fps=film.fps, size=film.size, smooth=smooth, in_pieces=True))
        log = stack.enter_context(log_of(out).open("w", encoding="utf-8"))
        log.write(json.dumps(how) + "\n")
        for step in film:
            video.write(step.frames)
            action = film.world.actions.batch(step.action, 1)[0].tolist() if step.action is not None else None
            told = {"shot": step.shot, "action": action, "state": step.state.tolist(), "ids": step.ids.tolist()}
            log.write(json.dumps(told) + "\n")
            yield step


@dataclass(frozen=True, kw_only=True)
class FilmLog:
    """How a film was made, and its last steps: as many of the last scene as a world is shown to go on from."""

    how: dict[str, Any]
    last: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> FilmLog:
        """Raises ValueError for what is no film's log."""
        try:
            with path.open(encoding="utf-8") as file:
                how = json.loads(file.readline())
                if not isinstance(how, dict) or not {"world", "seed", "story", "upsample", "sampling"} <= how.keys():
                    raise ValueError("it does not begin with how a film was made")
                lines = deque((line for line in file if line.endswith("\n")), 1 + PROMPT)  # a last half is left out
            steps = [json.loads(line) for line in lines]
            shots = Story.from_json(how["story"]).shots[: steps[-1]["shot"] + 1] if steps else ()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no film's log ({error}): name a film that generate wrote") from None
        scene = max((i for i, shot in enumerate(shots) if shot.new_scene), default=0)
        return cls(how=how, last=[step for step in steps if step["shot"] >= scene])

    def of(self, world: World) -> FilmLog:
        """Raises ValueError for the film of another world."""
        if self.how["world"] != world.parts.fingerprint:
            raise ValueError("this film is of another world: name that one by --world")
        return self

    def end(self, world: World) -> Opening:
        """Where it ends, to go on from. Raises ValueError for a film without steps."""
        if not self.last:
            raise ValueError("this film has no step: make it again")
        ids = torch.tensor([step["ids"] for step in self.last]).unflatten(1, world.tokenizer.grid)[None]
        states = torch.tensor([step["state"] for step in self.last])
        actions = [step["action"] for step in self.last[1:]]
        return Opening(
            frames=world.tokenizer.decode(ids, None if world.tokenizer.schema is None else states[None])[0],
            actions=torch.tensor(actions) if actions and None not in actions else None,
            state=states[-1] if world.schema.num_values else None,
        )
