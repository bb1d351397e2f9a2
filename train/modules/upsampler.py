"""Trains the upsampler by flow matching, on what it will really be given: frames that a tokenizer decoded.

The path runs straight from bicubic + noise (time 1) to the recorded frame (time 0), both as residuals over
bicubic (see ``worldmodel/upsampler.py``). The network predicts the clean end, and the loss is the error of the
velocity that this implies, ``(prediction - clean) / time``. All frames of a clip share one time, as they do
when a stream is sampled. Half of the clips stand at time 1, so that a single step is as well trained as many.

A mean flow (``config: {mean_flow: true}``; Geng et al. 2025, arXiv:2505.13447) learns whole steps: half of the clips
draw a time to jump to, and the target is moved by what the mean velocity changes along the path, which forward-mode
differentiation gives. ``objective: regression`` trains the same network to say the picture at once, by its absolute
error: what a generator of this size has to be held against.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenizer.clip import shrink
from tokenizer.frames import said_size
from tokenizer.state_schema import StateSchema
from tokenizer.video_tokenizer import VideoTokenizer
from train.data.episode_store import schema_json
from train.modules.picture_losses import decibels
from train.modules.schedule import ScheduledModule, load_trained
from worldmodel.upsampler import Conditions, Upsampler, UpsamplerConfig


def load_tokenizer(folder: str | Path) -> VideoTokenizer:
    """The tokenizer in an exported tokenizer's folder or in a world's."""
    if (Path(folder) / "world.json").is_file():
        from worldmodel.world import World

        return World.from_pretrained(str(folder)).tokenizer
    return VideoTokenizer.load(folder)


def corrupt(frames: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Frames a little worse than the tokenizer's, as a rollout's are: uint8 (B, T, h, w, 3) to the same.

    Each clip draws its own blur, brightness and noise, up to ``strength`` (1: a full 3 x 3 binomial blur, a
    tenth brighter or darker, noise of 13 grey levels).
    """
    batch, device = len(frames), frames.device
    blur, brightness, noise = torch.rand(3, batch, 1, 1, 1, 1, generator=generator, device=device) * strength
    video = frames.movedim(-1, 2).float() / 255
    row = torch.tensor([0.25, 0.5, 0.25], device=device)
    kernel = (row[:, None] * row).expand(3, 1, 3, 3)
    padded = F.pad(video.flatten(0, 1), (1, 1, 1, 1), mode="replicate")
    blurred = F.conv2d(padded, kernel, groups=3).view_as(video).float()  # under autocast it comes in bfloat16
    video = video.lerp(blurred, blur)
    sign = torch.randint(0, 2, brightness.shape, generator=generator, device=device) * 2 - 1
    video = video * (1 + 0.1 * sign * brightness)
    video = video + 0.05 * noise * torch.randn(video.shape, generator=generator, device=device)
    return (video.clamp(0, 1) * 255).round().to(torch.uint8).movedim(2, -1)


class UpsamplerModule(ScheduledModule):
    """Lightning module around :class:`Upsampler`.

    A batch holds ``frames`` uint8 (B, 1 + r * n, H, W, 3) at the large size and, for a schema with entities,
    ``states`` (B, 1 + n, num_values). It may hold ``decoded``, the tokenizer's frames (B, 1 + r * n, h, w, 3), when
    they have been made beforehand, and ``segmentation``, which entity each pixel shows (0: none).

    Args:
        config: fields of ``UpsamplerConfig``.
        schema: the scene schema as its ``to_json`` gives it, or the folder of a recording. None: no state.
        tokenizer_path: folder of an exported tokenizer or world. None trains on recordings made smaller.
        lr, weight_decay, warmup_steps, total_steps: AdamW with a cosine that ends at ``total_steps``.
        body_weight: how much more a patch that touches a body counts than one that does not.
        corruption: strength of what :func:`corrupt` does to the frames in training.
        one_step_share: share of clips trained at time 1, where one-step sampling stands.
        min_time: smallest time trained, above 0, where there is nothing left to predict.
        num_steps: denoising steps in validation and sample videos.
        start_from: a checkpoint of this module whose weights to start from.
        objective: ``flow`` or ``regression``.
    """

    def __init__(
        self,
        config: dict[str, Any] | None = None,
        schema: dict[str, Any] | str | None = None,
        tokenizer_path: str | None = None,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 200,
        total_steps: int = 6000,
        body_weight: float = 4.0,
        corruption: float = 0.3,
        one_step_share: float = 0.5,
        min_time: float = 0.05,
        num_steps: int = 1,
        seed: int = 0,
        start_from: str | None = None,
        objective: Literal["flow", "regression"] = "flow",
    ) -> None:
        super().__init__()
        schema = schema_json(schema)
        self.save_hyperparameters()
        self.hparams["schema"] = schema  # kept whole, so a checkpoint needs no recording
        self.upsampler = Upsampler(UpsamplerConfig(**(config or {})), StateSchema.from_json(schema) if schema else None)
        if start_from:
            load_trained(self, start_from, "upsampler.")
        self.tokenizer_path, self.body_weight, self.corruption = tokenizer_path, body_weight, corruption
        self.one_step_share, self.min_time, self.num_steps, self.seed = one_step_share, min_time, num_steps, seed
        self.objective = objective

    @cached_property
    def tokenizer(self) -> VideoTokenizer | None:
        """Kept out of this module's weights: it is only asked for its pictures."""
        return None if self.tokenizer_path is None else load_tokenizer(self.tokenizer_path).to(self.device).eval()

    @torch.no_grad()
    def small_frames(self, batch: dict[str, Any]) -> Tensor:
        """What the upsampler is given for a batch: uint8 (B, 1 + r * n, h, w, 3)."""
        frames, size = batch["frames"], self.upsampler.config.size
        if frames.shape[2:4] != size:
            raise ValueError(
                f"this upsampler makes {said_size(size)} frames but the batch holds "
                f"{frames.shape[2]}x{frames.shape[3]}: read the recording with resolution {list(size)}"
            )
        if "decoded" in batch:
            return batch["decoded"]
        small = torch.from_numpy(shrink(frames.cpu().numpy(), self.upsampler.config.small_size)).to(frames.device)
        if self.tokenizer is None:
            return small
        states = None if self.tokenizer.schema is None else batch.get("states")
        return self.tokenizer.decode(self.tokenizer.encode(small), states)

    def _given(self, small: Tensor, states: Tensor | None) -> Conditions:
        if self.upsampler.motion is None:
            return self.upsampler.conditions(small)
        if states is None:
            raise ValueError("this upsampler is told the scene state but the batch has no 'states': record them too")
        return self.upsampler.conditions(small, self.upsampler.frame_states(states, small.shape[1]))

    def _patch_weight(self, batch: dict[str, Any]) -> Tensor | float:
        """(B, T, h, w, 1) with mean 1 over the batch; 1 where nothing tells bodies from background."""
        if "segmentation" not in batch:
            return 1.0
        height, width = self.upsampler.config.size
        cells = (height // self.upsampler.config.patch, width // self.upsampler.config.patch)
        bodies = (batch["segmentation"] > 0).float()
        weight = 1 + self.body_weight * F.adaptive_max_pool2d(bodies, cells)[..., None]
        return weight / weight.mean()

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + self.global_step)
        given = self._given(corrupt(self.small_frames(batch), self.corruption, generator), batch.get("states"))
        missed = self.upsampler.residual(batch["frames"], given)
        clean, rows = missed.detach(), len(missed)
        draw = torch.rand(4, rows, generator=generator, device=self.device)
        alone = (draw[1] < self.one_step_share) | (self.objective == "regression")
        time = torch.where(alone, 1.0, self.min_time + (1 - self.min_time) * draw[0])
        t = time.view(-1, 1, 1, 1, 1)
        noise = torch.randn(clean.shape, generator=generator, device=self.device)
        z, weight = torch.lerp(clean, noise, t), self._patch_weight(batch)
        if self.objective == "regression":
            error = self.upsampler.denoise(z, time, given).float() - clean
            loss = (weight * (error.abs() + missed.square())).mean()
        elif self.upsampler.config.mean_flow:
            until = torch.where(draw[2] < 0.5, time, time * (2 * draw[3] - 1).clamp_min(0))
            target = clean + t * (time - until).view_as(t) * self._turning(z, noise - clean, time, until, given)
            error = self.upsampler.denoise(z, time, given, until=until).float() - target
            square = (weight * (error / t).square()).mean((1, 2, 3, 4))
            loss = (square / (square.detach() + 0.1)).mean() + (weight * missed.square()).mean()
        else:
            error = self.upsampler.denoise(z, time, given).float() - clean
            loss = (weight * ((error / t).square() + missed.square())).mean()
        scale = self.upsampler.config.noise / 2  # residuals to pixels in [0, 1]
        scores = {"loss": loss.detach(), "psnr": decibels(error.detach().square().mean() * scale**2)}
        self.log_dict(scores, batch_size=rows)
        return loss

    @torch.no_grad()
    def _turning(self, z: Tensor, velocity: Tensor, time: Tensor, until: Tensor, given: Conditions) -> Tensor:
        """What the mean velocity until ``until`` changes by, per unit of time, along the flow: shaped like ``z``."""
        given = Conditions(given.drawn.float(), given.cells.float(), given.scene.float())

        def mean_velocity(z: Tensor, time: Tensor) -> Tensor:
            clean = self.upsampler.denoise(z, time, given, until=until)
            return (z - clean) / time.view(-1, 1, 1, 1, 1)

        with torch.autocast(z.device.type, enabled=False):
            return torch.func.jvp(mean_velocity, (z, time), (velocity, torch.ones_like(time)))[1]

    def validation_step(self, batch: dict[str, Any], index: int) -> None:
        real, (bicubic, upsampled) = batch["frames"].float() / 255, self._both(batch)
        square = [(video.float() / 255 - real).square().mean(-1) for video in (bicubic, upsampled)]
        scores = {"val/bicubic_psnr": decibels(square[0].mean()), "val/psnr": decibels(square[1].mean())}
        if "segmentation" in batch:
            bodies = (batch["segmentation"] > 0).float()
            for name, error in zip(("val/bicubic_body_psnr", "val/body_psnr"), square, strict=True):
                scores[name] = decibels((error * bodies).sum() / bodies.sum().clamp_min(1))
        self.log_dict(scores, on_epoch=True, batch_size=len(real))

    def _both(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Bicubic and upsampled frames, uint8 (B, T, H, W, 3)."""
        small, states = self.small_frames(batch), batch.get("states")
        upsampled = self.upsampler(small, states, self.seed, self.num_steps)
        low = small.flatten(0, 1).movedim(-1, 1).float()
        large = F.interpolate(low, scale_factor=self.upsampler.config.factor, mode="bicubic")
        return large.round().clamp(0, 255).to(torch.uint8).movedim(1, -1).view_as(upsampled), upsampled

    @torch.no_grad()
    def sample_video(self, batch: dict[str, Any]) -> Tensor:
        """Bicubic, upsampled and real side by side, uint8 (T, H, 3W, 3)."""
        first = {name: value[:1] for name, value in batch.items()}
        bicubic, upsampled = self._both(first)
        return torch.cat([bicubic, upsampled, first["frames"]], 3)[0].cpu()
