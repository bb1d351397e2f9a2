"""How good an upsampler's pictures are, held against interpolation, a regressor and models that keep no past."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenizer.clip import Episode, shrink
from train.measure.bodies import Bodies, entity_map
from train.measure.measurement import Measurement, Numbers, Pictures
from train.measure.metrics import (
    STATIC_LEVELS,
    decibels,
    error_change,
    flicker,
    high_band_power,
    laplacian_variance,
    psnr,
    squared_error,
    ssim,
)
from train.measure.tokenizer import rebuilt
from worldmodel.upsampler import Upsampler
from worldmodel.world import World

LOCK, RECENT = 4.0, 8  # grey levels; frames
CHUNK = 16  # frames of a chunk, where chunks are compared
OVERLAP = 8


def measure_upsampler(
    world: World, large: Sequence[Episode], *, num_steps: int, seed: int, regressor: Upsampler | None = None
) -> Measurement:
    """The tokenizer's frames made larger, against episodes recorded at the large size.

    Keys without a prefix, and those of ``one_step_``, are of one denoising step, as people play; others say how many,
    or whose they are. ``high_band_ratio`` and ``laplacian_ratio``: power above half of Nyquist's frequency, and the
    Laplacian's variance, over those of the recording (1: as sharp). ``temporal_variance``: see ``flicker``;
    ``recorded_temporal_variance`` is the recording's own.

    ``locked_``: places keep what they show until the small frame changes there by more than 4 grey levels (see
    ``Upsampler.step``); ``lock_ghosting_db`` is the PSNR that this costs where the recording moved within the last
    eight frames.

    ``seam_ratio``: how much the error changes (see ``error_change``) where a chunk of 16 frames begins, over the same
    where the clip is made in one piece; the stream that people see is chunk after chunk on a cache. ``naive_`` chunks
    have no past, ``blended_`` ones overlap by 8 frames (see ``Upsampler.in_chunks``).
    """
    upsampler = world.upsampler
    assert upsampler is not None
    bodies, r = Bodies.of(world.schema), world.tokenizer.frames_per_step
    means: dict[str, list[Tensor]] = {}  # over pictures
    on_bodies: dict[str, list[Tensor]] = {}  # squared errors of their pixels
    ghosts: dict[str, list[Tensor]] = {}  # squared errors where something moved
    seams: dict[str, list[Tensor]] = {"whole": [], "": [], "naive_": [], "blended_": []}
    pictures = Pictures([], [])
    for episode in large:
        clip = episode.window(0, min(num_steps, (len(episode.frames) - 1) // r))
        frames, states = torch.from_numpy(clip.frames), clip.states
        known = None if states is None else torch.from_numpy(states)[None].to(world.device)
        small = torch.from_numpy(shrink(clip.frames, upsampler.config.small_size))[None]
        small = rebuilt(world, small, known).to(world.device)
        given = known if len(bodies) else None
        bicubic = F.interpolate(small[0].movedim(-1, 1).float(), scale_factor=upsampler.config.factor, mode="bicubic")
        shown = (
            None
            if clip.segmentation is None
            else bodies.masks(entity_map(clip.segmentation, clip.frames.shape[1:3])).any(1)
        )
        versions = {
            "": upsampler(small, given, seed)[0].cpu(),
            "two_step_": upsampler(small, given, seed, 2)[0].cpu(),
            "four_step_": upsampler(small, given, seed, 4)[0].cpu(),
            "bicubic_": bicubic.round().clamp(0, 255).to(torch.uint8).movedim(1, -1).cpu(),
        }
        versions["locked_"] = _locked(upsampler, small, given, seed)
        moving = _moved(frames)
        for prefix in ("", "locked_"):
            ghosts.setdefault(prefix, []).append(squared_error(versions[prefix], frames)[moving])
        if regressor is not None:
            versions["regressor_"] = regressor(small, given)[0].cpu()
        for prefix, made in versions.items():
            scores = {
                "psnr_db": psnr(made, frames),
                "ssim": ssim(made, frames),
                "high_band_ratio": high_band_power(made) / high_band_power(frames).clamp_min(1e-9),
                "laplacian_ratio": laplacian_variance(made) / laplacian_variance(frames).clamp_min(1e-9),
                "temporal_variance": flicker(made, frames)[None],
                "error_change": error_change(made, frames),
            }
            for name, values in scores.items():
                means.setdefault(prefix + name, []).append(values)
            if shown is not None:
                on_bodies.setdefault(f"{prefix}body_psnr_db", []).append(squared_error(made, frames)[shown])
        means.setdefault("recorded_temporal_variance", []).append(flicker(frames, frames)[None])
        for name, made in _chunked(upsampler, small, given, seed, versions[""]).items():
            seams[name].append(error_change(made, frames)[CHUNK - 1 :: CHUNK])
        pictures.real.append(frames[::r])
        pictures.imagined.append(versions[""][::r])
    numbers: Numbers = {name: torch.cat(parts).nanmean() for name, parts in means.items()}
    numbers |= {name: decibels(torch.cat(parts).mean()) for name, parts in on_bodies.items()}
    free, locked = (decibels(torch.cat(ghosts[prefix]).mean()) for prefix in ("", "locked_"))
    numbers["lock_ghosting_db"] = free - locked
    numbers["one_step_psnr_db"] = numbers["psnr_db"]
    if len(whole := torch.cat(seams.pop("whole"))):
        numbers |= {f"{name}seam_ratio": torch.cat(parts).mean() / whole.mean() for name, parts in seams.items()}
    return Measurement(numbers, pictures)


def _moved(frames: Tensor) -> Tensor:
    """(T, H, W): which pixels of frames uint8 (T, H, W, 3) changed within the last frames."""
    change = (frames[1:].float() - frames[:-1].float()).abs().amax(-1) > STATIC_LEVELS
    change = torch.cat([change.new_zeros(RECENT, *change.shape[1:]), change])
    return change.unfold(0, RECENT, 1).any(-1)


@torch.no_grad()
def _locked(upsampler: Upsampler, small: Tensor, states: Tensor | None, seed: int) -> Tensor:
    """A clip (1, 1 + r * n, h, w, 3) step by step, locked where it stands still: (1 + r * n, H, W, 3)."""
    cache, seeds = upsampler.start_cache(1), torch.full((1,), seed, device=small.device)
    steps = 0 if states is None else states.shape[1] - 1
    r = (small.shape[1] - 1) // steps if steps else small.shape[1]
    parts = []
    for i, start in enumerate([0, *range(1, small.shape[1], r)]):
        piece = small[:, start : start + r] if start else small[:, :1]
        state, before = (None, None) if states is None else (states[:, i], states[:, max(0, i - 1)])
        parts.append(upsampler.step(piece, state, before, cache, seeds, lock=LOCK))
    return torch.cat(parts, 1)[0].cpu()


@torch.no_grad()
def _chunked(upsampler: Upsampler, small: Tensor, states: Tensor | None, seed: int, whole: Tensor) -> dict[str, Tensor]:
    """A clip in one piece, and in chunks: on a cache, without a past, and blended."""
    moved = None if states is None or upsampler.motion is None else upsampler.frame_states(states, small.shape[1])
    cache, seeds = upsampler.start_cache(1), torch.full((1,), seed, device=small.device)
    parts = []
    for start in range(0, small.shape[1], CHUNK):
        piece = slice(start, start + CHUNK)
        parts.append(upsampler.generate(small[:, piece], None if moved is None else moved[:, piece], cache, seeds))

    def chunks(overlap: int) -> Tensor:
        return upsampler.in_chunks(small, states, seed, chunk=CHUNK, overlap=overlap)[0].cpu()

    cached = upsampler.to_pixels(torch.cat(parts, 1))[0].cpu()
    return {"whole": whole, "": cached, "naive_": chunks(0), "blended_": chunks(OVERLAP)}
