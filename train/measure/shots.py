"""A cut to another camera: ``shots`` in an evaluation. The scene goes on, and bodies stay who they are.

A cut is an edit of the camera in mid-stream. Half of the camera's range away, little of the last picture is of use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from tokenizer.clip import Episode
from tokenizer.scene import StateReader
from train.measure.bodies import Bodies
from train.measure.endless import Renderer, body_colours
from train.measure.free_running import start
from train.measure.measurement import Numbers
from train.measure.metrics import psnr
from worldmodel.sampling import Sampling
from worldmodel.world import World

BEFORE, STEPS = 4, 2  # steps before the cut, and after it


def measure_shots(
    world: World,
    episodes: Sequence[Episode],
    phrases: Mapping[str, str],
    *,
    seed: int,
    sampling: Sampling,
    render: Renderer,
) -> Numbers:
    """Idle rollouts, cut after 4 steps, beside the same uncut; ``_1`` and ``_2`` are steps after the cut.

    ``psnr_db``: against the simulator's picture of the state; ``uncut_psnr_db``: the same without a cut;
    ``ignored_psnr_db``: what the uncut picture would be worth. ``bodies_apart``: distance between bodies with and
    without the cut, in shares of the table's width. ``bodies_drawn``: share of bodies whose colour is nearer
    to what it was before the cut than to what is around it. ``NAME_psnr_db``, for each name in ``phrases``, is like
    ``psnr_db_1``, of rollouts that are told its text in place of the edit.
    """
    schema, idle, numbers = world.schema, world.actions.idle(), {}
    entity, field = next((e.name, f) for e in schema.entities for f in e.fields if f.role == "camera")
    uncut = start(world, [e.window(0, 0) for e in episodes], seed=seed, sampling=sampling)
    for _ in range(BEFORE):
        uncut.step(idle)
    cut, column = uncut.fork(), schema.columns(entity, field.name).start
    for name, text in phrases.items() if world.max_event else ():
        told = uncut.fork()
        told.tell(text)
        shown = told.step(idle)
        pairs = ((shown.frames[row, -1], render(shown.state[row])) for row in range(len(episodes)))
        worth = [psnr(picture, truth) for picture, truth in pairs if truth is not None]
        numbers |= {f"{name}_psnr_db": torch.stack(worth).mean()} if worth else {}
    reader, bodies = StateReader(schema), Bodies.of(schema)
    was, _, there = body_colours(uncut, reader)
    for row in range(len(episodes)):
        here, half = float(cut.state[row, column]), (field.high - field.low) / 2
        cut.edit({entity: {field.name: here + half if here < field.low + half else here - half}}, row)
    for number in range(1, STEPS + 1):
        ours, theirs = cut.step(idle), uncut.step(idle)
        scores: dict[str, list[torch.Tensor]] = {"psnr_db": [], "uncut_psnr_db": [], "ignored_psnr_db": []}
        for row in range(len(episodes)):
            after, without = render(ours.state[row]), render(theirs.state[row])
            if after is None or without is None:
                continue
            shown, unmoved = ours.frames[row, -1], theirs.frames[row, -1]
            for name, (picture, truth) in zip(
                scores, ((shown, after), (unmoved, without), (unmoved, after)), strict=True
            ):
                scores[name].append(psnr(picture, truth))
        numbers |= {f"{name}_{number}": torch.stack(each).mean() for name, each in scores.items() if each}
        now, around, still = body_colours(cut, reader)
        kept = (now - was).square().sum(-1) < (now - around).square().sum(-1)
        numbers[f"bodies_drawn_{number}"] = kept[there & still].float().mean()
        apart = bodies.distance(ours.state, theirs.state)[bodies.present(theirs.state)]
        numbers[f"bodies_apart_{number}"] = apart.mean()
    return numbers
