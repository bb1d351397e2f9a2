"""How good a tokenizer's pictures are, and what becomes of its ids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import log2

import torch
from torch import Tensor

from tokenizer.clip import Episode
from tokenizer.video_autoencoder import FrameStates
from tokenizer.video_tokenizer import VideoTokenizer
from train.measure.bodies import Bodies, entity_map, rival_colours
from train.measure.foreground import REGIONS, PooledErrors, median_picture, regions
from train.measure.measurement import Measurement, Numbers, Pictures
from train.measure.metrics import (
    SMALL_PIXELS,
    code_use,
    decibels,
    error_change,
    flicker,
    looks_drawn,
    median_colours,
    nearest_is_own,
    psnr,
    squared_error,
    ssim,
    static_cells,
    surroundings,
    typical_colours,
)
from worldmodel.world import World

NAMES = {"decoded": "{}_db", "blind": "{}_without_state_db", "ceiling": "ceiling_{}_db"}


@dataclass(frozen=True, kw_only=True)
class EpisodeScores:
    """Pictures made of an episode's ``T``, held against them.

    psnr: (T,). body_error: squared errors of all pixels of movable bodies, (n,), where it is known which these are.
    """

    psnr: Tensor
    body_error: Tensor | None

    @classmethod
    def of(cls, made: Tensor, frames: Tensor, covered: Tensor | None) -> EpisodeScores:
        """``made`` and ``frames`` (T, H, W, 3), ``covered`` bool (T, H, W)."""
        error = None if covered is None else squared_error(made, frames)[covered]
        return cls(psnr=psnr(made, frames), body_error=error)


@dataclass(frozen=True, kw_only=True)
class BodyLooks:
    """How the bodies of an episode look at the ends of its steps, (M,) of them in all, seen or not.

    seen, own, around: colours (M, 3) decoded, true, and of what lies around. kinds: (M,) of ``num_kinds``.
    small: bool (m, 3) of the small ones: drawn where they are; nowhere around; the same of the recording itself.
    """

    seen: Tensor
    own: Tensor
    around: Tensor
    kinds: Tensor
    num_kinds: int
    small: Tensor

    @classmethod
    def of(cls, bodies: Bodies, decoded: Tensor, frames: Tensor, shown: Tensor, states: Tensor) -> BodyLooks:
        """``decoded`` and ``frames`` (T, H, W, 3), the entity map ``shown`` (T, H, W), ``states`` (T, num_values)."""
        masks = bodies.masks(shown)
        kinds, num_kinds = bodies.kinds(states)
        rings = surroundings(masks, masks.any(1))
        true, beside = median_colours(frames, masks), median_colours(frames, rings)
        few = ~true[..., 0].isnan() & ~beside[..., 0].isnan() & (masks.sum((-2, -1)) < SMALL_PIXELS)
        drawn, alone = looks_drawn(decoded, masks, rings, true, beside)
        recorded = looks_drawn(frames, masks, rings, true, beside)[1]
        return cls(
            seen=median_colours(decoded, masks).flatten(0, 1),
            own=true.flatten(0, 1),
            around=beside.flatten(0, 1),
            kinds=kinds.flatten(),
            num_kinds=num_kinds,
            small=torch.stack([drawn[few], alone[few], recorded[few]], 1),
        )


def measure_tokenizer(world: World, episodes: Sequence[Episode], ceiling: VideoTokenizer | None = None) -> Measurement:
    """Pixels to ids and back, with the recorded scene states if the tokenizer decodes with states: it is always
    given some in a rollout. Keys with ``without_state`` are from ids alone.

    ``psnr_db`` and ``ssim`` are means over pictures; ``psnr_by_frame_db`` the same by place within the latent frame,
    an episode's lone first frame apart. ``body_psnr_db`` is of the mean squared error over all pixels of movable
    bodies. ``colour_recall``: of the bodies visible at the ends of steps, the share whose median decoded colour is
    nearer to the body's true median colour in that picture than to the median of what lies around it there and to
    the colours that bodies of every other colour are typically seen in. ``small_body_recall`` and ``_precision``: of
    the visible bodies of few pixels, the share drawn where they are, and not around (see ``looks_drawn``);
    ``recorded_small_body_precision`` is what the recording itself gets: bodies of a colour touch, some are glass.
    ``static_id_change``: of the ids of static cells (see ``static_cells``), the share that differ from the previous
    latent frame's. ``temporal_variance``: see ``flicker``. ``error_change``: see there. Keys with ``ceiling`` are of
    another tokenizer, trained alike with a bottleneck that doesn't quantise. ``foreground_psnr_db`` and
    ``moving_psnr_db`` are over the pixels that matter (see ``foreground.py``); ``_median`` is what the episode's median
    picture gets there, ``_copy_last`` the last frame of the step before. ``foreground_share`` is of all pixels.
    """
    tokenizer, bodies, r = world.tokenizer, Bodies.of(world.schema), world.tokenizer.frames_per_step
    scores: dict[str, list[EpisodeScores]] = {name: [] for name in NAMES}
    means: defaultdict[str, list[Tensor]] = defaultdict(list)
    all_ids: list[Tensor] = []
    looks: list[BodyLooks] = []
    pictures, pooled = Pictures([], []), PooledErrors(1)
    changed = static = 0
    for episode in episodes:
        frames = torch.from_numpy(episode.frames)
        told = tokenizer.schema is not None and episode.states is not None
        known = torch.from_numpy(episode.states)[None].to(world.device) if told else None
        ids = tokenizer.encode(frames[None].to(world.device))
        decoded = tokenizer.decode(ids, known)[0].cpu()
        shown = covered = None
        if episode.segmentation is not None and episode.states is not None and len(bodies):
            shown = entity_map(episode.segmentation, tokenizer.size)
            covered = bodies.masks(shown).any(1)
            looks.append(BodyLooks.of(bodies, decoded[::r], frames[::r], shown[::r], torch.from_numpy(episode.states)))
        scores["decoded"].append(EpisodeScores.of(decoded, frames, covered))
        if known is not None:
            scores["blind"].append(EpisodeScores.of(tokenizer.decode(ids)[0].cpu(), frames, covered))
        if ceiling is not None:
            best = _unquantised(ceiling, frames, None if known is None else known.cpu())
            scores["ceiling"].append(EpisodeScores.of(best, frames, covered))
        median = median_picture(frames)
        held = frames[:-1:r].repeat_interleave(r, 0)  # the last frame of the step before
        still_pictures = {"median": median.expand_as(held), "copy_last": held}
        where = {name: pixels[None] for name, pixels in regions(frames, median).items()}
        for maker, made in {"": decoded[1:], **still_pictures}.items():
            pooled.note(maker, made[None], frames[None, 1:], where)
        for maker, made in still_pictures.items():
            means[f"psnr_db_{maker}"].append(psnr(made, frames[1:]))
        means["foreground_share"].append(where["foreground"].float().mean()[None])
        means["ssim"].append(ssim(decoded, frames))
        means["temporal_variance"].append(flicker(decoded, frames)[None])
        means["error_change"].append(error_change(decoded, frames))
        ids = ids[0].cpu()
        still = static_cells(frames, tokenizer.grid, r)
        static += int(still.sum())
        changed += int((still & (ids[1:] != ids[:-1])).sum())
        all_ids.append(ids)
        pictures.real.append(frames[::r])
        pictures.imagined.append(decoded[::r])
    first = torch.cat([score.psnr[:1] for score in scores["decoded"]])
    later = torch.cat([score.psnr[1:].view(-1, r) for score in scores["decoded"]])
    use = code_use(torch.cat([ids.flatten() for ids in all_ids]), tokenizer.num_codes)
    height, width = tokenizer.grid
    numbers: Numbers = {
        "psnr_db": torch.cat([first, later.flatten()]).mean(),
        "psnr_first_frame_db": first.mean(),
        "psnr_by_frame_db": later.mean(0),
        **{name: torch.cat(parts).nanmean() for name, parts in means.items()},
        **{
            f"{region}_psnr_db{maker and '_'}{maker}": pooled.psnr(region, maker)[0]
            for region in REGIONS
            for maker in ("", "median", "copy_last")
        },
        "bits_per_frame": height * width / r * log2(tokenizer.num_codes),
        "ids_per_frame": height * width / r,
        "codes": tokenizer.num_codes,
        "codebook_used": use.used,
        "perplexity": use.perplexity,
        "static_id_change": changed / static if static else None,
        "static_share": static / max(1, sum(ids[1:].numel() for ids in all_ids)),
    }
    for name, pattern in NAMES.items():
        if scores[name]:
            numbers.setdefault(pattern.format("psnr"), torch.cat([score.psnr for score in scores[name]]).mean())
        errors = [score.body_error for score in scores[name] if score.body_error is not None]
        if errors:
            numbers[pattern.format("body_psnr")] = decibels(torch.cat(errors).mean())
    return Measurement(numbers | _looks(looks), pictures)


def _looks(looks: Sequence[BodyLooks]) -> Numbers:
    """``colour_recall`` and how small bodies are drawn; nothing where no body was seen."""
    if not looks:
        return {}
    seen, own, around, kinds, small = (
        torch.cat([getattr(look, name) for look in looks]) for name in ("seen", "own", "around", "kinds", "small")
    )
    rivals = rival_colours(kinds, typical_colours(own, kinds, looks[-1].num_kinds))
    rivals = torch.cat([rivals, around[:, None]], 1)
    visible = ~own[:, 0].isnan()
    numbers: Numbers = {"colour_recall": nearest_is_own(seen, own, rivals)[visible].float().mean()}
    if len(small):
        recall, precision, recorded = small.float().mean(0).tolist()
        numbers |= {
            "small_bodies": len(small),
            "small_body_recall": recall,
            "small_body_precision": precision,
            "recorded_small_body_precision": recorded,
        }
    return numbers


@torch.no_grad()
def _unquantised(tokenizer: VideoTokenizer, frames: Tensor, states: Tensor | None) -> Tensor:
    """Frames uint8 (1 + r * n, H, W, 3) through a tokenizer whose bottleneck need not have ids."""
    video = (frames.movedim(-1, 1).float() / 255)[None]
    told = None if states is None or tokenizer.schema is None else FrameStates.of(states)
    out = tokenizer.cpu()(video, told).video[0].clamp(0, 1)
    return (out * 255).round().to(torch.uint8).movedim(1, -1).cpu()


def rebuilt(world: World, frames: Tensor, states: Tensor | None) -> Tensor:
    """Frames (B, 1 + r * n, H, W, 3) from their ids, and their states (B, 1 + n, num_values) if the tokenizer asks."""
    told = None if states is None or world.tokenizer.schema is None else states.to(world.device)
    return world.tokenizer.decode(world.tokenizer.encode(frames.to(world.device)), told).cpu()
