"""Trains the video tokenizer: reconstruct, but weigh what a viewer looks at.

Bodies cover a twentieth of a picture, and global error lets them dissolve into the floor, so their pixels and
those just around them weigh more (by the recorded segmentation). Some latent frames are cut in from another
clip, so the decoder learns to drop its past when the picture jumps: that is what an edit or a cut looks like to
it. Where it is told the scene state, some codes are wrong, as a rollout's are: it learns to draw what the state
says nevertheless.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tokenizer.state_map import speaks_unplaced
from tokenizer.state_schema import StateSchema
from tokenizer.video_tokenizer import FrameStates, VideoTokenizer, VideoTokenizerConfig
from train.data.episode_store import EpisodeStore, schema_json
from train.modules.picture_losses import (
    PatchDiscriminator,
    adaptive,
    adversarial,
    decibels,
    laplacian,
    learned_perceptual,
    worst,
)
from train.modules.schedule import ScheduledModule, load_trained

_SEEN = 0.06  # of 1, by which a pixel moves or differs from the background
_ELSEWHERE = 0.02  # how often a cell with nothing in it is learned from, to one with something


def cut_in(values: Tensor, chosen: Tensor) -> Tensor:
    """Values (B, n, ...) in which those ``chosen`` (B, n) are the batch's next clip's."""
    return torch.where(chosen.view(*chosen.shape, *[1] * (values.dim() - 2)), values.roll(1, 0), values)


def fitting(config: dict[str, Any], recording: str | None) -> dict[str, Any]:
    """A configuration with what a recording decides, where it is not said: size of pictures, frames a step."""
    if recording is None or {"resolution", "frames_per_step"} <= config.keys():
        return config
    store = EpisodeStore(recording)
    return {"resolution": list(store.size), "frames_per_step": store.schema.frames_per_step} | config


class TokenizerModule(ScheduledModule):
    """Lightning module around :class:`VideoTokenizer`.

    Args:
        config: fields of ``VideoTokenizerConfig``.
        recording: folder that says size of pictures and frames a step where ``config`` does not.
        lr, warmup_steps, total_steps: AdamW with a cosine that ends at ``total_steps``.
        body_weight: how much more a body's pixel counts than a background pixel.
        l1_weight, temporal_weight, laplacian_weight, worst_weight: of absolute error, of squared change of the error
            from frame to frame, of absolute error by bands of frequency, and of the worst pixels' squared error,
            beside squared error, which counts 1 (see ``picture_losses.py``).
        parts, part_cells: of each window so many squares of so many cells are learned from, where something is seen
            (0: whole pictures, as where states are drawn). Most of many a picture is background, which is soon learned.
        quantizer_weight: of what the quantizer asks for itself; FSQ asks for nothing.
        lpips_weight: of LPIPS, for which the package ``lpips`` must be installed.
        adversarial_weight: pull of a 3-D patch discriminator on the last layer, over that of the reconstruction.
        adversarial_start: step from which the discriminator trains and pulls, when reconstruction has settled.
        noise_steps: for so many steps, noise stands in for FSQ's rounding.
        cut_share: share of latent frames that are cut in from another clip; of whole pictures only.
        schema: the scene schema as its ``to_json`` gives it, or the folder of a recording: the decoder is then told
            the scene states of a batch. None: it decodes from ids alone.
        state_dropout: share of clips whose states are withheld, so that ids alone can be decoded too. Half of these
            are mirrored (a state cannot be).
        wrong_share: for clips with states, at most this share of cells is decoded from a wrong code. Where no view
            places states in the picture, half this share of clips is decoded from wrong codes alone.
        decoder_only: leave the encoder as it is, so that ids made by it stay valid.
        start_from: a checkpoint of this module whose weights to start from.
    """

    def __init__(
        self,
        config: dict[str, Any] | None = None,
        recording: str | None = None,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 200,
        total_steps: int = 6000,
        body_weight: float = 6.0,
        l1_weight: float = 0.01,
        temporal_weight: float = 0.05,
        noise_steps: int = 500,
        cut_share: float = 0.1,
        schema: dict[str, Any] | str | None = None,
        state_dropout: float = 0.2,
        wrong_share: float = 0.25,
        seed: int = 0,
        decoder_only: bool = False,
        start_from: str | None = None,
        laplacian_weight: float = 0.0,
        worst_weight: float = 0.0,
        lpips_weight: float = 0.0,
        adversarial_weight: float = 0.0,
        adversarial_start: int = 2000,
        quantizer_weight: float = 0.1,
        parts: int = 0,
        part_cells: int = 5,
    ) -> None:
        super().__init__()
        schema = schema_json(schema)
        self.save_hyperparameters()
        config = fitting(config or {}, recording)
        self.hparams.update(schema=schema, config=config)  # kept whole, so a checkpoint needs no recording
        known = StateSchema.from_json(schema) if schema else None
        self.tokenizer = VideoTokenizer(VideoTokenizerConfig(**config), known)
        self.tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if start_from:
            load_trained(self, start_from, "tokenizer.")
        if decoder_only:
            self.tokenizer.encoder.requires_grad_(False)
        self.body_weight, self.l1_weight, self.temporal_weight = body_weight, l1_weight, temporal_weight
        self.quantizer_weight = quantizer_weight
        self.parts, self.part_cells = parts if self.tokenizer.schema is None else 0, part_cells
        self.noise_steps, self.cut_share, self.seed = noise_steps, cut_share, seed
        self.state_dropout, self.wrong_share = state_dropout, wrong_share
        self.laplacian_weight, self.worst_weight, self.lpips_weight = laplacian_weight, worst_weight, lpips_weight
        self.perceptual = learned_perceptual() if lpips_weight else None
        self.adversarial_weight, self.adversarial_start = adversarial_weight, adversarial_start
        self.discriminator = PatchDiscriminator() if adversarial_weight else None
        self.codes_seen: set[int] = set()

    def _inputs(self, batch: dict[str, Tensor], near: int = 2) -> tuple[Tensor, Tensor]:
        """Video in [0, 1], and 1 for the pixels that matter: bodies and ``near`` pixels around them."""
        video = batch["frames"].movedim(-1, 2).float() / 255
        if "segmentation" in batch:
            bodies = (batch["segmentation"] > 0).float()
            mask = nn.functional.max_pool2d(bodies, 2 * near + 1, stride=1, padding=near)
        else:  # without segmentation, what moves stands in for what matters, and what differs from the background
            change = nn.functional.pad((video[:, 1:] - video[:, :-1]).abs().amax(2), (0, 0, 0, 0, 1, 0))
            if "background" in batch:
                background = batch["background"].permute(0, 3, 1, 2)[:, None].float() / 255
                change = torch.maximum(change, (video - background).abs().amax(2))
            mask = (change > _SEEN).float()
        return video, mask

    def _cut_out(self, video: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Squares of clips and masks, more often where the mask has something, and the cells (N, 2) they begin at."""
        grid, cell = torch.tensor(self.tokenizer.grid), self.tokenizer.config.cell
        side = int(torch.minimum(grid, torch.tensor(self.part_cells)).min())
        seen = nn.functional.max_pool2d(mask.amax(1), cell).flatten(1).cpu() + _ELSEWHERE
        chosen = torch.multinomial(seen, self.parts, replacement=True, generator=generator).flatten()
        middle = torch.stack([chosen // grid[1], chosen % grid[1]], 1)
        at = middle - torch.randint(side, middle.shape, generator=generator)
        at = at.clamp_min(0).minimum(grid - side)
        rows, columns = ((cell * at[:, i, None] + torch.arange(cell * side)).to(video.device) for i in range(2))
        clips = torch.arange(len(video), device=video.device).repeat_interleave(self.parts)[:, None, None]
        rows, columns = rows[:, :, None], columns[:, None]
        cut, seen = video.transpose(1, 2)[clips, :, :, rows, columns], mask[clips, :, rows, columns]
        return cut.permute(0, 4, 3, 1, 2), seen.permute(0, 3, 1, 2), at.to(video.device)

    def _shown(self, batch: dict[str, Tensor], known: Tensor | None = None) -> FrameStates | None:
        """The batch's states as the decoder takes them, if it takes any."""
        if self.tokenizer.schema is None:
            return None
        if "states" not in batch:
            raise ValueError("this tokenizer decodes with scene states but the batch has none: record them too")
        return FrameStates.of(batch["states"], known)

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        still = self.tokenizer.decoder.still
        if still is not None and self.global_step == 0 and "background" in batch:  # a first guess
            still.data.copy_(batch["background"].float().mean(0).permute(2, 0, 1) / 255 - 0.5)
        video, mask = self._inputs(batch)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.global_step)
        at = None
        if self.parts:
            video, mask, at = self._cut_out(video, mask, generator)
        rows, r = len(video), self.tokenizer.frames_per_step
        latents = 1 + (video.shape[1] - 1) // r
        draw = torch.rand(3, rows, generator=generator)
        dropped = torch.ones(rows, dtype=torch.bool) if self.tokenizer.schema is None else draw[0] < self.state_dropout
        mirrored = dropped & (draw[1] < 0.5) & (self.tokenizer.schema is not None)  # else what is where is learned
        mirrored = mirrored.to(video.device)
        video = torch.where(mirrored[:, None, None, None, None], video.flip(-1), video)
        mask = torch.where(mirrored[:, None, None, None], mask.flip(-1), mask)

        chosen = torch.rand(rows, latents, generator=generator) < (0 if self.parts else self.cut_share)
        chosen[:, 0] = False
        known = cut_in((~dropped)[:, None].expand(-1, latents), chosen)
        level = draw[2].square() * self.wrong_share
        if speaks_unplaced(self.tokenizer.schema):  # what a state decides is learned where nothing else tells
            level = level.masked_fill(draw[2] > 1 - self.wrong_share / 2, 1)
        wrong = torch.rand(rows, latents, *self.tokenizer.grid, generator=generator) < level[:, None, None, None]
        wrong &= known[..., None, None]
        chosen, known, wrong = (x.to(video.device) for x in (chosen, known, wrong))
        pixels = torch.cat([chosen[:, :1], chosen[:, 1:].repeat_interleave(r, 1)], 1)
        video, mask = cut_in(video, pixels), cut_in(mask, pixels)
        shown = self._shown(batch, known)
        if shown is not None:
            shown = FrameStates(cut_in(shown.state, chosen), cut_in(shown.previous, chosen), known)
        self.tokenizer.quantizer.noisy = self.global_step < self.noise_steps
        out = self.tokenizer(video, shown, wrong if shown is not None else None, at)
        error = out.video.float() - video
        weight = (1 + self.body_weight * mask)[:, :, None]
        recon = (weight * error.square()).mean()
        absolute = (weight * error.abs()).mean()
        temporal = (weight[:, 1:] * (error[:, 1:] - error[:, :-1]).square()).mean()
        loss = recon + self.l1_weight * absolute + self.temporal_weight * temporal + self.quantizer_weight * out.loss
        if out.drawn is not None:  # what is drawn must be right by itself, or codes would stand in for it
            told = torch.cat([known[:, :1], known[:, 1:].repeat_interleave(r, 1)], 1)[..., None, None, None]
            loss = loss + (weight * told * (out.drawn.float() - video).square()).mean()
        if self.laplacian_weight:
            loss = loss + self.laplacian_weight * laplacian(error)
        if self.worst_weight:
            loss = loss + self.worst_weight * worst(error.square())
        if self.perceptual is not None:
            loss = loss + self.lpips_weight * self.perceptual(out.video.float(), video)
        scores = {"loss": loss.detach(), "recon": recon.detach(), "psnr": decibels(error.detach().square().mean())}
        if self.discriminator is not None and self.global_step >= self.adversarial_start:
            wanted, own = adversarial(self.discriminator, out.video.float(), video)
            pull = self.adversarial_weight * adaptive(recon, wanted, self.tokenizer.decoder.head.weight)
            loss = loss + pull * wanted + own
            scores |= {"adversarial": wanted.detach(), "discriminator": own.detach()}
        self.log_dict(scores, batch_size=len(video))
        return loss

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        video, mask = self._inputs(batch, near=0)
        shown = self._shown(batch)
        scores = {}
        for suffix, told in (("", shown), ("_without_state", None)) if shown is not None else (("", None),):
            out = self.tokenizer(video, told)
            square = (out.video.float().clamp(0, 1) - video).square().mean(2)
            scores[f"val/psnr{suffix}"] = decibels(square.mean())
            scores[f"val/body_psnr{suffix}"] = decibels((square * mask).sum() / mask.sum().clamp_min(1))
        self.codes_seen.update(out.indices.unique().tolist())
        self.log_dict(scores, on_epoch=True, batch_size=len(video))

    def on_validation_epoch_end(self) -> None:
        self.log("val/codebook_used", len(self.codes_seen) / self.tokenizer.num_codes)
        self.codes_seen.clear()

    @torch.no_grad()
    def sample_video(self, batch: dict[str, Tensor]) -> Tensor:
        """Real beside reconstructed, uint8 (T, H, 2W, 3)."""
        frames, states = batch["frames"][:1], None
        if self.tokenizer.schema is not None:
            states = batch["states"][:1]
        return torch.cat([frames, self.tokenizer.decode(self.tokenizer.encode(frames), states)], 3)[0].cpu()

    def hidden_matrices(self) -> list[nn.Parameter]:
        encoder, decoder = self.tokenizer.encoder, self.tokenizer.decoder
        hidden = [encoder.fine, encoder.merge, encoder.coarse, decoder.coarse, decoder.split, decoder.fine]
        return [p for part in hidden for p in part.parameters() if p.dim() == 4 and p.requires_grad]
