"""One player's rollout: what keys do to it, what was seen of it, and how far back it can go.

Everything here is plain and synchronous; the socket calls it from the one thread that owns the model. A
session holds up to ``max_branches`` rollouts of the same world, one of which is being played; each has a
bounded history of marks to go back to, so an endless session needs no more memory than a short one.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from demo.controls import Controls

if TYPE_CHECKING:  # the page comes up while they load
    from torch import Tensor

    from worldmodel.rollout import Rollout, Snapshot
    from worldmodel.world import World

MAX_SEED = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class SessionConfig:
    """``mark_every`` steps a mark to go back to is kept, ``max_marks`` of them (15 steps are a second)."""

    mark_every: int = 15
    max_marks: int = 12
    max_branches: int = 4
    max_caption: int = 400


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What the player sees after something happened.

    Attributes:
        frames: uint8 ``(n, height, width, 3)``, in the order in which they are shown.
        state: the scene state in the schema's units, ``num_values`` numbers: none in a world without state.
        time: steps since the start.
        step_ms: how long the model took; 0 where it was not asked.
    """

    frames: np.ndarray
    state: list[float]
    time: int
    reward: float = 0.0
    terminated: bool = False
    step_ms: float = 0.0

    @property
    def still(self) -> Picture:
        """Its last frame alone, with nothing happening."""
        return replace(self, frames=self.frames[-1:], reward=0.0, step_ms=0.0)


@dataclass(frozen=True)
class Mark:
    """A moment to go back to. ``before_edit`` marks are always stopped at: undo first takes back the edit."""

    snapshot: Snapshot
    picture: Picture
    before_edit: bool = False


@dataclass
class Branch:
    """A rollout with its past."""

    rollout: Rollout
    picture: Picture
    start: Mark
    marks: deque[Mark] = field(default_factory=deque)


class Session:
    """One player in one world, which may lack actions, text, state or reward.

    ``world`` is used as given: its device, its number of threads. Mistakes raise ValueError with a sentence for the
    player.
    """

    def __init__(self, world: World, config: SessionConfig | None = None) -> None:
        self.world = world
        self.config = config or SessionConfig()
        self.controls = Controls(world.actions, world.page.get("keys"))
        self.plays_itself = bool(world.page.get("plays_itself")) and world.plays_itself
        self.upsample = False
        self.branches: list[Branch] = []
        self.current = 0

    @property
    def reads_prompt(self) -> bool:
        """Whether the world was trained on captions."""
        return self.world.text is not None

    @property
    def describes(self) -> bool:
        """Whether it can put its state into words."""
        return self.reads_prompt and self.world.schema.num_values > 0

    # -- beginning and end --------------------------------------------------------------------------

    def start(self, caption: str | None, seed: int, state: Mapping[str, Mapping[str, Any]] | None = None) -> Picture:
        """Begins a world from a caption and a part of its state (what is None, the model chooses) and forgets the one
        before."""
        caption, most = (caption or "").strip(), self.config.max_caption
        if caption and not self.reads_prompt:
            raise ValueError("This world reads no prompt: start it without one.")
        if len(caption) > most:
            raise ValueError(f"The prompt has {len(caption)} characters; keep it under {most}.")
        if not 0 <= seed <= MAX_SEED:
            raise ValueError(f"The seed must lie between 0 and {MAX_SEED}, got {seed}.")
        rollout = self.world.start(caption=caption or None, seed=seed, state=state, upsample=self.upsample)
        picture = Picture(frames=_frames(rollout.frames), state=_state(rollout), time=int(rollout.time))
        self.branches = [Branch(rollout, picture, Mark(rollout.snapshot(), picture))]
        self.current = 0
        return picture

    def close(self) -> None:
        """Lets go of every cache; the session can be started again."""
        self.branches = []

    @property
    def branch(self) -> Branch:
        if not self.branches:
            raise ValueError("No world is being played yet: start one first.")
        return self.branches[self.current]

    # -- playing ------------------------------------------------------------------------------------

    def hold(self, held: Sequence[str], values: Mapping[str, float] | None = None) -> None:
        """Says which keys are down and where switches and sliders stand; see ``Controls.hold``."""
        self.controls.hold(held, values)

    def step(self) -> Picture:
        """One step with what is held. A world that nobody steers goes on by itself, and so does one whose page says
        that it plays itself, while nothing is held."""
        branch = self.branch
        by_itself = self.plays_itself and self.controls.free
        action = None if by_itself else self.controls.action(branch.rollout.time)
        begun = time.perf_counter()
        step = branch.rollout.step(action)
        frames = _frames(step.frames if step.upsampled is None else step.upsampled)
        branch.picture = Picture(
            frames=frames,
            state=step.state[0].tolist(),
            time=int(branch.rollout.time),
            reward=float(step.reward[0]),
            terminated=bool(step.terminated[0]),
            step_ms=(time.perf_counter() - begun) * 1e3,
        )
        if branch.picture.time % self.config.mark_every == 0:
            self._keep(branch, Mark(branch.rollout.snapshot(), branch.picture))
        return branch.picture

    def edit(self, edit: Mapping[str, Mapping[str, Any]], *, continues: bool = False) -> Picture:
        """Writes the state, as ``{entity: {field: value}}``; the frames follow with the next step.

        One that ``continues`` the edit before it, as in a drag, is undone together with it.
        """
        _check_numbers(edit)
        branch = self.branch
        mark = None if continues else Mark(branch.rollout.snapshot(), branch.picture, before_edit=True)
        branch.rollout.edit(edit)
        if mark is not None:
            self._keep(branch, mark)
        elif any(mark.before_edit for mark in branch.marks):
            while not branch.marks[-1].before_edit:
                branch.marks.pop()
        branch.picture = replace(branch.picture, state=_state(branch.rollout), terminated=False)
        return branch.picture.still

    def tell(self, event: str) -> Picture:
        """Tells the next step what happens; undone as an edit is."""
        branch = self.branch
        mark = Mark(branch.rollout.snapshot(), branch.picture, before_edit=True)
        branch.rollout.tell(event.strip())
        self._keep(branch, mark)
        return branch.picture.still

    def describe(self) -> str:
        """What the model says of this moment."""
        if not self.describes:
            raise ValueError("This world has no words for its state.")
        return self.world.caption(self.branch.rollout.state[:1])[0]

    def undo(self) -> Picture:
        """Back to before the last edit, or about a second, whichever is less; at the least to the start."""
        branch = self.branch
        while branch.marks:
            mark = branch.marks[-1]
            if mark.before_edit or branch.picture.time - mark.picture.time >= self.config.mark_every // 2:
                break
            branch.marks.pop()
        else:
            mark = branch.start
        if mark.before_edit:
            branch.marks.pop()
        branch.rollout.restore(mark.snapshot)
        branch.picture = mark.picture
        return mark.picture.still

    def set_upsample(self, on: bool) -> None:
        if on and self.world.upsampler is None:
            raise ValueError("This world has no upsampler, so its pictures stay at their own size.")
        self.upsample = on
        for branch in self.branches:
            branch.rollout.upsample = on

    # -- branches -----------------------------------------------------------------------------------

    def fork(self) -> Picture:
        """Keeps this moment as it is and plays on in a copy."""
        if len(self.branches) >= self.config.max_branches:
            raise ValueError(f"There are {len(self.branches)} branches already; restart the world to free them.")
        branch = self.branch
        rollout = branch.rollout.fork()
        self.branches.append(Branch(rollout, branch.picture, Mark(rollout.snapshot(), branch.picture)))
        self.current = len(self.branches) - 1
        return branch.picture.still

    def switch(self, index: int) -> Picture:
        if not 0 <= index < len(self.branches):
            raise ValueError(f"There is no branch {index + 1}; there are {len(self.branches)}.")
        self.current = index
        return self.branch.picture.still

    def _keep(self, branch: Branch, mark: Mark) -> None:
        branch.marks.append(mark)
        if len(branch.marks) > self.config.max_marks:
            branch.marks.popleft()


def _frames(frames: Tensor) -> np.ndarray:
    """The first row's frames as contiguous bytes in host memory."""
    return np.ascontiguousarray(frames[0].cpu().numpy())


def _state(rollout: Rollout) -> list[float]:
    return rollout.state[0].tolist()


def _check_numbers(edit: Any) -> None:
    """The schema checks names and ranges; this checks that there are plain finite values to check."""
    if not isinstance(edit, Mapping) or not all(isinstance(fields, Mapping) for fields in edit.values()):
        raise ValueError('An edit looks like {"player": {"position": [0.1, 0.2]}}.')
    for entity, fields in edit.items():
        for name, value in fields.items():
            for part in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
                if not isinstance(part, (int, float, str)) or (isinstance(part, float) and not math.isfinite(part)):
                    raise ValueError(f"{entity}.{name} must be a finite number, got {part!r}.")
