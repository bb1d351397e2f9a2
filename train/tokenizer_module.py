"""Trains the video tokenizer: reconstruct, but weigh what a viewer looks at.

Bodies cover a twentieth of a picture, and global error lets them dissolve into the floor, so their pixels
weigh more (by the recorded segmentation). Some latent frames are cut in from another clip, so the decoder
learns to drop its past when the picture jumps: that is what an edit or a cut looks like to it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tokenizer.video_tokenizer import VideoTokenizer, VideoTokenizerConfig
from train.schedule import ScheduledModule, load_trained


def psnr(mean_squared_error: Tensor) -> Tensor:
    """Decibels for values in [0, 1]."""
    return -10 * mean_squared_error.clamp_min(1e-10).log10()


def cut_in(video: Tensor, mask: Tensor, r: int, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Replaces ``share`` of the later latent frames by those of the batch's next clip."""
    batch, steps = len(video), (video.shape[1] - 1) // r
    chosen = torch.rand(batch, steps, generator=generator) < share
    pixels = torch.cat([torch.zeros(batch, 1, dtype=torch.bool), chosen.repeat_interleave(r, 1)], 1).to(video.device)
    pick = pixels[:, :, None, None, None]
    return torch.where(pick, video.roll(1, 0), video), torch.where(pick[:, :, :, :, 0], mask.roll(1, 0), mask)


class TokenizerModule(ScheduledModule):
    """Lightning module around :class:`VideoTokenizer`.

    Args:
        config: fields of ``VideoTokenizerConfig``.
        lr, warmup_steps, total_steps: AdamW with a cosine that ends at ``total_steps``.
        body_weight: how much more a body's pixel counts than a background pixel.
        noise_steps: for so many steps, noise stands in for FSQ's rounding.
        cut_share: share of latent frames that are cut in from another clip.
        start_from: a checkpoint of this module whose weights to start from.
    """

    def __init__(
        self,
        config: dict[str, Any] | None = None,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 200,
        total_steps: int = 6000,
        body_weight: float = 6.0,
        l1_weight: float = 0.1,
        temporal_weight: float = 0.5,
        noise_steps: int = 500,
        cut_share: float = 0.1,
        seed: int = 0,
        start_from: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.tokenizer = VideoTokenizer(VideoTokenizerConfig(**(config or {})))
        self.tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if start_from:
            load_trained(self, start_from, "tokenizer.")
        self.body_weight, self.l1_weight, self.temporal_weight = body_weight, l1_weight, temporal_weight
        self.noise_steps, self.cut_share, self.seed = noise_steps, cut_share, seed
        self.codes_seen: set[int] = set()

    def _inputs(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        video = batch["frames"].movedim(-1, 2).float() / 255
        if "segmentation" in batch:
            mask = (batch["segmentation"] > 0).float()
        else:  # without segmentation, what moves stands in for what matters
            change = (video[:, 1:] - video[:, :-1]).abs().amax(2)
            mask = (nn.functional.pad(change, (0, 0, 0, 0, 1, 0)) > 0.06).float()
        return video, mask

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        video, mask = self._inputs(batch)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.global_step)
        mirrored = torch.rand(len(video), generator=generator).to(video.device) < 0.5
        video = torch.where(mirrored[:, None, None, None, None], video.flip(-1), video)
        mask = torch.where(mirrored[:, None, None, None], mask.flip(-1), mask)
        video, mask = cut_in(video, mask, self.tokenizer.frames_per_step, self.cut_share, generator)
        self.tokenizer.quantizer.noisy = self.global_step < self.noise_steps
        out = self.tokenizer(video)
        error = out.video.float() - video
        weight = (1 + self.body_weight * mask)[:, :, None]
        recon = (weight * error.square()).mean()
        absolute = (weight * error.abs()).mean()
        temporal = (weight[:, 1:] * (error[:, 1:] - error[:, :-1]).square()).mean()
        loss = recon + self.l1_weight * 0.1 * absolute + self.temporal_weight * 0.1 * temporal + 0.1 * out.loss
        self.log_dict(
            {"loss": loss.detach(), "recon": recon.detach(), "psnr": psnr(error.detach().square().mean())},
            batch_size=len(video),
        )
        return loss

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        video, mask = self._inputs(batch)
        out = self.tokenizer(video)
        square = (out.video.float().clamp(0, 1) - video).square().mean(2)
        self.codes_seen.update(out.indices.unique().tolist())
        self.log_dict(
            {
                "val/psnr": psnr(square.mean()),
                "val/body_psnr": psnr((square * mask).sum() / mask.sum().clamp_min(1)),
            },
            on_epoch=True,
            batch_size=len(video),
        )

    def on_validation_epoch_end(self) -> None:
        self.log("val/codebook_used", len(self.codes_seen) / self.tokenizer.num_codes)
        self.codes_seen.clear()

    @torch.no_grad()
    def sample_video(self, batch: dict[str, Tensor]) -> Tensor:
        """Real beside reconstructed, uint8 (T, H, 2W, 3)."""
        frames = batch["frames"][:1]
        return torch.cat([frames, self.tokenizer.decode(self.tokenizer.encode(frames))], 3)[0].cpu()

    def hidden_matrices(self) -> list[nn.Parameter]:
        encoder, decoder = self.tokenizer.encoder, self.tokenizer.decoder
        hidden = [encoder.fine, encoder.merge, encoder.coarse, decoder.coarse, decoder.split, decoder.fine]
        return [p for part in hidden for p in part.parameters() if p.dim() == 4]
