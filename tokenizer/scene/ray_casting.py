"""What a camera sees of balls, upright boxes and upright cylinders, in closed form.

Rays are given in the body's own frame, where every solid reaches from -1 to 1 along each axis. Slabs are Kay and
Kajiya's (1986). Edges are as sharp as a pixel: a signed measure of how deep a ray passes, over how much it changes
from one pixel to the next, says what share of the pixel is covered; faces of a box are mixed across their shared edge
in the same way. The three solids are cast together, for they share most of the work, and each operation on a few
windows of pixels costs more to start than to do.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

SOLIDS = ("ball", "box", "cylinder")


def coverage(signed: Float[Tensor, "*batch"], edge: float = 1.0) -> Float[Tensor, "*batch"]:
    """Share of each pixel inside a shape, (..., rows, columns), from a measure that is positive inside.

    ``edge`` is the width of its edge in pixels, across the edge: 1 for pixels that are means, whose spread is the same
    in every direction, less for ones that are samples.
    """
    signed = signed.clamp(-2, 2)  # rays almost in a face's plane come near it far away
    below = torch.cat([signed[..., 1:, :], signed[..., -1:, :]], -2)
    beside = torch.cat([signed[..., 1:], signed[..., -1:]], -1)
    down, across = below - signed, beside - signed
    slope = torch.addcmul(down.square(), across, across).add_(1e-8).sqrt_()
    return (signed / (slope * edge) + 0.5).clamp(0, 1)


def cast_solids(
    origin: Float[Tensor, "... 3 _ _"], ray: Float[Tensor, "... 3 _ _"], pixel: Float[Tensor, ...], edge: float = 1.0
) -> Float[Tensor, "... 3 7 h w"]:
    """What rays meet first of each of :data:`SOLIDS`: (..., 3, 7, rows, columns).

    The seven are the share of the pixel that is covered, the point that is hit and the unit normal there; the last two
    are finite but mean nothing where nothing is covered.

    Args:
        origin: where rays start, (..., 3, rows, columns), or 1 in place of rows and columns.
        ray: their directions, of any length, shaped alike.
        pixel: how much of the body's frame one pixel shows, (...).
        edge: see :func:`coverage`.
    """
    (u, v, w), (x, y, z), pixel = origin.unbind(-3), ray.unbind(-3), edge * pixel[..., None, None]
    flat = torch.addcmul(x.square(), y, y).clamp_min(1e-6)
    level = torch.addcmul(u * x, v, y)

    length, middle = torch.addcmul(flat, z, z), torch.addcmul(level, w, z)
    miss = origin.square().sum(-3) - middle.square() / length  # squared distance at which a ray passes the centre
    ball = -(middle + ((1 - miss).clamp_min(0) * length).sqrt()) / length

    half = ray.abs().clamp_min(1e-6).reciprocal()  # of the way between two sides
    side = -ray.sign()
    near, far = torch.addcmul(-half, origin * side, half), torch.addcmul(half, origin * side, half)
    box = torch.maximum(torch.maximum(near[..., 0, :, :], near[..., 1, :, :]), near[..., 2, :, :])
    through = torch.minimum(torch.minimum(far[..., 0, :, :], far[..., 1, :, :]), far[..., 2, :, :]) - box
    faces = ((near - box[..., None, :, :]) / pixel[..., None, :, :]).exp()
    faces = faces * side / faces.sum(-3, keepdim=True)

    aside = torch.addcmul(u * y, v, x, value=-1).square() / flat  # squared distance from the axis
    chord = ((1 - aside).clamp_min(0) * flat).sqrt()
    round_near, round_far = -(level + chord) / flat, (chord - level) / flat
    low, high = near[..., 2, :, :], far[..., 2, :, :]
    cap = torch.sigmoid((low - round_near) / pixel)
    cylinder = torch.maximum(round_near, low)

    signed = [1 - miss, through, 1 - aside, torch.minimum(round_far, high) - cylinder]
    cover = coverage(torch.stack(signed, -3), edge)
    reach = torch.stack([ball, box, cylinder], -3)[..., None, :, :]
    point = torch.addcmul(origin[..., None, :, :, :], reach, ray[..., None, :, :, :]).clamp(-2, 2)
    round_side = point[..., 2, :2, :, :] * (1 - cap)[..., None, :, :]
    top = (side[..., 2, :, :] * cap)[..., None, :, :]
    return torch.stack(
        [
            torch.cat([cover[..., :1, :, :], point[..., 0, :, :, :], point[..., 0, :, :, :]], -3),
            torch.cat([cover[..., 1:2, :, :], point[..., 1, :, :, :], faces], -3),
            torch.cat([cover[..., 2:, :, :].amin(-3, keepdim=True), point[..., 2, :, :, :], round_side, top], -3),
        ],
        -4,
    )
