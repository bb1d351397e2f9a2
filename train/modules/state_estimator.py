"""Trains the state estimator: what the picture shows, each id told the true ones before it.

A quantity's neighbouring ids are nearly right too, so its target is a bump over them, not one id. Where the recording
says which entity each pixel shows, cells learn to say that too: what is where is then found much sooner.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from tokenizer.state_schema import StateSchema
from train.data.episode_store import schema_json
from train.modules.schedule import ScheduledModule, load_trained
from worldmodel.state_estimator import CELL, StateEstimator, StateEstimatorConfig


class StateEstimatorModule(ScheduledModule):
    """Lightning module around :class:`StateEstimator`.

    A batch holds ``frames`` uint8 (B, 1 + r * n, H, W, 3) and ``states`` (B, 1 + n, num_values); the state at the end
    is what is learned. It may hold ``segmentation``, which entity each pixel shows (0: none).

    Args:
        config: fields of ``StateEstimatorConfig``.
        schema: the scene schema as its ``to_json`` gives it, or the folder of a recording.
        lr, weight_decay, warmup_steps, total_steps: Muon and AdamW with a cosine that ends at ``total_steps``.
        spread: of a quantity's target, as a share of its range; below half a bin it is one id.
        map_weight: of the entity map's cross entropy, where there is one.
        still_share: share of clips of which only the last frame is shown, so that one picture can be read too.
        start_from: a checkpoint of this module whose weights to start from.
    """

    targets: Tensor

    def __init__(
        self,
        config: dict[str, Any] | None = None,
        schema: dict[str, Any] | str | None = None,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 200,
        total_steps: int = 6000,
        spread: float = 0.006,
        map_weight: float = 1.0,
        still_share: float = 0.1,
        seed: int = 0,
        start_from: str | None = None,
    ) -> None:
        super().__init__()
        schema = schema_json(schema)
        self.save_hyperparameters()
        self.hparams["schema"] = schema  # kept whole, so a checkpoint needs no recording
        if not schema:
            raise ValueError("a state estimator needs a schema: name the folder of a recording with states")
        self.estimator = StateEstimator(StateEstimatorConfig(**(config or {})), StateSchema.from_json(schema))
        self.estimator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if start_from:
            load_trained(self, start_from, "estimator.")
        self.map = nn.Linear(self.estimator.config.width, CELL**2 * (1 + len(self.estimator.schema.entities)))
        self.map_weight, self.still_share, self.seed = map_weight, still_share, seed
        self.register_buffer("targets", self._targets(spread), persistent=False)

    def _targets(self, spread: float) -> Tensor:
        """What is to be said where an id is true, a distribution over local ids: (ids, ids)."""
        schema = self.estimator.schema
        targets = torch.eye(schema.num_local_ids)
        for slot in self.estimator.slots:
            if slot.field.kind == "continuous":
                bins, span = slot.field.bins, slice(slot.offset, slot.offset + slot.field.bins)
                away = (torch.arange(bins)[:, None] - torch.arange(bins)).abs()
                away = torch.minimum(away, bins - away) if slot.field.periodic else away
                targets[span, span] = (-0.5 * (away / max(0.1, spread * bins)).square()).softmax(-1)
        return targets

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        frames, ids = batch["frames"], self.estimator.encode(batch["states"][:, -1])
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.global_step)
        still = (torch.rand(len(frames), generator=generator) < self.still_share).to(frames.device)
        frames = self.estimator.checked(frames)
        frames = torch.where(still[:, None, None, None, None], frames[:, -1:], frames)
        logits, cells = self.estimator(frames, ids)
        said = logits.log_softmax(-1).clamp_min(-1e4)  # illegal ids are said by no target either
        there = ~self.estimator.absent(ids)
        loss = -((self.targets[ids] * said).sum(-1) * there).sum() / there.sum()
        scores = {"loss": loss.detach()}
        if "segmentation" in batch and self.map_weight:
            shown = batch["segmentation"][:, -1].long()
            shown = rearrange(shown, "b (h p) (w q) -> b (h w) (p q)", p=CELL, q=CELL)
            said = self.map(cells).unflatten(-1, (CELL**2, -1)).float()
            scores["map"] = nn.functional.cross_entropy(said.flatten(0, 2), shown.flatten())
            loss = loss + self.map_weight * scores["map"]
        self.log_dict({name: value.detach() for name, value in scores.items()}, batch_size=len(frames))
        return loss

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        """By role: the mean error of quantities as a share of their range, of anything else the share read wrong."""
        truth = batch["states"][:, -1]
        states = self.estimator.estimate(batch["frames"])
        there = ~self.estimator.absent(self.estimator.encode(truth))
        errors: dict[str, list[Tensor]] = {}
        for slot, known in zip(self.estimator.slots, there.unbind(1), strict=True):
            here, right = states[known, slot.columns], truth[known, slot.columns]
            if slot.field.kind == "continuous":
                error = slot.field.difference(here, right).abs() / (slot.field.high - slot.field.low)
            else:
                error = (here.round() != right.round()).float()
            errors.setdefault(slot.field.role, []).append(error.flatten())
        for role, parts in errors.items():
            error = torch.cat(parts)
            if len(error):
                self.log(f"val/{role}", error.mean(), batch_size=len(error))

    def hidden_matrices(self) -> list[nn.Parameter]:
        parts = (self.estimator.stem, self.estimator.coarse, self.estimator.blocks)
        return [p for part in parts for p in part.parameters() if p.dim() in (2, 4)]
