"""How positions lie in the picture: a plane seen from straight above, or a camera that orbits a scene.

A schema with a view can be drawn (see `scene/`); one without is a list of values. Whoever asks which view it is asks
``isinstance``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import pi
from typing import Any, assert_never


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Tiles of a plane that stand or are gone: the flags of the field ``of`` ("entity.field"), row by row.

    ``grid`` (rows, columns) tiles fill the rectangle from ``low`` to ``high``, in the positions' units.
    """

    of: str
    grid: tuple[int, int]
    low: tuple[float, float] = (0.0, 0.0)
    high: tuple[float, float] = (1.0, 1.0)

    @property
    def count(self) -> int:
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Positions lie in the picture. ``low`` is its left-top and ``high`` its right-bottom corner, in their units."""

    low: tuple[float, float] = (0.0, 0.0)
    high: tuple[float, float] = (1.0, 1.0)
    tiles: Tiles | None = None


@dataclass(frozen=True, kw_only=True)
class Orbit:
    """A pinhole camera ``distance`` from ``target``, ``elevation`` radians above the horizontal.

    The picture is ``fovy`` radians high. The dynamic field ``azimuth_of`` ("entity.field") says where the camera
    stands, in radians. Bodies stand on z = 0, and their middles are ``size`` above it.
    """

    distance: float = 1.0
    elevation: float = pi / 4
    fovy: float = pi / 4
    target: tuple[float, float, float] = (0.0, 0.0, 0.0)
    azimuth_of: str = "camera.azimuth"


View = Plane | Orbit

# On disk every view has the keys of both, so that a schema's fingerprint is that of earlier versions.
_EITHER = {
    "low": (0.0, 0.0),
    "high": (1.0, 1.0),
    "distance": 1.0,
    "elevation": pi / 4,
    "fovy": pi / 4,
    "target": (0.0, 0.0, 0.0),
    "azimuth_of": "camera.azimuth",
}
KINDS = {"plane": Plane, "orbit": Orbit}


def view_to_json(view: View) -> dict[str, Any]:
    """What JSON says of a view. Tiles are said only where there are some."""
    match view:
        case Plane():
            own: dict[str, Any] = {"low": view.low, "high": view.high}
            if (tiles := view.tiles) is not None:
                own |= {"tiles_of": tiles.of, "tiles": tiles.grid, "tiles_low": tiles.low, "tiles_high": tiles.high}
            return {"kind": "plane", **_EITHER, **own}
        case Orbit():
            names = ("distance", "elevation", "fovy", "target", "azimuth_of")
            return {"kind": "orbit", **_EITHER, **{name: getattr(view, name) for name in names}}
        case _:
            assert_never(view)


def view_from_json(data: Mapping[str, Any]) -> View:
    """The view that JSON describes. Raises ValueError for an unknown kind, naming those there are."""
    said: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
    match said.get("kind"):
        case "plane":
            tiles = None
            if said.get("tiles_of"):
                names = {"of": "tiles_of", "grid": "tiles", "low": "tiles_low", "high": "tiles_high"}
                tiles = Tiles(**{name: said[key] for name, key in names.items() if key in said})
            return Plane(**{name: said[name] for name in ("low", "high") if name in said}, tiles=tiles)
        case "orbit":
            names = ("distance", "elevation", "fovy", "target", "azimuth_of")
            return Orbit(**{name: said[name] for name in names if name in said})
        case kind:
            raise ValueError(f"unknown kind of view {kind!r}; choose from {', '.join(KINDS)}")
