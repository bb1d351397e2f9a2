"""How good a world is on held-out episodes: its tokenizer, its rollouts, its reading of pictures, its speed.

Every function returns numbers under the keys that ``train.evaluate`` writes, and pictures for its report.
Rollouts start from an episode's first frame and true first state and then run free on the recorded actions.
Distances are shares of the table's width. Lists "by step" begin with step 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import degrees, log2
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenizer.clip import Clip, Episode
from tokenizer.state_schema import StateSchema
from tokenizer.video_autoencoder import FrameStates
from tokenizer.video_tokenizer import VideoTokenizer
from train.data.tokens import TokenisedEpisode
from train.measure.metrics import (
    EVENT_TOLERANCE,
    SMALL_PIXELS,
    code_use,
    decibels,
    error_change,
    event_f1,
    first_event,
    flicker,
    looks_drawn,
    masked_mean,
    median_colours,
    nearest_is_own,
    psnr,
    squared_error,
    ssim,
    static_cells,
    surroundings,
    typical_colours,
)
from worldmodel.bench import time_steps
from worldmodel.rollout import Rollout
from worldmodel.sampling import Sampling
from worldmodel.world import World

Numbers = dict[str, Any]
MARKS = (8, 16, 32, 64)  # steps whose errors get a key of their own
LATER = 8  # steps after that at which a rollout's picture is compared
CONTEXT = 4  # latent frames before the one that a state is read from
ROWS = 16  # of a batch


@dataclass(frozen=True)
class Pictures:
    """Real beside imagined for the report: uint8 (T, H, W, 3) each, one frame for every latent frame, by episode."""

    real: list[Tensor]
    imagined: list[Tensor]


@dataclass(frozen=True)
class Measured:
    numbers: Numbers
    pictures: Pictures | None = None


# -- what moves -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bodies:
    """The schema's movable bodies: entities with a position and a velocity. The first is the player's."""

    schema: StateSchema
    names: tuple[str, ...]

    @classmethod
    def of(cls, schema: StateSchema) -> Bodies:
        moving = schema.role_columns("velocity")
        return cls(schema, tuple(name for name in schema.role_columns("position") if name in moving))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labels(self) -> Tensor:
        """What an entity map shows for each body, (N,)."""
        order = [entity.name for entity in self.schema.entities]
        return torch.tensor([order.index(name) + 1 for name in self.names], dtype=torch.uint8)

    @property
    def width(self) -> float:
        """Of the table: the range of the first body's position."""
        entity = self.schema.entity(self.names[0])
        field = next(f for f in entity.fields if f.role == "position")
        return field.high - field.low

    def of_role(self, states: Tensor, role: str) -> Tensor | None:
        """(..., num_values) to (..., N, size); None where a body lacks the role."""
        columns = self.schema.role_columns(role)
        if any(name not in columns for name in self.names):
            return None
        return torch.stack([states[..., columns[name]] for name in self.names], -2)

    def present(self, states: Tensor) -> Tensor:
        """bool (..., N)."""
        flags = self.of_role(states, "present")
        return torch.ones(*states.shape[:-1], len(self), dtype=torch.bool) if flags is None else flags[..., 0] > 0.5

    def distance(self, states: Tensor, truth: Tensor) -> Tensor:
        """Of every body from where it should be, (..., N), in shares of the table's width."""
        here, there = self.of_role(states, "position"), self.of_role(truth, "position")
        assert here is not None
        assert there is not None
        return (here - there).norm(dim=-1) / self.width

    def matched(self, states: Tensor, truth: Tensor) -> Tensor:
        """States (n, num_values) with their bodies in the order in which they fit the true ones best.

        Which of several like bodies is named first cannot be seen, so every order of them is tried: the one with the
        most bodies where there is one, and of these the one with the least distance in all. The player stays itself.
        """
        fields = [self.schema.entity(name).fields for name in self.names]
        orders = [
            (0, *order)
            for order in permutations(range(1, len(self)))
            if all(fields[i] == fields[j] for i, j in zip(range(1, len(self)), order, strict=True))
        ]
        ordered = []
        for order in orders:
            candidate = states.clone()
            for name, other in zip(self.names, order, strict=True):
                for field in fields[other]:
                    here, there = (self.schema.columns(who, field.name) for who in (name, self.names[other]))
                    candidate[:, here] = states[:, there]
            ordered.append(candidate)
        candidates, there = torch.stack(ordered), self.present(truth)  # (orders, n, num_values), (n, N)
        missed = self.present(candidates) != there
        cost = (missed * 10.0 + self.distance(candidates, truth) * (there & ~missed)).sum(-1)
        return candidates[cost.argmin(0), torch.arange(len(states))]

    def masks(self, entity_map: Tensor) -> Tensor:
        """(T, H, W) to bool (T, N, H, W)."""
        return entity_map[:, None] == self.labels[:, None, None]

    def kinds(self, state: Tensor) -> tuple[Tensor, int]:
        """What tells bodies' looks apart, their colour or which body it is: (..., N), and the number of kinds."""
        colour = self.of_role(state, "colour")
        if colour is None:
            return torch.arange(len(self)).expand(*state.shape[:-1], -1), len(self)
        field = next(f for f in self.schema.entity(self.names[0]).fields if f.role == "colour")
        return colour[..., 0].round().long(), len(field.names)


def entity_map(segmentation: np.ndarray, size: int) -> Tensor:
    """An entity map (T, h, w) at the pictures' size, uint8 (T, size, size)."""
    return F.interpolate(torch.from_numpy(segmentation)[:, None], size=(size, size), mode="nearest")[:, 0]


def captions(world: World, episodes: Sequence[Clip]) -> list[str]:
    """The episodes' captions, without those too long for this world to read."""
    most = world.dynamics.layout.max_text
    if world.text is None:
        return [""] * len(episodes)
    return [e.caption if len(world.text.encode(e.caption)) <= most else "" for e in episodes]


def angle_error(schema: StateSchema, role: str, states: Tensor, truth: Tensor) -> Tensor | None:
    """Degrees between an angle and what it should be, (...); None without such a role."""
    for entity in schema.entities:
        for field in entity.fields:
            if field.role == role:
                columns = schema.columns(entity.name, field.name)
                return field.difference(states[..., columns], truth[..., columns])[..., 0].abs() * degrees(1)
    return None


# -- tokenizer ------------------------------------------------------------------------------------------


def measure_tokenizer(world: World, episodes: Sequence[Episode], ceiling: VideoTokenizer | None = None) -> Measured:
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
    another tokenizer, trained alike with a bottleneck that doesn't quantise.
    """
    tokenizer, bodies, r = world.tokenizer, Bodies.of(world.schema), world.tokenizer.frames_per_step
    quality: dict[str, list[Tensor]] = {name: [] for name in ("first", "later", "ssim", "flicker", "error_change")}
    above: dict[str, list[Tensor]] = {"psnr": [], "body_error": []}
    all_ids, body_error, seen, own, around, kinds, small = [], [], [], [], [], [], []
    without: dict[str, list[Tensor]] = {"psnr": [], "body_error": []}
    changed = static = num_kinds = 0
    pictures = Pictures([], [])
    for episode in episodes:
        frames = torch.from_numpy(episode.frames)
        ids = tokenizer.encode(frames[None].to(world.device))
        known = None
        if tokenizer.schema is not None and episode.states is not None:
            known = torch.from_numpy(episode.states)[None].to(world.device)
            blind = tokenizer.decode(ids)[0].cpu()
            without["psnr"].append(psnr(blind, frames))
        decoded = tokenizer.decode(ids, known)[0].cpu()
        ids = ids[0].cpu()
        all_ids.append(ids)
        score = psnr(decoded, frames)
        quality["first"].append(score[:1])
        quality["later"].append(score[1:].view(-1, r))
        quality["ssim"].append(ssim(decoded, frames))
        quality["flicker"].append(flicker(decoded, frames)[None])
        quality["error_change"].append(error_change(decoded, frames))
        best = None if ceiling is None else _unquantised(ceiling, frames, None if known is None else known.cpu())
        if best is not None:
            above["psnr"].append(psnr(best, frames))
        still = static_cells(frames, tokenizer.grid, r)
        static += int(still.sum())
        changed += int((still & (ids[1:] != ids[:-1])).sum())
        pictures.real.append(frames[::r])
        pictures.imagined.append(decoded[::r])
        if episode.segmentation is None or episode.states is None or not len(bodies):
            continue
        shown = entity_map(episode.segmentation, tokenizer.size[0])
        covered = bodies.masks(shown).any(1)
        body_error.append(squared_error(decoded, frames)[covered])
        if known is not None:
            without["body_error"].append(squared_error(blind, frames)[covered])
        if best is not None:
            above["body_error"].append(squared_error(best, frames)[covered])
        masks, states = bodies.masks(shown[::r]), torch.from_numpy(episode.states)
        kind, num_kinds = bodies.kinds(states)
        rings = surroundings(masks, masks.any(1))
        true, beside = median_colours(frames[::r], masks), median_colours(frames[::r], rings)
        seen.append(median_colours(decoded[::r], masks).flatten(0, 1))
        own.append(true.flatten(0, 1))
        around.append(beside.flatten(0, 1))
        few = ~true[..., 0].isnan() & ~beside[..., 0].isnan() & (masks.sum((-2, -1)) < SMALL_PIXELS)
        drawn, alone = looks_drawn(decoded[::r], masks, rings, true, beside)
        recorded = looks_drawn(frames[::r], masks, rings, true, beside)[1]
        small.append(torch.stack([drawn[few], alone[few], recorded[few]], 1))
        kinds.append(kind.flatten())
    later = torch.cat(quality["later"])
    use = code_use(torch.cat([ids.flatten() for ids in all_ids]), tokenizer.num_codes)
    height, width = tokenizer.grid
    numbers: Numbers = {
        "psnr_db": torch.cat([*quality["first"], later.flatten()]).mean(),
        "psnr_first_frame_db": torch.cat(quality["first"]).mean(),
        "psnr_by_frame_db": later.mean(0),
        "ssim": torch.cat(quality["ssim"]).mean(),
        "temporal_variance": torch.cat(quality["flicker"]).nanmean(),
        "error_change": torch.cat(quality["error_change"]).mean(),
        "bits_per_frame": height * width / r * log2(tokenizer.num_codes),
        "ids_per_frame": height * width / r,
        "codes": tokenizer.num_codes,
        "codebook_used": use.used,
        "perplexity": use.perplexity,
        "body_psnr_db": decibels(torch.cat(body_error).mean()) if body_error else None,
        "colour_recall": None,
        "static_id_change": changed / static if static else None,
        "static_share": static / max(1, sum(ids[1:].numel() for ids in all_ids)),
    }
    for found, name in ((without, "_without_state"), (above, "")):
        prefix = "" if name else "ceiling_"
        if found["psnr"]:
            numbers[f"{prefix}psnr{name}_db"] = torch.cat(found["psnr"]).mean()
        if found["body_error"]:
            numbers[f"{prefix}body_psnr{name}_db"] = decibels(torch.cat(found["body_error"]).mean())
    if small and sum(map(len, small)):
        recall, precision, recorded = torch.cat(small).float().mean(0).tolist()
        numbers |= {
            "small_bodies": sum(map(len, small)),
            "small_body_recall": recall,
            "small_body_precision": precision,
            "recorded_small_body_precision": recorded,
        }
    if own:
        true = torch.cat(own)
        visible = ~true[:, 0].isnan()
        rivals = rival_colours(torch.cat(kinds), typical_colours(true, torch.cat(kinds), num_kinds))
        rivals = torch.cat([rivals, torch.cat(around)[:, None]], 1)
        numbers["colour_recall"] = nearest_is_own(torch.cat(seen), true, rivals)[visible].float().mean()
    return Measured(numbers, pictures)


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


def rival_colours(kinds: Tensor, typical: Tensor) -> Tensor:
    """For bodies of these kinds (M,), the typical colours of all others: (M, num_kinds, 3), its own being NaN."""
    own = torch.arange(len(typical)) == kinds[:, None]
    return torch.where(own[..., None], float("nan"), typical)


# -- rollouts -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Imagined:
    """frames uint8 (B, T, r, H, W, 3); states (B, T, num_values)."""

    frames: Tensor
    states: Tensor


def imagine(rollout: Rollout, actions: Tensor) -> Imagined:
    """Runs actions (B, T)."""
    frames, states = [], []
    for action in actions.unbind(1):
        step = rollout.step(action)
        frames.append(step.frames.cpu())
        states.append(step.state.cpu())
    return Imagined(torch.stack(frames, 1), torch.stack(states, 1))


def start(world: World, clips: Sequence[Clip], *, seed: int, sampling: Sampling, read: bool = False) -> Rollout:
    """Rollouts that go on where clips of one length end; their state is the true one, or ``read`` from the frames."""
    frames = torch.from_numpy(np.stack([clip.frames for clip in clips]))
    states = None
    if not read and world.schema.num_values:
        states = torch.from_numpy(np.stack([clip.states[-1] for clip in clips if clip.states is not None]))
    return world.start(captions(world, clips), frames=frames, state=states, seed=seed, sampling=sampling)


def padded(parts: Sequence[np.ndarray], length: int) -> Tensor:
    """Stacks arrays (n, ...), cut to ``length`` or filled up by their last element."""
    return torch.from_numpy(
        np.stack([np.concatenate([p[:length], p[-1:].repeat(max(0, length - len(p)), 0)]) for p in parts])
    )


def in_batches(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for begin in range(0, len(rows), ROWS):
        yield rows[begin : begin + ROWS]


class Outcomes:
    """When reward and end first come, as a world foresees them and as they happened."""

    def __init__(self, schema: StateSchema) -> None:
        columns = {role: list(schema.role_columns(role).values())[:1] for role in ("reward", "terminated")}
        self.columns = {role: found[0].start if found else None for role, found in columns.items()}
        self.steps: dict[str, tuple[list[int | None], list[int | None]]] = {role: ([], []) for role in columns}

    def note(self, states: Tensor, truth: Tensor) -> None:
        """States (T, num_values) that may go on after the true ones (n, num_values)."""
        for role, column in self.columns.items():
            if column is not None:
                foreseen, happened = self.steps[role]
                foreseen.append(first_event(states[: len(truth) + EVENT_TOLERANCE, column] > 0.5))
                happened.append(first_event(truth[:, column] > 0.5))

    def numbers(self) -> Numbers:
        numbers: Numbers = {}
        for role, (foreseen, happened) in self.steps.items():
            numbers[f"{role}_f1"] = event_f1(foreseen, happened)
            numbers[f"{role}_events"] = sum(step is not None for step in happened)
        return numbers


def measure_rollout(
    world: World, episodes: Sequence[Episode], *, horizon: int, seed: int, sampling: Sampling
) -> Measured:
    """Free running on the true actions.

    ``copy_last`` is what holding on to the first frame or state would give; ``psnr_ceiling_by_step_db`` what the
    tokenizer gives for the real frames. ``others`` are all present bodies but the player's. ``delta_psnr_8_db``:
    Genie's controllability (arXiv:2402.15391), PSNR with the true actions less PSNR with random ones, at step 8.
    ``reward_f1`` and ``terminated_f1`` ask whether a rollout's first event comes within two steps of the real one.
    """
    bodies, r = Bodies.of(world.schema), world.tokenizer.frames_per_step
    horizon = min(horizon, max(e.num_steps for e in episodes))
    generator = torch.Generator().manual_seed(seed)
    scores: dict[str, list[Tensor]] = {}
    events, pictures = Outcomes(world.schema), Pictures([], [])

    def note(name: str, values: Tensor | None) -> None:
        if values is not None:
            scores.setdefault(name, []).append(values)

    for rows in in_batches(episodes):
        length = torch.tensor([e.num_steps for e in rows])
        note("alive", torch.arange(horizon) < length[:, None])
        actions = padded([e.actions for e in rows], horizon)
        actions = torch.where(scores["alive"][-1], actions, 0)
        real = padded([e.frames for e in rows], 1 + r * horizon)
        later = real[:, 1:].unflatten(1, (horizon, r))
        begun = start(world, [e.window(0, 0) for e in rows], seed=seed, sampling=sampling)
        random = world.actions.sample(len(rows), min(8, horizon), generator=generator)
        astray = imagine(begun.fork(), random)
        ours = imagine(begun, actions)
        note("psnr", psnr(ours.frames, later).mean(2))
        note("psnr_astray", psnr(astray.frames, later[:, : random.shape[1]]).mean(2))
        note("psnr_copy_last", psnr(real[:, :1, None].expand_as(later), later).mean(2))
        known = [e.states for e in rows if e.states is not None]
        states = padded(known, 1 + horizon) if len(known) == len(rows) else None
        decoded = torch.cat(
            [rebuilt(world, e[None], None if states is None else states[i : i + 1]) for i, e in enumerate(real)]
        )
        note("psnr_ceiling", psnr(decoded[:, 1:].unflatten(1, (horizon, r)), later).mean(2))
        for row, episode in enumerate(rows):
            steps = min(horizon, episode.num_steps)
            pictures.real.append(real[row, : 1 + r * steps : r])
            pictures.imagined.append(torch.cat([decoded[row, :1], ours.frames[row, :steps, -1]]))
        if not world.schema.num_values or states is None:
            continue
        first, truth = states[:, :1], states[:, 1:]
        if len(bodies):
            for name, states in (("error", ours.states), ("error_copy_last", first.expand_as(truth))):
                away, there = bodies.distance(states, truth), bodies.present(truth)
                there[..., 0] = False
                note(f"player_{name}", away[..., 0])
                note(f"others_{name}", torch.where(there, away, 0.0).sum(-1) / there.sum(-1))
        for role in ("camera", "light"):
            note(f"{role}_error_deg", angle_error(world.schema, role, ours.states, truth))
            note(f"{role}_error_deg_copy_last", angle_error(world.schema, role, first.expand_as(truth), truth))
        for row, steps in enumerate(length.tolist()):
            events.note(ours.states[row], truth[row, :steps])

    numbers: Numbers = {
        "rows": len(episodes),
        "horizon": horizon,
        **_summary({k: torch.cat(v) for k, v in scores.items()}),
        **events.numbers(),
    }
    return Measured(numbers, pictures)


def foreseen_states(
    world: World, episodes: Sequence[TokenisedEpisode], *, horizon: int, seed: int, sampling: Sampling
) -> Tensor:
    """Free running on the actions of episodes of states alone, from their first states: (B, horizon, num_values)."""
    found = []
    for rows in in_batches(episodes):
        rollout = world.start(state=torch.stack([e.states[0] for e in rows]), seed=seed, sampling=sampling)
        actions = padded([e.actions.numpy() for e in rows], horizon)
        found.append(torch.stack([rollout.step(action).state.cpu() for action in actions.unbind(1)], 1))
    return torch.cat(found)


def measure_outcomes(
    world: World, episodes: Sequence[TokenisedEpisode], *, horizon: int, seed: int, sampling: Sampling
) -> Numbers:
    """``reward_f1`` and ``terminated_f1`` as ``measure_rollout`` has them, of episodes of states alone: events are
    rare, and these are cheap enough to have many."""
    events = Outcomes(world.schema)
    states = foreseen_states(world, episodes, horizon=horizon, seed=seed, sampling=sampling)
    for row, episode in zip(states, episodes, strict=True):
        events.note(row, episode.states[1:])
    return {"rows": len(episodes), **events.numbers()}


def _summary(scores: dict[str, Tensor]) -> Numbers:
    """Means by step, of what was scored (B, T) while rows were ``alive`` (B, T)."""
    alive = scores["alive"]
    by_step = {
        name: masked_mean(values, alive[:, : values.shape[1]] & ~values.isnan())
        for name, values in scores.items()
        if name != "alive"
    }
    lasting = alive[:, 7] if alive.shape[1] >= 8 else torch.zeros(len(alive), dtype=torch.bool)
    gained = [
        (scores["psnr"][row, 7] - scores["psnr_astray"][row, 7]).item() for row in lasting.nonzero()[:, 0].tolist()
    ]
    numbers: Numbers = {
        "rows_by_step": alive.sum(0),
        **{f"{name}_by_step_db": by_step[name] for name in ("psnr", "psnr_copy_last", "psnr_ceiling")},
        "delta_psnr_8_db": sum(gained) / len(gained) if gained else None,
    }
    for who in ("player_error", "others_error", "camera_error_deg", "light_error_deg"):
        for held in ("", "_copy_last"):
            errors = by_step[f"{who}{held}"].tolist() if f"{who}{held}" in by_step else None
            numbers[f"{who}_by_step{held}"] = errors
            for mark in MARKS:
                numbers[f"{who}_{mark}{held}"] = errors[mark - 1] if errors and mark <= len(errors) else None
    ours, still = numbers["player_error_16"], numbers["player_error_16_copy_last"]
    numbers["player_error_16_of_copy_last"] = ours / still if ours is not None and still else None
    return numbers


# -- reading --------------------------------------------------------------------------------------------


def measure_read(
    world: World, episodes: Sequence[Episode], *, per_episode: int, seed: int, sampling: Sampling
) -> Measured:
    """The state read from frames alone, against the true one, and the pictures that a rollout from it shows.

    Like bodies are compared in the order that fits best (see ``Bodies.matched``). ``position_error``,
    ``velocity_error`` (in m/s or the schema's unit), ``colour``, ``shape`` and ``material`` (shares read right) are
    means over the bodies that are there, ``found`` is the share of them that is read as there; ``present`` is of all
    bodies, ``count`` of the scenes whose number of bodies is right. ``first_frame_psnr_db`` is of the picture that the
    rollout begins with against the last one that was read from, ``psnr_8_db`` of a rollout on the true actions at step
    8 against the recording, and with ``true_state`` the same where the true state is given too.
    """
    bodies = Bodies.of(world.schema)
    moments = [
        (episode, begin)
        for episode in episodes
        if episode.num_steps >= CONTEXT
        for begin in np.linspace(0, episode.num_steps - CONTEXT, per_episode).astype(int).tolist()
    ]
    if not world.schema.num_values or not len(bodies) or not moments:
        return Measured({"rows": 0, "position_error": None})
    read, true = [], []
    pictures: dict[str, list[Tensor]] = {}
    for rows in in_batches(moments):
        clips = [episode.window(begin, CONTEXT) for episode, begin in rows]
        later = [
            episode.window(begin + CONTEXT, min(LATER, episode.num_steps - begin - CONTEXT)) for episode, begin in rows
        ]
        lasting = torch.tensor([clip.num_steps == LATER for clip in later])
        actions = padded([np.append(clip.actions, 0) for clip in later], LATER)
        real = torch.stack([torch.from_numpy(clip.frames[[0, -1]]) for clip in later])
        for name in ("", "_true_state"):
            begun = start(world, clips, seed=seed, sampling=sampling, read=not name)
            if not name:
                read.append(begun.state.cpu())
            pictures.setdefault(f"first_frame_psnr{name}_db", []).append(psnr(begun.frames[:, -1].cpu(), real[:, 0]))
            far = imagine(begun, actions).frames[:, -1, -1]
            pictures.setdefault(f"psnr_{LATER}{name}_db", []).append(psnr(far, real[:, 1])[lasting])
        true += [torch.from_numpy(clip.states[-1]) for clip in clips]
    truth = torch.stack(true)
    states = bodies.matched(torch.cat(read), truth)
    there, seen = bodies.present(truth), bodies.present(states)
    numbers: Numbers = {
        "rows": len(moments),
        "position_error": bodies.distance(states, truth)[there].mean(),
        "player_position_error": bodies.distance(states, truth)[:, 0].mean(),
        "others_position_error": bodies.distance(states, truth)[:, 1:][there[:, 1:]].mean(),
        "present_accuracy": (seen == there).float().mean(),
        "found": seen[there].float().mean(),
        "count_accuracy": (seen.sum(1) == there.sum(1)).float().mean(),
    }
    velocity, true_velocity = bodies.of_role(states, "velocity"), bodies.of_role(truth, "velocity")
    assert velocity is not None
    assert true_velocity is not None
    numbers["velocity_error"] = (velocity - true_velocity).norm(dim=-1)[there].mean()
    for role in ("colour", "shape", "material"):
        named, true_name = bodies.of_role(states, role), bodies.of_role(truth, role)
        right = None if named is None or true_name is None else (named.round() == true_name.round())[..., 0][there]
        numbers[f"{role}_accuracy"] = None if right is None else right.float().mean()
    for role in ("camera", "light"):
        error = angle_error(world.schema, role, states, truth)
        numbers[f"{role}_error_deg"] = None if error is None else error.mean()
    return Measured(numbers | {name: torch.cat(scores).mean() for name, scores in pictures.items()})


# -- speed ----------------------------------------------------------------------------------------------


def measure_speed(world: World, *, steps: int, sampling: Sampling) -> Measured:
    """One row's step and its parts with the threads torch has now (see ``time_steps``), upsampled if the world can."""
    made = time_steps(world, steps=steps, sampling=sampling, upsample=world.upsampler is not None)
    r, parts = world.tokenizer.frames_per_step, made["parts_ms"]
    about = {"threads": torch.get_num_threads(), "device": str(world.device), "batch": 1, "steps": steps}
    per_frame = {f"{name}_ms_per_frame": parts[name] / r if name in parts else None for name in ("decode", "upsample")}
    return Measured({**about, **made, **per_frame, "steps_per_s": made["frames_per_s"] / r})
