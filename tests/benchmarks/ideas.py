"""What papers propose, each tried alone: trained weights go on with it for equally many steps of the same data.

``python tests/benchmarks/ideas.py --tokens DIR --start-from CHECKPOINT [--steps 80] [--only NAME ...] [--json FILE]``

Tokens are of the world's own tokenizer. On their validation split: nats a video id and a state id by teacher forcing,
PSNR and the player's error over 16 free steps on true actions, the share of the last frame's ids that its own picture
would get, and milliseconds of a step.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.data.tokens import TokenDataModule, TokenStore
from train.measure.bodies import Bodies
from train.measure.metrics import psnr
from train.modules.dynamics import DynamicsModule
from train.running.checkpoint import read_checkpoint
from worldmodel.bench import time_steps
from worldmodel.sampling import sample
from worldmodel.transformer import Block, DynamicsBatch, DynamicsConfig
from worldmodel.world import World

HORIZON, LR = 16, 3e-4
NEAR = 0.2  # of a field's largest change: states further than this from the truth are on another way


class OwnSteps(DynamicsModule):
    """Fed states that it foresees itself, up to ``STEPS`` steps after the truth; what is learned leads back to it (the
    pushforward trick, arXiv:2202.03376)."""

    STEPS = 2

    def prepare(self, batch: dict[str, Tensor], *, disturb: bool) -> tuple[DynamicsBatch, Any]:
        prepared, targets = super().prepare(batch, disturb=disturb)
        if not disturb:
            return prepared, targets
        inputs = self.own(batch, prepared.input_states, int(torch.randint(self.STEPS + 1, ())))
        fed, targets = self.fed(batch, inputs)
        return replace(fed, text=prepared.text, input_video=prepared.input_video), targets

    @torch.no_grad()
    def own(self, batch: dict[str, Tensor], inputs: Tensor, times: int) -> Tensor:
        """States (B, T, F) to start from that lie ``times`` steps of the model's own after the truth.

        Where it went another way than the truth, as after a collision, the truth's are fed.
        """
        config, foreseen = self.dynamics.config, ~batch["skipped"]
        foreseen[:, 0] = False
        for _ in range(times):
            prepared, _ = self.fed(batch, inputs)
            logits = self.dynamics(prepared, config.tokens_per_pass[0], with_video=config.state_sees_video).state
            logits = logits.flatten(0, 1)
            ids, shares = sample(logits, 1.0, torch.rand(logits.shape[:2], device=logits.device))
            made = self.codec.advance(inputs.flatten(0, 1), ids, shares).view_as(inputs)
            change = (made - batch["states"])[..., self.codec.column].abs() / self.codec.largest
            near = change.amax(-1) < NEAR
            taken = (near & foreseen)[:, :-1, None]
            inputs = torch.cat([inputs[:, :1], torch.where(taken, made[:, :-1], inputs[:, 1:])], 1)
        return inputs


class ShortToLong(DynamicsModule):
    """Windows that grow while it trains, from ``SHORTEST`` latent frames to whole ones (Loong, arXiv:2410.02757), where
    early frames weigh more, too: here the cells of a first frame always weigh as those that change."""

    SHORTEST = 3

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        whole = batch["states"].shape[1]
        length = self.SHORTEST + round((whole - self.SHORTEST) * self.global_step / (self.hparams["total_steps"] - 1))
        by_step = ("states", "actions", "video", "skipped")
        return super().training_step({k: v[:, :length] if k in by_step else v for k, v in batch.items()}, index)


class ModalBlock(Block):
    """A block whose MLP and its norm are video's own for the video slots (modality experts, DropletVideo,
    arXiv:2503.06053). A pass has the slots of states, of video, or of both, which their number tells."""

    def __init__(self, config: DynamicsConfig, trained: Block, num_state: int, num_video: int) -> None:
        super().__init__(config)
        self.load_state_dict(trained.state_dict())
        self.num_state, self.num_video = 1 + num_state, num_video
        self.other = copy.deepcopy(trained)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.merge(attended.transpose(-3, -2).flatten(-2))
        slots = x.shape[-2]
        at = {self.num_video: 0, self.num_state + self.num_video: self.num_state}.get(slots, slots)
        parts = zip((self, self.other), x.split([at, slots - at], -2), strict=True)
        made = [b.down(F.gelu(b.up(b.mlp_norm(part)))) for b, part in parts]
        return x + torch.cat(made, -2)


IDEAS: dict[str, dict[str, Any]] = {
    "base": {},
    "window of 1 step": {"config": {"window": 1}},
    "window of 8 steps": {"config": {"window": 8}, "num_blocks": 11},
    "no anchor": {"config": {"anchor_frames": 0}},
    "3 anchors": {"config": {"anchor_frames": 3}},
    "no corruption of context ids": {"corruption": 0.0},
    "corruption up to 30 %": {"corruption": 0.3},
    "own states fed, up to 2 steps": {"module": OwnSteps},
    "state sees video": {"config": {"state_sees_video": True}},
    "own norm and MLP for video": {"experts": True},
    "last frames encoded again": {"encoded_again": True},
    "short windows first": {"module": ShortToLong},
}


def trained(tokens: Path, start: Path, steps: int, idea: dict[str, Any], seed: int) -> tuple[DynamicsModule, float]:
    """A module after so many steps, and minutes of training."""
    given = dict(idea)
    config = read_checkpoint(start)["hyper_parameters"]["config"] | given.pop("config", {})
    num_blocks, experts = given.pop("num_blocks", 7), given.pop("experts", False)
    given.pop("encoded_again", None)  # which is done in play
    L.seed_everything(seed, verbose=False)
    module = given.pop("module", DynamicsModule)(
        str(tokens), config=config, total_steps=steps, lr=LR, warmup_steps=10, start_from=str(start), **given
    )
    dynamics, layout = module.dynamics, module.layout
    if experts:
        counts = layout.num_state, layout.num_video
        dynamics.blocks = nn.ModuleList(ModalBlock(dynamics.config, block, *counts) for block in dynamics.blocks)
    event = module.dynamics.config.max_event
    data = TokenDataModule(str(tokens), num_blocks=num_blocks, max_event=event, batch_size=8, seed=seed)
    begin = time.perf_counter()
    L.Trainer(
        accelerator="cpu", devices=1, max_steps=steps, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, precision="bf16-mixed",
    ).fit(module, data)  # fmt: skip
    return module.eval(), (time.perf_counter() - begin) / 60


@torch.no_grad()
def foreseen(module: DynamicsModule, tokens: Path) -> dict[str, float]:
    """Nats an id on the validation split."""
    event = module.dynamics.config.max_event
    data = TokenDataModule(str(tokens), num_blocks=8, max_event=event, batch_size=16, validation_windows=64)
    kept: dict[str, list[float]] = {"video": [], "state": []}
    for batch in data.val_dataloader():
        losses = module.losses(batch, module.dynamics.config.tokens_per_pass[0], disturb=False)
        for name, values in kept.items():
            values.append(float(losses[name]))
    return {f"{name}_nats": sum(values) / len(values) for name, values in kept.items()}


def played(world: World, tokens: Path, encoded_again: bool, rows: int = 16) -> dict[str, float]:
    """Free steps from the first states of validation episodes, against what the tokenizer makes of their ids. With
    ``encoded_again``, the ids of decoded frames take the place of those that they were decoded from, as in Loong."""
    episodes = [e for e in TokenStore(tokens).load("validation") if e.num_latent_frames > HORIZON][:rows]
    states = torch.stack([e.states[: HORIZON + 1] for e in episodes if e.states is not None])
    video = torch.stack([e.video[: HORIZON + 1] for e in episodes if e.video is not None]).long()
    acted = torch.stack([e.actions[:HORIZON] for e in episodes if e.actions is not None])
    actions = world.actions.ids_to_values(acted)
    real = world.tokenizer.decode(video.unflatten(-1, world.dynamics.layout.grid), states)
    rollout = world.start([e.caption for e in episodes], frames=real[:, :1], state=states[:, 0], seed=0)
    frames, led = [], []
    for action in actions.unbind(1):
        step = rollout.step(action)
        frames.append(step.frames)
        led.append(step.state)
        if encoded_again:
            encoded = world.tokenizer.encode_step(step.frames).flatten(1)
            rollout.now = replace(rollout.now, video_ids=encoded)
    bodies, r = Bodies.of(world.schema), world.tokenizer.frames_per_step
    error: Tensor = bodies.distance(torch.stack(led, 1), states[:, 1:])[..., 0]
    shown = torch.stack(frames, 1)
    own = world.tokenizer.encode_step(shown[:, -1]).flatten(1)
    return {
        "psnr_db": float(psnr(shown, real[:, 1:].unflatten(1, (HORIZON, r))).mean()),
        "player_error_16": float(error[:, 15].mean()),
        "ids_of_the_picture": float((own == rollout.now.video_ids).float().mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--start-from", type=Path, required=True, help="checkpoint of a trained dynamics")
    parser.add_argument("--world", default="tabletop", help="whose tokenizer draws")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=IDEAS, default=list(IDEAS))
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    world, found = World.from_pretrained(chosen.world, device="cpu"), {}
    for name in chosen.only:
        module, minutes = trained(chosen.tokens, chosen.start_from, chosen.steps, IDEAS[name], chosen.seed)
        ours = World(schema=world.schema, text=world.text, tokenizer=world.tokenizer, dynamics=module.dynamics)
        numbers = {"minutes": minutes} | foreseen(module, chosen.tokens)
        numbers |= played(ours, chosen.tokens, IDEAS[name].get("encoded_again", False))
        numbers["step_ms"] = time_steps(ours, steps=20)["step_ms"]["p50"]
        found[name] = {key: round(value, 4) for key, value in numbers.items()}
        print(f"{name:<32} " + "  ".join(f"{key} {value:g}" for key, value in found[name].items()), flush=True)
        if chosen.json:
            chosen.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
