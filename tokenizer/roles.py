"""What a field's role means: who reads it, what it does there, and what a field must be to play it.

Networks never ask for a field's or an entity's name. They ask for roles, so a misspelt one would be silence: it is
refused instead. ``value`` is the role of whatever means nothing but itself. Every role, ``value`` too, is a network
input and is predicted; the table says what it does besides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

Reader = Literal["scene", "outcome", "steering", "estimator", "environment", "measures", "page"]


@dataclass(frozen=True, kw_only=True)
class Role:
    """One row of the table.

    Attributes:
        does: what a field of this role does.
        readers: who asks for it; nobody means that it is one value among others.
        kinds: the kinds of field that can play it; none means any.
        sizes: the numbers of components that it can have; none means any.
        static: whether it must stay for the whole scene (True), must vary (False), or may do either (None).
    """

    does: str
    readers: tuple[Reader, ...] = ()
    kinds: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    static: bool | None = None


ROLES: dict[str, Role] = {
    # -- bodies: the entities that have a position --------------------------------------------------
    "position": Role(
        does="makes its entity a body, which is painted where it is seen and meets other bodies and its range's ends",
        readers=("scene", "outcome", "steering", "measures", "page"),
        kinds=("continuous",),
        sizes=(1, 2, 3),
    ),
    "velocity": Role(
        does="says how fast bodies close in on each other; its unit names the time, as in m/s or px/frame",
        readers=("scene", "outcome", "measures", "page"),
        kinds=("continuous",),
    ),
    "size": Role(
        does="is a body's half extent: how large it is drawn and when it touches",
        readers=("scene", "outcome", "steering", "measures", "page"),
        kinds=("continuous",),
        sizes=(1,),
    ),
    "present": Role(
        does="says whether its entity is there; of one that is not, nothing is drawn, met or said",
        readers=("scene", "outcome", "estimator", "measures", "page"),
        kinds=("flag",),
        sizes=(1,),
    ),
    "orientation": Role(
        does="turns a body about the vertical; its period is the angle after which the body looks the same",
        readers=("scene", "page"),
        kinds=("continuous",),
        sizes=(1,),
    ),
    "shape": Role(
        does="is part of a body's kind, which decides how it is drawn and moves",
        readers=("scene", "measures", "page"),
        kinds=("categorical",),
        sizes=(1,),
    ),
    "colour": Role(
        does="is part of a body's kind, and what people call it by",
        readers=("scene", "measures", "page"),
        kinds=("categorical",),
        sizes=(1,),
    ),
    "material": Role(
        does="is part of a body's kind",
        readers=("scene", "measures", "page"),
        kinds=("categorical",),
        sizes=(1,),
    ),
    "angular_velocity": Role(does="is how fast a body turns; drawn on the page's map", readers=("page",)),
    # -- camera and light ---------------------------------------------------------------------------
    "camera": Role(
        does="is where the camera stands; the view names the field that turns the picture",
        readers=("scene", "measures", "page"),
        kinds=("continuous",),
    ),
    "camera_rate": Role(does="is how fast the camera turns; a cut sets it"),
    "light": Role(
        does="is, where it is periodic, the angle that light comes from: shadows fall away from it",
        readers=("scene", "page"),
        kinds=("continuous",),
        sizes=(1,),
    ),
    "light_rate": Role(does="is how fast the light turns"),
    "light_brightness": Role(does="is how bright the light is", readers=("page",)),
    # -- tiles --------------------------------------------------------------------------------------
    "tiles": Role(
        does="is which tiles of a plane stand: bodies meet them; the view says where they lie",
        readers=("scene", "measures"),
        kinds=("bits",),
    ),
    # -- of the episode -----------------------------------------------------------------------------
    "reward": Role(
        does="is what a step earned, read from the states around it and given back by the environment",
        readers=("outcome", "environment", "measures"),
        sizes=(1,),
        static=False,
    ),
    "terminated": Role(
        does="ends the episode, read from the states around the step",
        readers=("outcome", "environment", "measures"),
        kinds=("flag",),
        sizes=(1,),
        static=False,
    ),
    "motion": Role(
        does="is the mean speed of bodies as a stream begins: told in the header, not measured later",
        readers=("scene", "measures", "page"),
        kinds=("continuous",),
        sizes=(1,),
        static=True,
    ),
    # -- values that nobody asks for by their role --------------------------------------------------
    "rate": Role(does="is a speed or a count that belongs to nothing above"),
    "score": Role(does="is the points of a game", readers=("measures",)),
    "lives": Role(does="is how often one may still fail", readers=("measures",)),
    "value": Role(does="means nothing but itself"),
}


def check_role(field: str, role: str, *, kind: str, size: int, static: bool) -> None:
    """Raises ValueError unless a field of this kind and size can play the role; calls it ``field``, offers the mend."""
    known = ROLES.get(role)
    if known is None:
        offer = nearest(role, ROLES) if get_close_matches(role, ROLES, 1) else "use 'value' for what only means itself"
        raise ValueError(f"{field} has the unknown role {role!r}: {offer}")
    if known.kinds and kind not in known.kinds:
        raise ValueError(f"{field} is {kind}, but the role {role!r} is for {' or '.join(known.kinds)} fields")
    if known.sizes and size not in known.sizes:
        sizes = " or ".join(map(str, known.sizes))
        raise ValueError(f"{field} has size {size}, but the role {role!r} is for fields of size {sizes}")
    if known.static is not None and static != known.static:
        raise ValueError(f"{field} has static={static}, but the role {role!r} is for fields with static={known.static}")


def nearest(word: str, known: Iterable[str]) -> str:
    """The mend for a word that is not ``known``: the nearest that is, or all of them."""
    words = list(known)
    close = get_close_matches(word, words, 1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"choose from {', '.join(words)}" if words else "there are none"
