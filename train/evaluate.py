"""Measures a world on held-out episodes: ``python -m train.evaluate --world NAME [--json FILE]``.

Without ``--recording`` the world's own simulator records them (see ``worlds/held_out.py``). It prints a table with the
bars beside the figures, writes them as JSON, and a page with pictures under ``--report``. What each key means stands at
the function that measures it, in ``measure/``. What applies follows from the world and from its recipe, which is found
by the name in the recording, by that in the world folder, or by its schema.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenizer.clip import Episode, shrink
from tokenizer.frames import said_size
from tokenizer.video_tokenizer import VideoTokenizer
from train.data.episode_store import EpisodeStore
from train.data.recording_layout import SPLITS
from train.export import read_tokenizer, read_upsampler
from train.measure.bars import Bar, verdicts
from train.measure.bodies import Bodies
from train.measure.edits import EditResult, draw_cases, measure_edits
from train.measure.endless import Renderer, measure_endless
from train.measure.events import measure_events
from train.measure.free_running import captions, num_steps
from train.measure.measurement import Numbers, plain
from train.measure.modes import measure_modes, measure_state_modes
from train.measure.reading import measure_read
from train.measure.rollout import measure_outcomes, measure_rollout
from train.measure.sensitivity import action_sensitivity
from train.measure.shots import measure_shots
from train.measure.speed import measure_speed
from train.measure.text import measure_captions, measure_motion, measure_text
from train.measure.tokenizer import measure_tokenizer
from train.measure.upsampler import measure_upsampler
from train.measure.verdict import verdict
from train.worlds import registry
from train.worlds.contract import Recipe, Size
from train.worlds.held_out import held_out, held_out_states
from worldmodel.engines.choice import ENGINES
from worldmodel.sampling import Sampling
from worldmodel.threads import choose_threads
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
    held_episodes: int = 8
    endless_steps: int = 1024
    motion_scenes: int = 64


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
    held_episodes=4,
    endless_steps=64,
    motion_scenes=16,
)


class Evaluation:
    """Numbers in the making, part by part: what applies to a world is measured, the rest is not listed."""

    def __init__(
        self, world: World, recipe: Recipe | None, effort: Effort, seed: int, sampling: Sampling, about: Numbers
    ) -> None:
        self.world, self.recipe, self.effort, self.seed = world, recipe, effort, seed
        self.drawn: dict[str, Any] = {"seed": seed, "sampling": sampling}
        self.numbers: Numbers = {"about": about}
        self._begun = time.monotonic()

    def done(self, name: str, measured: Numbers) -> None:
        self.numbers[name] = plain(measured)
        print(f"  {name} measured after {self.seconds:.0f} s", file=sys.stderr, flush=True)

    def left_out(self, name: str, why: object) -> None:
        """Something that would apply, but cannot be measured here and now."""
        self.numbers["about"].setdefault("left_out", {})[name] = str(why)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun

    def measure_states(self, acted: Sequence[Episode]) -> None:
        """What is foreseen of states alone, and how states are read from pictures."""
        world, recipe = self.world, self.recipe
        schema = world.schema
        outcome = any(schema.role_columns(role) for role in ("reward", "terminated"))
        if recipe is not None and self.effort.outcome_episodes and (outcome or len(world.dynamics.state_modes) > 1):
            try:
                some = held_out_states(recipe, self.effort.outcome_episodes) if schema.num_values else []
            except (ImportError, RuntimeError) as error:
                self.left_out("outcome", error)
                some = []
            if some and outcome:
                found = measure_outcomes(world, some, horizon=self.effort.horizon, **self.drawn)
                self.done("outcome", found)
            some = some[: 4 * self.effort.mode_episodes]
            if some and len(world.dynamics.state_modes) > 1 and len(Bodies.of(schema)):
                steps = self.effort.timed_steps // 4
                self.done("state_modes", measure_state_modes(world, some, **self.drawn, steps=steps))
        if world.estimator is not None and len(Bodies.of(schema)):
            read = measure_read(world, acted, per_episode=self.effort.reads_per_episode, **self.drawn)
            self.done("read", read.numbers)

    def measure_edits(self, acted: Sequence[Episode]) -> EditResult | None:
        """Edits are judged against the simulator, by who covers which pixel."""
        world, recipe = self.world, self.recipe
        bodies = Bodies.of(world.schema)
        applies = recipe is not None and recipe.editable and recipe.segmented is not None and len(bodies)
        if recipe is None or not applies or bodies.of_role(torch.zeros(1, world.schema.num_values), "size") is None:
            return None
        size = world.tokenizer.size
        try:
            env = recipe.make(size)
        except (ImportError, RuntimeError, ValueError) as error:
            self.left_out("edit", error)
            return None
        with closing(env):
            cases = draw_cases(
                env, world.schema, acted, size, per_episode=self.effort.edits_per_episode, seed=self.seed
            )
        if not cases:
            self.left_out("edit", "no episode has a moment at which a body could be moved to a free place")
            return None
        edits = measure_edits(world, cases, **self.drawn)
        self.done("edit", edits.numbers)
        return edits

    def measure_long(self, acted: Sequence[Episode]) -> None:
        """Modes, rollouts without end, and cuts."""
        world, recipe = self.world, self.recipe
        if self.effort.mode_episodes:
            some, steps = acted[: self.effort.mode_episodes], self.effort.timed_steps // 4
            self.done("modes", measure_modes(world, some, **self.drawn, steps=steps))
        with self._renderer() as render:
            some, steps = acted[: self.effort.endless_episodes], self.effort.endless_steps
            found = measure_endless(world, some, steps=steps, **self.drawn, render=render)
            if len(found) > 2:  # there was something to look at
                self.done("endless", found)
            if render is not None and recipe is not None and world.schema.role_columns("camera"):
                phrases = recipe.phrases.get("shots", {})
                self.done("shots", measure_shots(world, acted, phrases, **self.drawn, render=render))

    @contextmanager
    def _renderer(self) -> Iterator[Renderer | None]:
        """The simulator's pictures of states, or None where there is none, or none that runs here."""
        world, recipe = self.world, self.recipe
        if recipe is None or not recipe.editable or not world.schema.num_values:
            yield None
            return
        try:
            env: Any = recipe.make(world.tokenizer.size)
        except (ImportError, RuntimeError, ValueError) as error:
            self.left_out("shots", error)
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

    def measure_words(self, episodes: Sequence[Episode], acted: Sequence[Episode]) -> None:
        """Whether captions, motion intensity and events are obeyed, and whether what is said is true."""
        world, recipe = self.world, self.recipe
        told = [caption for caption in captions(world, episodes) or [] if caption]
        states = [torch.from_numpy(e.states[0]) for e in acted if e.states is not None]
        if recipe is not None and recipe.claims is not None and world.text is not None and world.schema.num_values:
            self.done("text", measure_text(world, told, recipe.claims, **self.drawn))
            if states:
                self.done("caption", measure_captions(world, torch.stack(states), recipe.claims))
        if world.schema.role_columns("motion"):
            self.done("motion", measure_motion(world, rows=self.effort.motion_scenes, **self.drawn))
        if recipe is not None and recipe.event is not None and recipe.editable and world.max_event:
            try:
                env = recipe.states_only()
            except (ImportError, RuntimeError) as error:
                self.left_out("events", error)
                return
            with closing(env):
                found = measure_events(
                    world,
                    acted,
                    env,
                    recipe.event,
                    recipe.phrases.get("events", {}),
                    per_episode=self.effort.events_per_episode,
                    **self.drawn,
                )
            self.done("events", found)


def evaluate(
    world: World,
    large: Sequence[Episode],
    *,
    effort: Effort,
    recipe: Recipe | None = None,
    seed: int = 0,
    tokens_per_pass: int | None = None,
    report: Path | None = None,
    about: Numbers | None = None,
    ceiling: VideoTokenizer | None = None,
    regressor: Upsampler | None = None,
) -> Numbers:
    """Measures everything that applies to the world, its recipe and these episodes. What does not is missing; what
    had nothing to be counted is None.

    Args:
        large: episodes at the tokenizer's size, or at 2 or 4 times that, which the upsampler is held against.
        recipe: of the simulator that the world was learned from: with it, edits, events, long rollouts and captions
            are held against what the simulator makes of them, and the world's own measures are taken.
        tokens_per_pass: None for the world's default.
        report: folder for pictures and page.
        ceiling, regressor: what tokenizer and upsampler are held against, if anything.

    Raises ValueError for episodes of another size, and for a recipe of another schema.
    """
    if recipe is not None and recipe.schema != world.schema:
        raise ValueError(
            f"the recipe's schema {recipe.schema.name!r} is not this world's, {world.schema.name!r}: name the recipe "
            "that it was recorded with"
        )
    episodes = at_size(large, world.tokenizer.size)
    sampling = replace(world.sampling, tokens_per_pass=tokens_per_pass or world.sampling.tokens_per_pass)
    told = {**(about or {}), "episodes": len(episodes), "seed": seed}
    run = Evaluation(world, recipe, effort, seed, sampling, told)
    tokenizer = measure_tokenizer(world, episodes, ceiling)
    run.done("tokenizer", tokenizer.numbers)
    r, steered = world.tokenizer.frames_per_step, bool(world.actions)
    acted = [e for e in episodes if num_steps(e, r) and (e.actions is not None or not steered)]
    rollout = measure_rollout(world, acted, horizon=effort.horizon, seed=seed, sampling=sampling) if acted else None
    if rollout is not None:
        held = acted[: effort.held_episodes] if steered else []
        by_action = {"action_sensitivity": action_sensitivity(world, held, **run.drawn)} if held else {}
        run.done("rollout", rollout.numbers | by_action)
    run.measure_states(acted)
    edits = run.measure_edits(acted)
    run.done("speed", measure_speed(world, steps=effort.timed_steps, sampling=sampling).numbers)
    if acted:
        run.measure_long(acted)
    run.measure_words(episodes, acted)
    for name, measure in recipe.measures.items() if recipe is not None else ():
        run.done(name, measure(world, acted, horizon=effort.horizon, seed=seed, sampling=sampling))
    upsampled = None
    if world.upsampler is not None:
        size = world.upsampler.config.size
        chosen = [e for e in large if e.frames.shape[1:3] == size][: effort.upsampled_episodes]
        if chosen:
            steps = effort.upsampled_steps
            upsampled = measure_upsampler(world, chosen, num_steps=steps, seed=seed, regressor=regressor)
            run.done("upsampler", upsampled.numbers)
    run.numbers["about"]["seconds"] = round(run.seconds, 1)
    run.numbers["verdict"] = verdict(run.numbers)
    if report is not None:
        from train.measure.report import write

        write(
            report,
            run.numbers,
            verdicts(run.numbers, bars_of(recipe)),
            rebuilt=tokenizer.pictures,
            imagined=rollout.pictures if rollout else None,
            edits=edits,
            upsampled=upsampled.pictures if upsampled else None,
        )
    return run.numbers


def bars_of(recipe: Recipe | None) -> tuple[Bar, ...]:
    return () if recipe is None else recipe.bars


def at_size(episodes: Sequence[Episode], size: Size) -> list[Episode]:
    """Episodes recorded at ``size``, or at 2 or 4 times that, at ``size``. Raises ValueError for any other."""
    small = []
    for episode in episodes:
        height, width = episode.frames.shape[1:3]
        times, rest = divmod(height, size[0])
        if rest or times not in (1, 2, 4) or (height, width) != (times * size[0], times * size[1]):
            raise ValueError(
                f"this world sees {said_size(size)} frames and the recording has {height}x{width}: record it at "
                f"{2 * size[0]}x{2 * size[1]}"
            )
        small.append(episode if times == 1 else episode.with_frames(shrink(episode.frames, size)))
    return small


def table(numbers: Numbers, bars: Sequence[Bar] = ()) -> str:
    """The figures, the bars beside them, what an empty and a still picture get, and the verdict, for a terminal."""
    from train.measure.report import compared, decibels, readable

    lines = []
    for name, part in numbers.items():
        if name == "verdict":
            continue
        told = {key: value for key, value in part.items() if "error" not in key or not isinstance(value, list)}
        lines += [name, *(f"  {key:<32} {readable(value)}" for key, value in told.items()), ""]
    said = {True: "met", False: "MISSED", None: "nothing to count"}
    lines.append("bars")
    lines += [f"  {v.key:<38} {v.value:>8}  {v.bar:<7} {said[v.met]}" for v in verdicts(numbers, bars)]
    for title, (head, rows) in compared(numbers).items():
        lines += ["", f"{title:<36}{''.join(f'{name:>12}' for name in head)}"]
        lines += [f"  {name:<34}{''.join(f'{decibels(value):>12}' for value in values)}" for name, values in rows]
    return "\n".join([*lines, "", *numbers.get("verdict", ())])


def read_split(store: EpisodeStore, index: int, split: str) -> Episode:
    """An episode, or the part of it that belongs to the split where it was divided by time."""
    episode, span = store.read(index, segmentation=store.has_segmentation), store.span(index, split)
    return replace(episode, **vars(episode.window(span.start, len(span) - 1)))


def find_recipe(name: str | None, store: EpisodeStore | None, world: World) -> tuple[str, Recipe | None]:
    """The recipe of a world: the one named, else the one its recording or its folder names, else by its schema.

    Raises ValueError for a name that was given and leads nowhere. One that is only written down may be of a package
    that is not here: then there is no recipe.
    """
    if name:
        return name, registry.recipe(name)
    written = (
        None if store is None else store.settings.get("world"),
        world.recipe,
        registry.of_schema(world.schema),
    )
    for found in written:
        if not found:
            continue
        try:
            recipe = registry.recipe(found)
        except (ValueError, ImportError) as error:
            print(f"  without the world's recipe: {error}", file=sys.stderr)
            continue
        if recipe.schema == world.schema:
            return found, recipe
    return "", None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.evaluate", description=__doc__)
    parser.add_argument("--world", help="world folder, bundled name or hub id; the bundled world by default")
    parser.add_argument("--world-recipe", help="whose simulator it was learned from: a name, or my_world:RECIPE")
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
    threads = choose_threads()
    torch.set_num_threads(threads.count)
    try:
        world = World.from_pretrained(chosen.world, engine=chosen.engine)
        store = EpisodeStore(chosen.recording) if chosen.recording else None
        name, recipe = find_recipe(chosen.world_recipe, store, world)
        if store is None:
            if recipe is None:
                raise ValueError(
                    f"nobody here can simulate {world.schema.name!r} to record held-out episodes: give --recording "
                    "DIR, or the simulator's --world-recipe"
                )
            store = held_out(name, recipe, effort.episodes)
        if store.schema != world.schema:
            raise ValueError(
                f"{store.path} was recorded with another scene schema than this world has: record it again"
            )
        split = chosen.split if chosen.recording else "test"
        indices = store.split(split)[: effort.episodes]
        if not indices:
            raise ValueError(
                f"{store.path} has no episodes in its {chosen.split} split: record more, or name another --split"
            )
        episodes = [read_split(store, i, split) for i in indices]
        about = {
            "world": chosen.world or world.schema.name,
            **({"recipe": name} if recipe else {}),
            "recording": str(chosen.recording) if chosen.recording else "held-out",
            "split": chosen.split,
            "quick": chosen.quick,
            "threads": f"{threads.count} ({threads.reason})",
        }
        numbers = evaluate(
            world,
            episodes,
            effort=effort,
            recipe=recipe,
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
    print(table(numbers, bars_of(recipe)))
    print(f"\npictures: {chosen.report / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
