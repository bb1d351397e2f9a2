"""How well a world reads states from pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tokenizer.clip import Episode
from train.measure.bodies import Bodies, angle_error
from train.measure.free_running import CONTEXT, imagine, in_batches, num_steps, recorded_actions, start
from train.measure.measurement import Measurement, Numbers
from train.measure.metrics import psnr
from worldmodel.sampling import Sampling
from worldmodel.world import World

LATER = 8  # steps after that at which a rollout's picture is compared


def measure_read(
    world: World, episodes: Sequence[Episode], *, per_episode: int, seed: int, sampling: Sampling
) -> Measurement:
    """The state read from frames alone, against the true one, and the pictures that a rollout from it shows.

    Like bodies are compared in the order that fits best (see ``Bodies.matched``). ``position_error``,
    ``velocity_error`` (in m/s or the schema's unit), ``colour``, ``shape`` and ``material`` (shares read right) are
    means over the bodies that are there, ``found`` is the share of them that is read as there; ``present`` is of all
    bodies, ``count`` of the scenes whose number of bodies is right. ``first_frame_psnr_db`` is of the picture that the
    rollout begins with against the last one that was read from, ``psnr_8_db`` of a rollout on the true actions at step
    8 against the recording, and with ``true_state`` the same where the true state is given too.
    """
    bodies, r = Bodies.of(world.schema), world.tokenizer.frames_per_step
    moments = [
        (episode, begin)
        for episode in episodes
        if num_steps(episode, r) >= CONTEXT
        for begin in np.linspace(0, num_steps(episode, r) - CONTEXT, per_episode).astype(int).tolist()
    ]
    if not len(bodies) or not moments:
        return Measurement({"rows": 0})
    read, true = [], []
    pictures: dict[str, list[Tensor]] = {}
    for rows in in_batches(moments):
        clips = [episode.window(begin, CONTEXT) for episode, begin in rows]
        later = [
            episode.window(begin + CONTEXT, min(LATER, num_steps(episode, r) - begin - CONTEXT))
            for episode, begin in rows
        ]
        lasting = torch.tensor([num_steps(clip, r) == LATER for clip in later])
        actions = recorded_actions(world, later, LATER)
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
        if named is not None and true_name is not None:
            right = (named.round() == true_name.round())[..., 0][there]
            numbers[f"{role}_accuracy"] = right.float().mean()
    for role in ("camera", "light"):
        error = angle_error(world.schema, role, states, truth)
        if error is not None:
            numbers[f"{role}_error_deg"] = error.mean()
    return Measurement(numbers | {name: torch.cat(scores).mean() for name, scores in pictures.items()})
