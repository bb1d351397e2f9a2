"""From places in the world to places in the picture and back, through a schema's view."""

from __future__ import annotations

from functools import cache
from math import cos, sin, tan

import torch
from jaxtyping import Float
from torch import Tensor

from tokenizer.view import Orbit, Plane, View


def project(
    view: View, points: Float[Tensor, "*batch 3"], azimuth: Float[Tensor, ...] | None, aspect: float = 1.0
) -> tuple[Float[Tensor, "*batch 2"], Float[Tensor, "*batch"]]:
    """Points (..., 3) to picture coordinates in [0, 1] (x right, y down) and how large a unit length looks there.

    ``azimuth`` (broadcastable to ``points[..., 0]``) turns an orbiting camera, whose picture is ``aspect`` times as
    wide as high; the second value is in picture heights per unit, (...,).
    """
    if isinstance(view, Plane):
        low, high = _corners(view, points.device, points.dtype)
        scale = 1 / (high - low).abs()[1]
        return (points[..., :2] - low) / (high - low), scale.expand(points.shape[:-1])
    assert azimuth is not None
    axes, eye = camera(view, azimuth)
    right, up, forward = (axes * (points - eye)[..., None, :]).sum(-1).unbind(-1)
    scale = 0.5 / tan(view.fovy / 2) / forward.clamp_min(1e-3)
    across = right * scale if aspect == 1 else right * (scale / aspect)
    return torch.stack([0.5 + across, 0.5 - up * scale], -1), scale


def unproject(
    view: View,
    picture: Float[Tensor, "... 2"],
    azimuth: Float[Tensor, ...] | None,
    height: Tensor | float = 0.0,
    aspect: float = 1.0,
) -> Float[Tensor, "... 2"]:
    """The point (..., 2) seen at picture coordinates (..., 2) on the floor, or on the plane at ``height`` (..., 1)."""
    if isinstance(view, Plane):
        low, high = _corners(view, picture.device, picture.dtype)
        return low + picture * (high - low)
    assert azimuth is not None
    axes, eye = camera(view, azimuth)
    across = (2 * picture - 1) * tan(view.fovy / 2)
    right = across[..., :1] if aspect == 1 else across[..., :1] * aspect
    ray = axes[..., 2, :] + right * axes[..., 0, :] - across[..., 1:] * axes[..., 1, :]
    reach = (eye[..., 2:] - height) / (-ray[..., 2:]).clamp_min(0.05)  # rays above the horizon end far out
    return eye[..., :2] + reach * ray[..., :2]


def cell_centres(grid: tuple[int, int]) -> Float[Tensor, "cells 2"]:
    """Picture coordinates (x, y) of the middles of a grid's cells, (rows * columns, 2)."""
    rows, columns = grid
    y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1)


def camera(
    view: Orbit, azimuth: Float[Tensor, "*batch"]
) -> tuple[Float[Tensor, "*batch 3 3"], Float[Tensor, "*batch 3"]]:
    """An orbiting camera's unit vectors right, up and forward, (..., 3, 3), and its eye, (..., 3)."""
    turn = torch.stack([azimuth.cos(), azimuth.sin(), torch.ones_like(azimuth)], -1)
    # No matrix product: autocast would round it.
    axes = (turn[..., None] * _orbit(view, azimuth.device, azimuth.dtype)).sum(-2)
    axes = axes.unflatten(-1, (4, 3))
    return axes[..., :3, :], axes[..., 3, :]


@cache
def _corners(view: Plane, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A plane's left-top and right-bottom corners, (2,) each. Made once: a constant comes from the host."""
    return torch.tensor(view.low, device=device, dtype=dtype), torch.tensor(view.high, device=device, dtype=dtype)


@cache
def _orbit(view: Orbit, device: torch.device, dtype: torch.dtype) -> Tensor:
    """What cosine and sine of the azimuth and 1 contribute to right, up, forward and eye, (3, 12)."""
    e, d, (x, y, z) = view.elevation, view.distance, view.target
    cos_e, sin_e = cos(e), sin(e)
    of_cos = [1, 0, 0, 0, sin_e, 0, 0, cos_e, 0, 0, -d * cos_e, 0]
    of_sin = [0, 1, 0, -sin_e, 0, 0, -cos_e, 0, 0, d * cos_e, 0, 0]
    of_one = [0, 0, 0, 0, 0, cos_e, 0, 0, -sin_e, x, y, z + d * sin_e]
    return torch.tensor([of_cos, of_sin, of_one], device=device, dtype=dtype)
