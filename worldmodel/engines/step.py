"""What goes into a step and what comes out of it: tensors alone, so that any runtime may take a step over.

Dimension keys: B rows, A ids of an action, F values of a state, S its slots, V ids of a frame, Q slots of a step.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldmodel.kv_cache import Past
from worldmodel.transformer import KeysValues


@dataclass(frozen=True)
class StepStart:
    """What a step starts from.

    past: what it may see. far: cosines and sines (1, head_dim) that move what is far to its place; None where it is
    there already. state_ids: (B, S), those that led to ``state`` (B, F). shown: (B, F), what the last picture shows.
    video_ids: (B, V), the last picture's.
    """

    past: Past
    far: tuple[Tensor, Tensor] | None
    state_ids: Int[Tensor, "B S"]
    state: Float[Tensor, "B F"]
    shown: Float[Tensor, "B F"]
    video_ids: Int[Tensor, "B V"]


@dataclass(frozen=True)
class StepQuery:
    """What is asked of a step.

    actions: (B, A), -1 for none. cos, sin: (Q, head_dim) of the step's slots. uniforms: (B, S + V). limits: (B, F, 2),
    within which the state is kept (``steering.py``). Where they are not below 0, ``fixed_video`` ids (B, V) are taken
    as they are; ``fixed_state`` is the whole outcome of the state's passes, ids (B, S) and values (B, F).
    """

    actions: Int[Tensor, "B A"]
    cos: Float[Tensor, "Q head_dim"]
    sin: Float[Tensor, "Q head_dim"]
    uniforms: Float[Tensor, "B chances"]
    limits: Float[Tensor, "B F 2"] | None = None
    fixed_video: Int[Tensor, "B V"] | None = None
    fixed_state: tuple[Int[Tensor, "B S"], Float[Tensor, "B F"]] | None = None


@dataclass(frozen=True)
class Simulated:
    """The state that a step leads to, (B, F), its ids (B, S), and keys and values of action and state slots.

    outlook: what is expected of it, where its ids say so. doubt: (B, entities), see ``StepResult``.
    """

    state_ids: Int[Tensor, "B S"]
    state: Float[Tensor, "B F"]
    kept: KeysValues
    outlook: Outlook | None = None
    doubt: Float[Tensor, "B entities"] | None = None


@dataclass(frozen=True)
class Outlook:
    """What is expected of a step: its mean ``reward`` (B,), and how likely it is the last, ``end`` (B,)."""

    reward: Float[Tensor, " B"]
    end: Float[Tensor, " B"]


@dataclass(frozen=True)
class Drawn:
    """A frame's ids (B, V), keys and values of all slots of its step, and what its slots were told, (B, V, width).

    doubt: (B, 1), see ``StepResult``.
    """

    video_ids: Int[Tensor, "B V"]
    kept: KeysValues
    told: Float[Tensor, "B V width"]
    doubt: Float[Tensor, "B 1"] | None = None


@dataclass(frozen=True)
class StepResult:
    """What a step led to: its state, its frame's ids, and keys and values of all its slots.

    reward and terminated (B,) are those read from the picture; None where the state holds them, or nothing does.
    outlook: None where nothing tells reward and end. doubt: the mean entropy, in nats, of the ids of each of the
    state's entities, (B, entities), or of the frame's, (B, 1), in a world without a state; None unless it was asked
    for. video_ids are the last picture's where nothing was drawn.
    """

    state_ids: Int[Tensor, "B S"]
    state: Float[Tensor, "B F"]
    video_ids: Int[Tensor, "B V"]
    kept: KeysValues
    reward: Float[Tensor, " B"] | None = None
    terminated: Bool[Tensor, " B"] | None = None
    outlook: Outlook | None = None
    doubt: Float[Tensor, "B doubts"] | None = None


@dataclass(frozen=True)
class Wanted:
    """What a step is to tell besides its state: a picture, and how sure it was."""

    picture: bool = True
    doubt: bool = False


PICTURE = Wanted()
