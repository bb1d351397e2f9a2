"""What a world must say of itself to be recorded, simulated, trained, measured and played: one frozen ``Recipe``.

``python -m train.check_world NAME`` holds a world against it. Everything but schema, ``make`` and ``sizes`` may be
left out: a world without states, actions or captions is a world of pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np

from tokenizer.state_schema import StateSchema
from train.measure.bars import Bar

Size = tuple[int, int]  # height, width
Policy = Callable[[Any], Any]
Event = tuple[str, str, Mapping[str, Any]]


@runtime_checkable
class Simulator(Protocol):
    """A Gymnasium environment. What an ``info`` may hold besides is optional, each key on its own.

    ``frames``: uint8 ``(k, height, width, 3)``, every pixel frame of the step: k is 1 after reset and
    ``frames_per_step`` after a step. Without it the observation is the one frame, and ``frames_per_step`` must be 1.
    ``state``: float32 ``(num_values,)``, as the step ends. ``states``: ``(k, num_values)``, one for each frame.
    ``segmentation``: uint8 ``(k, h, w)``: 0 for none, ``i + 1`` for the schema's i-th entity.
    ``caption``: what a person would say of the scene.
    ``seen``: what a policy is given in place of state or observation.

    ``terminated`` and ``truncated`` both end an episode. A world whose schema has no actions is given None.
    """

    @property
    def observation_space(self) -> gymnasium.Space[Any]: ...

    @property
    def action_space(self) -> gymnasium.Space[Any]: ...

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]: ...

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]: ...

    def close(self) -> None: ...


@runtime_checkable
class EditableSimulator(Simulator, Protocol):
    """Goes on from any state that is written into it, and draws it. ``reset(options={"state": edit})`` begins with one.
    What cannot be raises ValueError."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]: ...

    def write_state(self, edit: Mapping[str, Mapping[str, Any]] | np.ndarray) -> np.ndarray: ...

    def render(self) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One command of a release: module and arguments. ``proof`` is there when it is done, ``about`` is for the card."""

    name: str
    proof: Path
    command: tuple[str, ...]
    about: str = ""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A world.

    Attributes:
        make: a simulator that draws pictures of a size (height, width).
        sizes: those that it draws, the one that is recorded by default first.
        simulate: one for those who want its states alone; without it, ``make`` serves.
        shares: how often each behaviour plays. Without any, actions are drawn from the action space.
        behaviour: a policy by its name and its own random generator. It maps the state to an action, or the
            observation where the world has no state.
        segmented: the size of entity maps, None for a world without.
        editable: its simulators are ``EditableSimulator``: edits, events and long rollouts are held against them.
        event: draws what may befall a scene (``schema.to_dict`` of a state) besides actions: its kind, the words that
            tell of it, and the edit of the state that it is.
        claims: what a caption says of bodies, in the order in which it names them: field and value.
        phrases: what a world is told to measure it: ``{"events": {figure: text}, "shots": {figure: text}}``.
        measures: further measures of an evaluation by name, each called as
            ``(world, episodes, horizon=, seed=, sampling=)``, for a dictionary of numbers.
        bars: what a good world reaches, besides the bars that hold for any.
        guidance: by how much a scene should keep to its caption, stamped on exported worlds.
        page: for the player: ``name``, ``intro``, ``examples`` {title: caption}, an ``event`` that may be told,
            ``plays_itself`` where it does what is likely to be done while no key is held, and ``keys`` by action:
            ``{"keys": [code, …], "sign": "↑", "place": "up"}``.
        folder: where sources and ``configs/`` lie.
        release: stages from nothing to a shipped world, by size, of the folder to work in and a seed.
        card: what the model card says of the world and its limits, in Markdown.
        source: what its episodes come from, where no file of it says that: another source, other held-out episodes.
    """

    schema: StateSchema
    make: Callable[[Size], Simulator]
    sizes: tuple[Size, ...]
    simulate: Callable[[], Simulator] | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    behaviour: Callable[[str, np.random.Generator], Policy] | None = None
    segmented: Size | None = None
    editable: bool = False
    event: Callable[[Mapping[str, Any], np.random.Generator], Event] | None = None
    claims: Callable[[str], list[dict[str, str]]] | None = None
    phrases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    measures: Mapping[str, Callable[..., dict[str, Any]]] = field(default_factory=dict)
    bars: tuple[Bar, ...] = ()
    guidance: float = 1.0
    page: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    release: Mapping[str, Callable[[Path, int], list[Stage]]] = field(default_factory=dict)
    card: str = ""
    source: str = ""

    def states_only(self) -> Simulator:
        """A simulator for its states."""
        return self.simulate() if self.simulate is not None else self.make(self.sizes[0])


def step_info(records: list[dict[str, np.ndarray]], caption: str) -> dict[str, Any]:
    """A step's ``info``, from one record for each of its pixel frames."""
    info: dict[str, Any] = {key: np.stack([record[key] for record in records]) for key in records[0]}
    return info | {"state": records[-1]["states"], "caption": caption}
