"""What is measured of pictures, ids and events: functions of tensors alone, each to be held against a known value.

Pictures are uint8 ``(..., H, W, 3)``; an entity map uint8 ``(..., H, W)`` says which entity a pixel shows (0:
none, ``i + 1``: the schema's i-th). Decibels are of values in [0, 1], at most 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from train.modules.picture_losses import decibels

LEAST_PIXELS = 12  # of a body in a 64x64 picture for it to count as visible
SMALL_PIXELS = 40  # fewer make a visible body a small one
STATIC_LEVELS = 2  # grey levels that a static cell's pixels may differ by
EVENT_TOLERANCE = 2  # steps that a foreseen event may come early or late


# -- pictures -------------------------------------------------------------------------------------------


def squared_error(pictures: Tensor, truth: Tensor) -> Tensor:
    """Mean over channels, for values in [0, 1]: ``(..., H, W)``."""
    return ((pictures.float() - truth.float()) / 255).square().mean(-1)


def psnr(pictures: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of every picture, ``(...)`` in dB."""
    return decibels(squared_error(pictures, truth).mean((-2, -1)))


def ssim(pictures: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of every picture, ``(...)``.

    Wang et al. 2004 (doi:10.1109/TIP.2003.819861): Gaussian window of 11 pixels with deviation 1.5, K = 0.01
    and 0.03, on each colour channel, averaged over the places where the window fits.
    """
    taps = torch.exp(-((torch.arange(11, device=pictures.device) - 5.0) ** 2) / (2 * 1.5**2))
    taps = taps / taps.sum()

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, taps.view(1, 1, 11, 1)), taps.view(1, 1, 1, 11))

    x, y = (p.movedim(-1, -3).flatten(0, -3)[:, None].float() / 255 for p in (pictures, truth))
    mean_x, mean_y = blur(x), blur(y)
    spread = blur(x * x) + blur(y * y) - mean_x**2 - mean_y**2
    together = blur(x * y) - mean_x * mean_y
    similar = (2 * mean_x * mean_y + 0.01**2) * (2 * together + 0.03**2)
    similar = similar / ((mean_x**2 + mean_y**2 + 0.01**2) * (spread + 0.03**2))
    return similar.mean((1, 2, 3)).view(*pictures.shape[:-3], 3).mean(-1)


def high_band_power(pictures: Tensor) -> Tensor:
    """Power of the mean colour's spatial frequencies above half of Nyquist's (either way), ``(...)``."""
    grey = pictures.float().mean(-1) / 255
    height, width = grey.shape[-2:]
    down, across = torch.fft.fftfreq(height).abs(), torch.fft.rfftfreq(width)
    high = torch.maximum(down[:, None], across) > 0.25
    return (torch.fft.rfft2(grey, norm="ortho").abs().square() * high.to(grey.device)).sum((-2, -1))


def laplacian_variance(pictures: Tensor) -> Tensor:
    """Variance over a picture of its mean colour's discrete Laplacian, ``(...)``: how much in focus it is.

    Pech-Pacheco et al. 2000 (doi:10.1109/ICPR.2000.903548).
    """
    grey = pictures.float().mean(-1) / 255
    down = grey[..., 2:, 1:-1] + grey[..., :-2, 1:-1] - 2 * grey[..., 1:-1, 1:-1]
    across = grey[..., 1:-1, 2:] + grey[..., 1:-1, :-2] - 2 * grey[..., 1:-1, 1:-1]
    return (down + across).flatten(-2).var(-1)


def error_change(video: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute change of the error (T, H, W, 3) from each frame to the next, (T - 1,), in the full range."""
    error = (video.float() - truth.float()) / 255
    return error.diff(dim=0).abs().mean((1, 2, 3))


def flicker(video: Tensor, truth: Tensor) -> Tensor:
    """Root mean square change from frame to frame where the true video (T, H, W, 3) stands still, in its full range.

    NaN where nothing stands still. Viewers do not see less than 0.012.
    """
    change, moved = (x[1:].float() - x[:-1].float() for x in (video, truth))
    still = moved.abs().amax(-1) <= STATIC_LEVELS
    return (change / 255).square().mean(-1)[still].mean().sqrt()


# -- colours of bodies ----------------------------------------------------------------------------------


def median_colours(pictures: Tensor, masks: Tensor, least: int = LEAST_PIXELS) -> Tensor:
    """Median RGB under masks: pictures (T, H, W, 3), masks bool (T, N, H, W) to (T, N, 3).

    NaN where a mask has fewer than ``least`` pixels.
    """
    values = torch.where(masks[..., None], pictures[:, None].float(), float("nan"))
    medians = values.flatten(2, 3).nanmedian(2).values
    return torch.where((masks.sum((-2, -1)) >= least)[..., None], medians, float("nan"))


def looks_drawn(pictures: Tensor, masks: Tensor, rings: Tensor, own: Tensor, around: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each body is drawn where it is, and nowhere around it: bool (T, N) twice.

    A pixel of ``pictures`` (T, H, W, 3) shows a body when it is nearer to its ``own`` true median colour than to that
    of what is ``around`` it, (T, N, 3) each. Drawn: at least half of its ``masks`` (T, N, H, W) show it. Not around: at
    least half of what shows it, in mask and ring, is in the mask.
    """
    pixels = pictures[:, None].float()
    shows = (pixels - own[:, :, None, None]).square().sum(-1) < (pixels - around[:, :, None, None]).square().sum(-1)
    inside, near = (shows & masks).sum((-2, -1)), (shows & (masks | rings)).sum((-2, -1))
    return 2 * inside >= masks.sum((-2, -1)), (2 * inside >= near) & (near > 0)


def surroundings(masks: Tensor, bodies: Tensor) -> Tensor:
    """What lies within three pixels of each mask and is no body: bool (T, N, H, W) and (T, H, W) to (T, N, H, W)."""
    return (F.max_pool2d(masks.float(), 7, stride=1, padding=3) > 0) & ~bodies[:, None]


def typical_colours(colours: Tensor, kinds: Tensor, num_kinds: int) -> Tensor:
    """Median of the colours (M, 3) that bodies of each kind (M,) are seen in: (num_kinds, 3), NaN for one unseen."""
    out = torch.full((num_kinds, 3), float("nan"))
    for kind in kinds.unique().tolist():
        out[kind] = colours[kinds == kind].nanmedian(0).values
    return out


def nearest_is_own(seen: Tensor, own: Tensor, rivals: Tensor) -> Tensor:
    """Whether colours (..., 3) are nearer to their own (..., 3) than to every rival (..., R, 3). NaN is no rival."""
    away = (seen[..., None, :] - rivals).square().sum(-1).nan_to_num(nan=float("inf"))
    return (seen - own).square().sum(-1) < away.amin(-1)


def share_shown(picture: Tensor, truth: Tensor, mask: Tensor, rivals: Tensor) -> float:
    """Share of a mask's pixels (H, W) that look like the true picture rather than like any rival.

    ``rivals`` (R, 3), or (H, W, R, 3) where they differ from place to place. NaN for an empty mask.
    """
    rivals = rivals.expand(*mask.shape, *rivals.shape[-2:])[mask]
    return float(nearest_is_own(picture[mask].float(), truth[mask].float(), rivals.float()).float().mean())


# -- ids ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CodeUse:
    """used: share of the codebook that occurs; perplexity: as many equally frequent codes have the same entropy."""

    used: float
    perplexity: float


def code_use(ids: Tensor, num_codes: int) -> CodeUse:
    counts = torch.bincount(ids.flatten(), minlength=num_codes).double()
    share = counts[counts > 0] / counts.sum()
    return CodeUse(used=len(share) / num_codes, perplexity=float(torch.exp(-(share * share.log()).sum())))


def static_cells(frames: Tensor, grid: tuple[int, int], r: int) -> Tensor:
    """Where nothing happens: bool (n, h, w) for the n pairs of consecutive latent frames of a clip.

    A cell of ``frames`` (1 + r * n, H, W, 3) is static in a pair when no channel of any of its pixels varies by
    more than ``STATIC_LEVELS`` grey levels over all pixel frames of both latents (the first latent being one frame).
    """
    height, width = frames.shape[1] // grid[0], frames.shape[2] // grid[1]
    lasting = torch.cat([frames[:1].expand(r - 1, -1, -1, -1), frames]).unflatten(0, (-1, r)).to(torch.int16)
    high, low = lasting.amax(1), lasting.amin(1)
    varies = torch.maximum(high[1:], high[:-1]) - torch.minimum(low[1:], low[:-1])  # (n, H, W, 3)
    worst = F.max_pool2d(varies.amax(-1).float(), (height, width))
    return worst <= STATIC_LEVELS


# -- positions and events -------------------------------------------------------------------------------


def masked_mean(values: Tensor, counts: Tensor) -> Tensor:
    """Mean over rows (B, T) of what counts (bool), (T,); NaN where nothing does."""
    return torch.where(counts, values, 0.0).sum(0) / counts.sum(0)


def first_event(flags: Tensor) -> int | None:
    """The first step whose flag is up, of (T,)."""
    steps = flags.nonzero()
    return int(steps[0]) if len(steps) else None


def event_f1(foreseen: Sequence[int | None], happened: Sequence[int | None]) -> float | None:
    """F1 of events that come once a row or not at all; found when foreseen within ``EVENT_TOLERANCE`` steps.

    None when nothing happened.
    """
    pairs = list(zip(foreseen, happened, strict=True))
    found = sum(a is not None and b is not None and abs(a - b) <= EVENT_TOLERANCE for a, b in pairs)
    wrong, missed = sum(a is not None for a, _ in pairs) - found, sum(b is not None for _, b in pairs) - found
    return 2 * found / (2 * found + wrong + missed) if found + missed else None
