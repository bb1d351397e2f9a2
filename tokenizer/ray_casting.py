"""What a camera sees of balls, upright boxes and upright cylinders, in closed form.

Rays are given in the body's own frame, where every solid reaches from -1 to 1 along each axis, as three tensors of
components that need only broadcast. Slabs are Kay and Kajiya's (1986). Edges are as sharp as a pixel: a signed
measure of how deep a ray passes, over how much it changes from one pixel to the next, says what share of the pixel is
covered; faces of a box are mixed across their shared edge in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Vector = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Surface:
    """What rays meet first: ``cover`` in [0, 1], where it is hit, ``point``, and the unit ``normal`` there.

    Points and normals are finite but mean nothing where nothing is covered.
    """

    cover: Tensor
    point: Vector
    normal: Vector


def coverage(signed: Tensor) -> Tensor:
    """Share of each pixel inside a shape, (..., rows, columns), from a measure that is positive inside."""
    signed = signed.clamp(-2, 2)  # rays almost in a face's plane come near it far away
    down, across = signed.diff(dim=-2), signed.diff(dim=-1)
    slope = torch.nn.functional.pad(down, (0, 0, 0, 1)).abs() + torch.nn.functional.pad(across, (0, 1)).abs()
    return (signed / slope.clamp_min(1e-4) + 0.5).clamp(0, 1)


def dot(a: Vector, b: Vector) -> Tensor:
    return torch.addcmul(torch.addcmul(a[0] * b[0], a[1], b[1]), a[2], b[2])


def along(origin: Vector, ray: Vector, reach: Tensor, bound: float = 2.0) -> Vector:
    """The points so far along the rays, in units of ``ray``; no coordinate leaves ``bound``."""
    x, y, z = (torch.addcmul(o, reach, d).clamp(-bound, bound) for o, d in zip(origin, ray, strict=True))
    return x, y, z


def cast_ball(origin: Vector, ray: Vector) -> Surface:
    length, middle = dot(ray, ray), dot(origin, ray)
    miss = dot(origin, origin) - middle.square() / length  # squared distance at which a ray passes the centre
    reach = (-middle - ((1 - miss).clamp_min(0) * length).sqrt()) / length
    point = along(origin, ray, reach)
    return Surface(coverage(1 - miss), point, point)


def _slab(origin: Tensor, ray: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where rays enter and leave the space between -1 and 1, and the sign of the side they enter by."""
    ray = torch.where(ray.abs() < 1e-6, torch.full_like(ray, 1e-6), ray)
    inverse = ray.reciprocal()
    middle, half = -origin * inverse, inverse.abs()
    return middle - half, middle + half, -ray.sign()


def cast_box(origin: Vector, ray: Vector, pixel: Tensor) -> Surface:
    """``pixel`` is how much of the body's frame one pixel shows."""
    slabs = [_slab(o, d) for o, d in zip(origin, ray, strict=True)]
    enter = torch.maximum(torch.maximum(slabs[0][0], slabs[1][0]), slabs[2][0])
    leave = torch.minimum(torch.minimum(slabs[0][1], slabs[1][1]), slabs[2][1])
    faces = [((near - enter) / pixel).exp() for near, _, _ in slabs]
    total = faces[0] + faces[1] + faces[2]
    x, y, z = (face / total * side for face, (_, _, side) in zip(faces, slabs, strict=True))
    return Surface(coverage(leave - enter), along(origin, ray, enter), (x, y, z))


def cast_cylinder(origin: Vector, ray: Vector, pixel: Tensor) -> Surface:
    """``pixel`` is how much of the body's frame one pixel shows."""
    flat = (ray[0].square() + ray[1].square()).clamp_min(1e-6)
    middle = origin[0] * ray[0] + origin[1] * ray[1]
    miss = (origin[0] * ray[1] - origin[1] * ray[0]).square() / flat
    half = ((1 - miss).clamp_min(0) * flat).sqrt()
    low, high, side = _slab(origin[2], ray[2])
    enter, leave = (-middle - half) / flat, (half - middle) / flat
    cap = torch.sigmoid((low - enter) / pixel)
    reach = torch.maximum(enter, low)
    point = along(origin, ray, reach)
    normal = (point[0] * (1 - cap), point[1] * (1 - cap), side * cap)
    cover = torch.minimum(coverage(1 - miss), coverage(torch.minimum(leave, high) - reach))
    return Surface(cover, point, normal)
