"""Measures a world on held-out episodes: ``python -m train.evaluate --world tabletop [--json FILE]``.

Without ``--recording`` it records its own held-out episodes (see ``held_out.py``). It prints a table with the
bars beside the figures, writes them as JSON, and a page with pictures under ``--report``. What each key means
stands at the function that measures it, in ``measurements.py`` and ``edit_obedience.py``.
"""

from __future__ import annotations

import argparse
import json
import math
import operator
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenizer.clip import Episode, shrink
from tokenizer.video_tokenizer import VideoTokenizer
from train.data.episode_store import EpisodeStore
from train.data.recording_layout import SPLITS
from train.export import read_tokenizer, read_upsampler
from train.measure.edits import EditResult, draw_cases, measure_edits
from train.measure.endless import Renderer, measure_endless
from train.measure.held_out import held_out, held_out_states
from train.measure.measurements import (
    Numbers,
    captions,
    measure_outcomes,
    measure_read,
    measure_rollout,
    measure_speed,
    measure_tokenizer,
)
from train.measure.modes import measure_modes, measure_state_modes
from train.measure.shots import measure_shots
from train.measure.text import measure_captions, measure_motion, measure_text
from train.measure.upsampler import measure_upsampler
from train.worlds.breakout.measures import measure_breakout
from worldmodel.engines.choice import ENGINES
from worldmodel.threads import choose_threads, keep_memory
from worldmodel.upsampler import Upsampler
from worldmodel.world import World


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is measured. A quick evaluation ends within two minutes on two cores."""

    episodes: int = 24
    horizon: int = 64
    edits_per_episode: int = 2
    reads_per_episode: int = 4
    events_per_episode: int = 8
    upsampled_episodes: int = 4
    upsampled_steps: int = 16
    outcome_episodes: int = 96
    timed_steps: int = 80
    mode_episodes: int = 6
    endless_episodes: int = 4
    endless_steps: int = 1024


QUICK = Effort(
    episodes=12,
    edits_per_episode=1,
    reads_per_episode=2,
    events_per_episode=4,
    upsampled_episodes=2,
    upsampled_steps=12,
    outcome_episodes=0,
    timed_steps=40,
    mode_episodes=0,
    endless_episodes=2,
    endless_steps=64,
)


@dataclass(frozen=True)
class Bar:
    """What a good world reaches. ``key`` is a path into the numbers."""

    key: str
    sign: str
    value: float

    def verdict(self, numbers: Numbers) -> tuple[str, str, str, bool | None]:
        part, name = self.key.split(".")
        found = numbers.get(part, {}).get(name)
        met = None if found is None else {"≥": operator.ge, "≤": operator.le}[self.sign](found, self.value)
        return self.key, "–" if found is None else f"{found:.4g}", f"{self.sign} {self.value:g}", met


BARS = (
    Bar("tokenizer.psnr_db", "≥", 32),
    Bar("tokenizer.body_psnr_db", "≥", 26),
    Bar("tokenizer.ids_per_frame", "≤", 16),
    Bar("tokenizer.codebook_used", "≥", 0.95),
    Bar("tokenizer.static_id_change", "≤", 0.01),
    Bar("tokenizer.small_body_recall", "≥", 0.95),
    Bar("tokenizer.small_body_precision", "≥", 0.95),
    Bar("rollout.player_error_16", "≤", 0.05),
    Bar("rollout.player_error_16_of_copy_last", "≤", 0.5),
    Bar("rollout.delta_psnr_8_db", "≥", 1),
    Bar("rollout.player_error_64", "≤", 0.1),
    Bar("rollout.others_error_64", "≤", 0.12),
    Bar("rollout.reward_f1", "≥", 0.9),
    Bar("rollout.terminated_f1", "≥", 0.9),
    Bar("outcome.reward_f1", "≥", 0.9),
    Bar("edit.obeyed", "≥", 0.95),
    Bar("edit.obeyed_first_step", "≥", 0.8),
    Bar("edit.others_undisturbed", "≥", 0.97),
    Bar("text.attributes_obeyed", "≥", 0.9),
    Bar("events.obeyed", "≥", 0.9),
    Bar("caption.claims_true", "≥", 0.9),
    Bar("endless.idle_sharpness_1024", "≥", 0.9),
    Bar("endless.idle_palette_1024", "≥", 0.9),
    Bar("endless.idle_bodies_constant_1024", "≥", 0.95),
    Bar("endless.moving_sharpness_1024", "≥", 0.9),
    Bar("endless.moving_palette_1024", "≥", 0.9),
    Bar("endless.moving_bodies_constant_1024", "≥", 0.95),
    Bar("breakout.one_ball", "≥", 0.97),
    Bar("breakout.ball_agrees", "≥", 0.97),
    Bar("upsampler.high_band_ratio", "≥", 0.8),
    Bar("upsampler.temporal_variance", "≤", 0.012),
    Bar("speed.decode_ms_per_frame", "≤", 1.5),
    Bar("speed.upsample_ms_per_frame", "≤", 15),
)


def verdicts(numbers: Numbers) -> list[tuple[str, str, str, bool | None]]:
    """Breakout has bars of its own; the others are Tabletop's."""
    breakout = "breakout" in numbers
    return [bar.verdict(numbers) for bar in BARS if bar.key.startswith("breakout.") == breakout]


def plain(value: Any) -> Any:
    """Numbers as JSON has them: tensors become numbers or lists, what is not finite None."""
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def evaluate(
    world: World,
    large: Sequence[Episode],
    *,
    effort: Effort,
    seed: int = 0,
    tokens_per_pass: int | None = None,
    report: Path | None = None,
    about: Numbers | None = None,
    ceiling: VideoTokenizer | None = None,
    regressor: Upsampler | None = None,
) -> Numbers:
    """Measures everything that world and episodes allow; what they do not is None or missing.

    Args:
        large: episodes at the tokenizer's resolution, or at 2 or 4 times that, which the upsampler is held against.
        tokens_per_pass: None for the world's default.
        report: folder for pictures and page.
        ceiling, regressor: what tokenizer and upsampler are held against, if anything.
    """
    size = world.tokenizer.size[0]
    wrong = {e.frames.shape[1] for e in large} - {size, 2 * size, 4 * size}
    if wrong:
        raise ValueError(
            f"this world sees {size}x{size} frames and the recording has {max(wrong)}: record it at {2 * size}"
        )
    episodes = [e if e.frames.shape[1] == size else e.with_frames(shrink(e.frames, size)) for e in large]
    sampling = replace(world.sampling, tokens_per_pass=tokens_per_pass or world.sampling.tokens_per_pass)
    numbers: Numbers = {"about": {**(about or {}), "episodes": len(episodes), "seed": seed}}

    def done(name: str, measured: Numbers) -> None:
        numbers[name] = plain(measured)
        print(f"  {name} measured after {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)

    begun = time.monotonic()
    tokenizer = measure_tokenizer(world, episodes, ceiling)
    done("tokenizer", tokenizer.numbers)
    acted = [e for e in episodes if e.actions is not None and len(e.actions)]
    rollout = measure_rollout(world, acted, horizon=effort.horizon, seed=seed, sampling=sampling) if acted else None
    done("rollout", rollout.numbers if rollout else {})
    if world.schema.name == "tabletop" and effort.outcome_episodes:
        with suppress(ImportError):  # without MuJoCo there is nothing to foresee but what was recorded
            some = held_out_states(effort.outcome_episodes)
            done("outcome", measure_outcomes(world, some, horizon=effort.horizon, seed=seed, sampling=sampling))
            some = some[: 4 * effort.mode_episodes]
            if len(world.dynamics.state_modes) > 1 and some:
                steps = effort.timed_steps // 4
                found = measure_state_modes(world, some, seed=seed, sampling=sampling, steps=steps)
                done("state_modes", found)
    if world.estimator is not None:
        read = measure_read(world, acted, per_episode=effort.reads_per_episode, seed=seed, sampling=sampling)
        done("read", read.numbers)
    edits = _edits(world, acted, effort, seed, sampling)
    done("edit", edits if isinstance(edits, dict) else edits.numbers)
    done("speed", measure_speed(world, steps=effort.timed_steps, sampling=sampling).numbers)
    if acted and effort.mode_episodes:
        some = acted[: effort.mode_episodes]
        done("modes", measure_modes(world, some, seed=seed, sampling=sampling, steps=effort.timed_steps // 4))
    if acted:
        with _renderer(world) as render:
            some = acted[: effort.endless_episodes]
            found = measure_endless(
                world, some, steps=effort.endless_steps, seed=seed, sampling=sampling, render=render
            )
            done("endless", found)
            if render is not None:
                done("shots", measure_shots(world, acted, seed=seed, sampling=sampling, render=render))
    if world.schema.name == "tabletop":
        told = [caption for caption in captions(world, episodes) if caption]
        done("text", measure_text(world, told, seed=seed, sampling=sampling))
        states = [torch.from_numpy(e.states[0]) for e in acted if e.states is not None]
        done("caption", measure_captions(world, torch.stack(states)))
        if world.schema.role_columns("motion"):
            done("motion", measure_motion(world, seed=seed, sampling=sampling))
        if world.max_event:
            with suppress(ImportError):  # as above
                done("events", _events(world, acted, effort, seed, sampling))
    if world.schema.name == "breakout":
        done("breakout", measure_breakout(world, acted, horizon=effort.horizon, seed=seed, sampling=sampling))
    upsampled = None
    fitting = [e for e in large if world.upsampler is not None and e.frames.shape[1:3] == world.upsampler.config.size]
    if fitting:
        chosen = fitting[: effort.upsampled_episodes]
        upsampled = measure_upsampler(world, chosen, num_steps=effort.upsampled_steps, seed=seed, regressor=regressor)
        done("upsampler", upsampled.numbers)
    numbers["about"]["seconds"] = round(time.monotonic() - begun, 1)
    if report is not None:
        from train.measure.report import write

        write(
            report,
            numbers,
            verdicts(numbers),
            rebuilt=tokenizer.pictures,
            imagined=rollout.pictures if rollout else None,
            edits=edits if isinstance(edits, EditResult) else None,
            upsampled=upsampled.pictures if upsampled else None,
        )
    return numbers


def _simulator(world: World) -> Any:
    """What a world was learned from, to draw states and what becomes of them. Raises ValueError if it is not here, and
    ImportError or RuntimeError if this machine cannot run it."""
    if world.schema.name != "tabletop":
        raise ValueError(f"there is no simulator of {world.schema.name!r} to say what should be seen")
    import train.worlds  # noqa: F401  (chooses MuJoCo's renderer before it is imported)
    from train.worlds.tabletop.simulator import Tabletop

    return Tabletop(world.tokenizer.size[0], segmentation=True)


@contextmanager
def _renderer(world: World) -> Iterator[Renderer | None]:
    """The simulator's pictures of states, or None where it cannot be run."""
    try:
        env = _simulator(world)
    except (ImportError, RuntimeError, ValueError):
        yield None
        return

    def render(state: Tensor) -> Tensor | None:
        try:
            env.write_state(state.numpy())
        except ValueError:  # bodies in one another, or in a wall
            return None
        return torch.from_numpy(env.render())

    with closing(env):
        yield render


def _events(world: World, episodes: Sequence[Episode], effort: Effort, seed: int, sampling: Any) -> Numbers:
    from train.measure.events import measure_events
    from train.worlds.tabletop.simulator import Tabletop

    with closing(Tabletop(physics_only=True)) as env:
        return measure_events(world, episodes, env, per_episode=effort.events_per_episode, seed=seed, sampling=sampling)


def _edits(world: World, episodes: Sequence[Episode], effort: Effort, seed: int, sampling: Any) -> EditResult | Numbers:
    """Edits are judged against the simulator: where there is none, the numbers say why."""
    unjudged: Numbers = {"obeyed": None, "obeyed_first_step": None, "others_undisturbed": None}
    try:
        env = _simulator(world)
    except (ImportError, RuntimeError, ValueError) as error:
        return unjudged | {"because": str(error)}
    cases = draw_cases(env, episodes, world.tokenizer.size[0], per_episode=effort.edits_per_episode, seed=seed)
    env.close()
    if not cases:
        return unjudged | {"because": "no episode has a moment at which a body could be moved to a free place"}
    return measure_edits(world, cases, seed=seed, sampling=sampling)


def table(numbers: Numbers) -> str:
    """The figures, and the bars beside them, for a terminal."""
    from train.measure.report import readable

    lines = []
    for name, part in numbers.items():
        told = {key: value for key, value in part.items() if "error" not in key or not isinstance(value, list)}
        lines += [name, *(f"  {key:<32} {readable(value)}" for key, value in told.items()), ""]
    said = {True: "met", False: "MISSED", None: "not measured"}
    lines.append("bars")
    lines += [f"  {key:<38} {value:>8}  {bar:<7} {said[met]}" for key, value, bar, met in verdicts(numbers)]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.evaluate", description=__doc__)
    parser.add_argument("--world", default="tabletop", help="bundled name, world folder or hub id")
    parser.add_argument(
        "--recording", type=Path, help="a recording to measure on, in place of held-out episodes of its own"
    )
    parser.add_argument("--split", choices=SPLITS, default="test", help="of the recording")
    parser.add_argument("--episodes", type=int, help="at the most; fewer are faster")
    parser.add_argument("--quick", action="store_true", help="fewer episodes: within two minutes on two cores")
    parser.add_argument("--ceiling", type=Path, help="checkpoint of a tokenizer that doesn't quantise, to compare with")
    parser.add_argument("--regressor", type=Path, help="checkpoint of an upsampler's regression, to compare with")
    parser.add_argument("--tokens-per-pass", type=int, help="how many ids of a frame are predicted at once")
    parser.add_argument("--engine", choices=ENGINES, default="torch", help="who computes steps")
    parser.add_argument("--seed", type=int, default=0, help="of sampling, random actions and edits")
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    parser.add_argument(
        "--report", type=Path, default=Path("runs/evaluation"), help="folder for pictures and index.html"
    )
    chosen = parser.parse_args(arguments)
    effort = QUICK if chosen.quick else Effort()
    effort = replace(effort, episodes=chosen.episodes or effort.episodes)
    if effort.episodes < 1:
        parser.error("--episodes must be at least 1")
    keep_memory()
    threads = choose_threads()
    torch.set_num_threads(threads.count)
    try:
        world = World.from_pretrained(chosen.world, engine=chosen.engine)
        store = EpisodeStore(chosen.recording) if chosen.recording else held_out(effort.episodes)
        if store.schema != world.schema:
            raise ValueError(
                f"{store.path} was recorded with another scene schema than this world has: record it again"
            )
        indices = store.split(chosen.split if chosen.recording else "test")[: effort.episodes]
        if not indices:
            raise ValueError(
                f"{store.path} has no episodes in its {chosen.split} split: record more, or name another --split"
            )
        episodes = [store.read(i, segmentation=store.has_segmentation) for i in indices]
        about = {
            "world": chosen.world,
            "recording": str(chosen.recording) if chosen.recording else "held-out",
            "split": chosen.split,
            "quick": chosen.quick,
            "threads": f"{threads.count} ({threads.reason})",
        }
        numbers = evaluate(
            world,
            episodes,
            effort=effort,
            seed=chosen.seed,
            tokens_per_pass=chosen.tokens_per_pass,
            report=chosen.report,
            about=about,
            ceiling=read_tokenizer(chosen.ceiling) if chosen.ceiling else None,
            regressor=read_upsampler(chosen.regressor) if chosen.regressor else None,
        )
        if chosen.json is not None:
            chosen.json.parent.mkdir(parents=True, exist_ok=True)
            chosen.json.write_text(json.dumps(numbers, indent=1, allow_nan=False), encoding="utf-8")
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(numbers))
    print(f"\npictures: {chosen.report / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
