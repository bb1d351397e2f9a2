"""Does the picture follow when the state is written? Bodies are moved in held-out scenes, and the simulator says
what should be seen.

In each case one body is moved to a free place by an edit of its position, and the world runs two idle steps.
The simulator, put into the same state, edited alike and run alike, gives the true pictures and who covers which
pixel. Then, from the decoded pixels of a step's last frame alone:

*shown*: of the pixels that the moved body covers in the true picture, at least half look like the true picture
there, rather than like the picture before the edit or like a body of any other colour.
*cleared*: of the pixels that the body covered before the edit and no body covers now, less than half look like
the picture before the edit rather than like the true one.
*obeyed*: shown and cleared. *undisturbed*: every other visible body is shown, judged against its own true pixels,
what lies around it, and bodies of any other colour.

"Looks like" is the nearest in RGB. Bodies of fewer than ``LEAST_PIXELS`` pixels are not judged. The same
criterion applied to the tokenizer's reconstruction of the true pictures is the ``ceiling``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenizer.clip import Clip, Episode
from tokenizer.state_schema import StateSchema
from train.measure.bodies import Bodies, entity_map, rival_colours
from train.measure.free_running import CONTEXT, imagine, in_batches, num_steps, start
from train.measure.measurement import Numbers
from train.measure.metrics import LEAST_PIXELS, median_colours, share_shown, surroundings, typical_colours
from train.measure.tokenizer import rebuilt
from worldmodel.sampling import Sampling
from worldmodel.world import World

STEPS = 2
APART = 0.04  # between the moved body's new place and anybody else's reach, in shares of the positions' range
AWAY = 0.22  # that it is moved at the least, likewise


@dataclass(frozen=True, kw_only=True)
class EditCase:
    """A body to be moved, and what should be seen.

    clip: up to the moment of the edit. body: index among the schema's bodies. place: (x, y).
    truth uint8 (1 + r * STEPS, H, W, 3): the edited scene and the true frames after it.
    states (STEPS, num_values): the true states after it.
    covers, covered uint8 (STEPS, H, W) and (H, W): the entity map at each step's end, and before the edit.
    """

    clip: Clip
    body: int
    name: str
    place: tuple[float, float]
    truth: Tensor
    states: Tensor
    covers: Tensor
    covered: Tensor

    @property
    def before(self) -> Tensor:
        """The picture that the edit meets, (H, W, 3)."""
        return torch.from_numpy(self.clip.frames[-1])


@dataclass(frozen=True)
class Verdict:
    """obeyed by the end of a step; shares of pixels that show the body, and that still show it where it was."""

    shown: float
    left_behind: float
    others_shown: tuple[float, ...]

    @property
    def obeyed(self) -> bool:
        return self.shown >= 0.5 and not self.left_behind >= 0.5

    @property
    def undisturbed(self) -> bool:
        return all(share >= 0.5 for share in self.others_shown)


@dataclass(frozen=True)
class EditResult:
    """frames: uint8 (B, STEPS, H, W, 3), the last of each step; verdicts of step STEPS."""

    numbers: Numbers
    cases: list[EditCase]
    frames: Tensor
    verdicts: list[Verdict]


def draw_cases(
    env: Any, schema: StateSchema, episodes: Sequence[Episode], size: tuple[int, int], *, per_episode: int, seed: int
) -> list[EditCase]:
    """Moves the player and one other body, each to a random free place, at several moments of every episode.

    ``env`` is an editable simulator that draws ``size`` and entity maps; the first of its actions does nothing. A
    moment is left out where no free place is found or body or place cannot be seen.
    """
    bodies, rng = Bodies.of(schema), np.random.default_rng([seed, 20])
    cases = []
    for episode in episodes:
        steps = num_steps(episode, schema.frames_per_step)
        if steps < CONTEXT or episode.states is None:
            continue
        for begin in np.linspace(0, steps - CONTEXT, per_episode + 2)[1:-1].astype(int):
            clip = episode.window(int(begin), CONTEXT)
            assert clip.states is not None
            others = [i for i, there in enumerate(bodies.present(torch.from_numpy(clip.states[-1]))) if there and i]
            for body in (0, int(rng.choice(others))) if others else (0,):
                case = _draw_case(env, bodies, clip, body, size, rng)
                if case is not None:
                    cases.append(case)
    return cases


def _draw_case(
    env: Any, bodies: Bodies, clip: Clip, body: int, size: tuple[int, int], rng: np.random.Generator
) -> EditCase | None:
    assert clip.states is not None
    name, label, state = bodies.names[body], bodies.labels[body], clip.states[-1]
    values = torch.from_numpy(state)
    places, sizes, present = bodies.of_role(values, "position"), bodies.of_role(values, "size"), bodies.present(values)
    assert places is not None
    assert sizes is not None
    scene = bodies.schema.to_dict(values)
    scene = {who: of if of.get("present", True) else {"present": False} for who, of in scene.items()}
    try:
        _, info = env.reset(seed=0, options={"state": scene})
    except ValueError:  # two bodies in the middle of a hard collision
        return None
    covered = entity_map(info["segmentation"], size)[0]
    reach = 2**0.5 * sizes[:, 0]  # of a box, however it is turned
    apart, away = APART * bodies.width, AWAY * bodies.width
    limit = bodies.width / 2 - float(reach[body]) - apart / 2
    for _ in range(60):
        place = torch.from_numpy(rng.uniform(-limit, limit, 2)).float()
        gaps = (places - place).norm(dim=-1) - reach - reach[body] - apart
        gaps[body] = (places[body] - place).norm() - away
        if gaps[present].min() < 0:
            continue
        spot = (float(place[0]), float(place[1]))
        env.write_state(state)
        env.write_state({name: {"position": spot}})
        steps = [env.step(0)[4] for _ in range(STEPS)]
        covers = entity_map(np.stack([info["segmentation"][-1] for info in steps]), size)
        if min(int((covers == label).sum((1, 2)).min()), int((covered == label).sum())) < LEAST_PIXELS:
            continue
        frames = np.concatenate([clip.frames[-1:], *(info["frames"] for info in steps)])
        return EditCase(
            clip=clip,
            body=body,
            name=name,
            place=spot,
            truth=torch.from_numpy(frames),
            states=torch.from_numpy(np.stack([info["state"] for info in steps])),
            covers=covers,
            covered=covered,
        )
    return None


def judge(case: EditCase, bodies: Bodies, picture: Tensor, step: int, typical: Tensor) -> Verdict:
    """The criterion above, on a picture (H, W, 3) at the end of ``step`` (from 0). ``typical``: (kinds, 3) colours."""
    assert case.clip.states is not None
    truth, before = case.truth[(step + 1) * (len(case.truth) - 1) // STEPS], case.before
    masks = bodies.masks(case.covers[step][None])[0]
    kinds, _ = bodies.kinds(torch.from_numpy(case.clip.states[-1]))
    rivals = rival_colours(kinds, typical)  # (N, kinds, 3)
    around = median_colours(truth[None], surroundings(masks[None], masks.any(0)[None]))[0]
    size = picture.shape[:2]

    unmoved = torch.cat([before[:, :, None].float(), rivals[case.body].expand(*size, -1, -1)], 2)
    freed = (case.covered == bodies.labels[case.body]) & ~masks.any(0)
    return Verdict(
        shown=share_shown(picture, truth, masks[case.body], unmoved),
        left_behind=share_shown(picture, before, freed, truth[:, :, None].float()),
        others_shown=tuple(
            share_shown(picture, truth, mask, torch.cat([around[i, None], rivals[i]]))
            for i, mask in enumerate(masks)
            if i != case.body and mask.sum() >= LEAST_PIXELS
        ),
    )


def measure_edits(world: World, cases: list[EditCase], *, seed: int, sampling: Sampling) -> EditResult:
    """Runs and judges all cases. ``obeyed`` is by the second step; ``others_undisturbed`` is a share of rollouts."""
    bodies, r = Bodies.of(world.schema), world.tokenizer.frames_per_step
    shown, ceilings = [], []
    for rows in in_batches(cases):
        rollout = start(world, [case.clip for case in rows], seed=seed, sampling=sampling)
        for row, case in enumerate(rows):
            rollout.edit({case.name: {"position": case.place}}, row=row)
        shown.append(imagine(rollout, [world.actions.idle()] * STEPS).frames[:, :, -1])
        whole = [torch.cat([torch.from_numpy(case.clip.frames), case.truth[1:]]) for case in rows]
        states = [torch.cat([torch.from_numpy(case.clip.states), case.states]) for case in rows]
        ceilings.append(rebuilt(world, torch.stack(whole), torch.stack(states))[:, -r * STEPS :][:, r - 1 :: r])
    frames, ceiling = torch.cat(shown), torch.cat(ceilings)

    colours, kinds, num_kinds = [], [], 0
    for case in cases:
        assert case.clip.states is not None
        kind, num_kinds = bodies.kinds(torch.from_numpy(case.clip.states[-1]))
        colours.append(median_colours(case.truth[-1:], bodies.masks(case.covers[-1:]))[0])
        kinds.append(kind)
    typical = typical_colours(torch.cat(colours), torch.cat(kinds), num_kinds)
    verdicts = {
        (which, step): [
            judge(case, bodies, picture[step], step, typical) for case, picture in zip(cases, of, strict=True)
        ]
        for which, of in (("ours", frames), ("ceiling", ceiling))
        for step in range(STEPS)
    }
    by_player = [case.body == 0 for case in cases]

    def share(verdicts: list[Verdict], what: str = "obeyed", player: bool | None = None) -> float | None:
        chosen = [getattr(v, what) for v, his in zip(verdicts, by_player, strict=True) if player in (None, his)]
        return sum(chosen) / len(chosen) if chosen else None

    last = verdicts["ours", STEPS - 1]
    one_by_one = [share >= 0.5 for verdict in last for share in verdict.others_shown]
    numbers: dict[str, Any] = {
        "rows": len(cases),
        "obeyed": share(last),
        "obeyed_player": share(last, player=True),
        "obeyed_others": share(last, player=False),
        "obeyed_first_step": share(verdicts["ours", 0]),
        "obeyed_first_step_player": share(verdicts["ours", 0], player=True),
        "obeyed_first_step_others": share(verdicts["ours", 0], player=False),
        "shown": sum(v.shown >= 0.5 for v in last) / len(last),
        "cleared": sum(not v.left_behind >= 0.5 for v in last) / len(last),
        "others_undisturbed": share(last, "undisturbed"),
        "others_undisturbed_by_body": sum(one_by_one) / len(one_by_one) if one_by_one else None,
        "ceiling": share(verdicts["ceiling", STEPS - 1]),
        "ceiling_others_undisturbed": share(verdicts["ceiling", STEPS - 1], "undisturbed"),
    }
    return EditResult(numbers, cases, frames, last)
