"""Whether what a world is told in mid-stream happens: ``events`` in an evaluation, beside the simulator.

The world's recipe draws an event of the scene that a rollout has come to. The simulator does it, and does not; the
world is told it, and is not told it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tokenizer.clip import Episode
from train.measure.bodies import Bodies
from train.measure.free_running import CONTEXT, num_steps, start
from train.measure.measurement import Numbers
from worldmodel.rollout import Rollout
from worldmodel.sampling import Sampling
from worldmodel.world import World

MOVES = 0.1  # m/s
AFTER = 8  # steps

Event = tuple[str, str, Mapping[str, Any]]


def measure_events(
    world: World,
    episodes: Sequence[Episode],
    env: Any,
    draw_event: Callable[[Mapping[str, Any], np.random.Generator], Event],
    phrases: Mapping[str, str],
    *,
    per_episode: int,
    seed: int,
    sampling: Sampling,
) -> Numbers:
    """Idle steps after an event, from true states of held-out episodes.

    ``obeyed``: share of events after whose step all that they change is nearer to what the simulator makes of it
    than to what it would have been without; ``obeyed_<kind>`` the same by kind, ``untold`` the same in rollouts that
    are not told. ``undisturbed``: share of rollouts in which every other body is within 1 % of the table's width of
    where the simulator has it then. Each name in ``phrases``: mean speed of the bodies that move, in the schema's
    unit, when the step is told its text. ``error_8`` is the bodies' mean distance from the simulator's eight steps
    later in table widths, ``untold_error_8`` that of the simulator's without the event: what ignoring it costs.
    """
    schema, bodies, rng = world.schema, Bodies.of(world.schema), np.random.default_rng([seed, 30])
    clips, cases = [], []
    env.reset(seed=seed)
    r, idle = schema.frames_per_step, world.actions.idle()
    for episode in (e for e in episodes if num_steps(e, r) >= CONTEXT):
        for begin in np.linspace(0, num_steps(episode, r) - CONTEXT, per_episode + 2)[1:-1].astype(int):
            clip = episode.window(int(begin), CONTEXT)
            assert clip.states is not None
            kind, text, edit = draw_event(schema.to_dict(torch.from_numpy(clip.states[-1])), rng)
            try:
                after = [_simulated(env, clip.states[-1], changes) for changes in (edit, {})]
            except ValueError:  # bodies that a collision has pressed into one another
                continue
            columns = [schema.columns(entity, field) for entity, fields in edit.items() for field in fields]
            changed = [c for c in columns if not torch.equal(after[0][0, c], after[1][0, c])]
            if not changed:  # nothing comes of it
                continue
            clips.append(clip)
            cases.append((kind, text, edit, *after, changed))
    if not cases:
        return {"rows": 0}
    told, untold = (start(world, clips, seed=seed, sampling=sampling) for _ in range(2))
    motion = {name: _motion(untold.fork(), text, bodies, idle) for name, text in phrases.items()}
    for row, (_, text, *_) in enumerate(cases):
        told.tell(text, row)
    first = told.step(idle).state, untold.step(idle).state
    for _ in range(AFTER - 1):
        told.step(idle)
    truth, without = (torch.stack([case[which] for case in cases]) for which in (3, 4))  # (rows, AFTER, F)
    there = bodies.present(truth[:, 0])

    obeyed: dict[str, list[bool]] = {"obeyed": [], "untold": []}
    undisturbed = []
    for row, (kind, _, edit, _, _, changed) in enumerate(cases):
        for name, states in zip(("obeyed", "untold"), first, strict=True):
            nearer = [
                (states[row, c] - truth[row, 0, c]).norm() < (states[row, c] - without[row, 0, c]).norm()
                for c in changed
            ]
            obeyed[name].append(all(map(bool, nearer)))
        obeyed.setdefault(f"obeyed_{kind}", []).append(obeyed["obeyed"][-1])
        others = there[row] & torch.tensor([name not in edit for name in bodies.names])
        apart = bodies.distance(first[0][row : row + 1], truth[row : row + 1, 0])[0]
        undisturbed.append(bool((apart[others] < 0.01).all()))
    numbers: Numbers = {"rows": len(cases), "undisturbed": sum(undisturbed) / len(undisturbed)}
    numbers |= {name: sum(rows) / len(rows) for name, rows in obeyed.items()}
    numbers |= motion
    numbers["error_8"] = bodies.distance(told.state, truth[:, -1])[there].mean()
    numbers["untold_error_8"] = bodies.distance(without[:, -1], truth[:, -1])[there].mean()
    return numbers


def _motion(rollout: Rollout, text: str, bodies: Bodies, idle: Any) -> float:
    """Mean speed, in m/s, of the bodies that move, at the end of the step that is told this."""
    before = bodies.of_role(rollout.state, "velocity")
    rollout.tell(text)
    after = bodies.of_role(rollout.step(idle).state, "velocity")
    assert before is not None
    assert after is not None
    return float(after.norm(dim=-1)[before.norm(dim=-1) > MOVES].mean())


def _simulated(env: Any, state: np.ndarray, edit: Mapping[str, Any]) -> torch.Tensor:
    """States (AFTER, F) that follow from one, edited, when nothing is done."""
    env.write_state(state)
    env.write_state(edit)
    return torch.from_numpy(np.stack([env.step(0)[4]["state"] for _ in range(AFTER)]))
