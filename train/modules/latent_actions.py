"""Learns actions from video in which nobody said what was done: K codes that tell apart what follows from one moment.

As in Genie (arXiv:2402.15391), an inverse model names a code for what happened, with which the next picture can be
drawn. Codes collapse easily (LAPA's issues 17 and 50), and one that describes the next picture is no action (issue 38).
Four things make a code an action:

- A forward model first learns to do without one. So the few bits are left for what does not follow from the past.
- What a code does is drawn from the last picture, which shows no motion. Else codes would be "it goes on" and "it turns
  back", not "up" and "down".
- The inverse model sees nothing but how the picture changed. Else a code would mean "up" below and "down" above.
- Each bit is the sign of a channel (lookup-free quantisation, arXiv:2310.05737) that whitening keeps in use.

``agreement`` asks whether a code does the same in another episode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from train.data.episode_store import EpisodeStore
from train.modules.picture_losses import decibels
from train.modules.schedule import ScheduledModule

PAST = 2  # pictures before the next one: where things are, and how they move
_NOISE = 0.3
_CLEARER = 4.0  # changes are small beside pictures
MOVES = 0.04  # change of a pixel, of 1, from which on it moves
_CUT = 0.9  # share of pixels: where more of them change at once, nobody did it


class Whitening(nn.Module):
    """A batch's values (N, C), centred, and neither alike nor of different spread, as by a batch norm that also takes
    out what channels share (arXiv:1804.08450). Otherwise all bits of a code would say the same.

    At evaluation it whitens by running averages, or by what ``settle`` was given.
    """

    mean: Tensor
    covariance: Tensor

    def __init__(self, channels: int, momentum: float = 0.05) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("covariance", torch.eye(channels))

    def forward(self, values: Tensor) -> Tensor:
        mean, covariance = self.mean, self.covariance
        if self.training:
            mean, covariance = self._of(values)
            self.mean.lerp_(mean.detach(), self.momentum)
            self.covariance.lerp_(covariance.detach(), self.momentum)
        root = torch.linalg.cholesky(covariance)
        return torch.linalg.solve_triangular(root, (values - mean).T, upper=False).T

    @staticmethod
    def _of(values: Tensor) -> tuple[Tensor, Tensor]:
        centred = values - values.mean(0)
        return values.mean(0), centred.T @ centred / len(values) + 1e-4 * torch.eye(values.shape[1]).to(values)

    @torch.no_grad()
    def settle(self, values: Tensor) -> None:
        """Takes mean and covariance from these values."""
        for kept, found in zip((self.mean, self.covariance), self._of(values)):
            kept.copy_(found)


class Trunk(nn.Module):
    """Pictures (N, channels, H, W) to features (N, width, H / patch, W / patch)."""

    def __init__(self, channels: int, width: int, depth: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.embed = nn.Conv2d(channels * patch**2, width, 1)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))

    def forward(self, pictures: Tensor, scales: Tensor | None = None) -> Tensor:
        """``scales`` (N, depth, 2, width): how much each layer is scaled and shifted."""
        height, width = (-side % self.patch for side in pictures.shape[2:])
        x = F.gelu(self.embed(F.pixel_unshuffle(F.pad(pictures, (0, width, 0, height)), self.patch)))
        for i, conv in enumerate(self.convs):
            y = conv(x)
            if scales is not None:
                y = y * (1 + scales[:, i, 0, :, None, None]) + scales[:, i, 1, :, None, None]
            x = x + F.gelu(y)
        return x


class LatentActions(nn.Module):
    """Inverse and forward model, and what codes do. Codes are numbered 0 to ``num_codes`` - 1.

    While ``noisy`` is set, training keeps the channels smooth, with noise: that lets gradients settle before signs do.
    """

    def __init__(self, bits: int = 3, width: int = 64, depth: int = 4, patch: int = 4) -> None:
        super().__init__()
        self.num_codes, self.patch, self.noisy = 2**bits, patch, False
        self.inverse = Trunk(3, width, depth, patch)
        self.point = nn.Linear(2 * width, bits)
        self.norm = Whitening(bits)
        self.forward_model, self.effect = Trunk(3 * (2 * PAST - 1), width, depth, patch), Trunk(3, width, depth, patch)
        self.scales = nn.Sequential(nn.Linear(bits, width), nn.GELU(), nn.Linear(width, depth * 2 * width))
        self.draw, self.draw_effect = (nn.Conv2d(width, 3 * patch**2, 1) for _ in range(2))
        nn.init.zeros_(self.draw.weight)
        nn.init.zeros_(self.draw_effect.weight)

    @staticmethod
    def _with_changes(pictures: Tensor) -> Tensor:
        """(N, n, 3, H, W) and the changes between them, as channels."""
        return torch.cat([pictures, _CLEARER * (pictures[:, 1:] - pictures[:, :-1])], 1).flatten(1, 2)

    def points(self, past: Tensor, following: Tensor) -> Float[Tensor, "N C"]:
        """What the bits are the signs of, before it is whitened."""
        x = self.inverse(_CLEARER * (following - past[:, -1]))
        return self.point(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))

    def infer(
        self, past: Float[Tensor, "N n 3 H W"], following: Float[Tensor, "N 3 H W"]
    ) -> tuple[Float[Tensor, "N C"], Int[Tensor, " N"]]:
        """What was done between: the code's digits, through which gradients flow, and its number."""
        point = self.norm(self.points(past, following))
        soft, hard = point.tanh(), torch.where(point > 0, 1.0, -1.0)
        codes = ((hard > 0).long() << torch.arange(hard.shape[1], device=hard.device)).sum(1)
        if self.noisy and self.training:
            return soft + _NOISE * torch.randn_like(soft), codes
        return soft + (hard - soft).detach(), codes

    def foresee(
        self,
        past: Float[Tensor, "N n 3 H W"],
        digits: Float[Tensor, "N C"] | None = None,
        foreseen: Float[Tensor, "N 3 H W"] | None = None,
    ) -> Float[Tensor, "N 3 H W"]:
        """The next picture, from the past alone where there are no digits; ``foreseen`` is that one, if it is known."""
        if foreseen is None:
            foreseen = past[:, -1] + self._drawn(self.draw(self.forward_model(self._with_changes(past))), past)
        if digits is None:
            return foreseen
        scales = self.scales(digits).unflatten(1, (-1, 2, self.draw.in_channels))
        return foreseen.detach() + self._drawn(self.draw_effect(self.effect(past[:, -1], scales)), past)

    def _drawn(self, patches: Tensor, like: Tensor) -> Tensor:
        return F.pixel_shuffle(patches, self.patch)[..., : like.shape[-2], : like.shape[-1]]


def _without_cuts(past: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
    """Moments (N, ...) without those in which everything changes: a flash among the changes that actions make would be
    worth a code, and hide what whitening sees of the others."""
    changed = ((following - past[:, -1]).abs().amax(1) > MOVES).float().mean((1, 2)) < _CUT
    return (past[changed], following[changed]) if changed.any() else (past, following)


class LatentActionModule(ScheduledModule):
    """Lightning module around :class:`LatentActions`.

    Args:
        recording: folder whose videos are learned from; says what a step is.
        bits: of a code; 3 make eight actions.
        width, depth, patch: size of the two networks.
        moving_weight: how much more a pixel counts that moves.
        alone_share: of the training, in which the forward model first learns what follows from the past alone.
        noise_share: of the training after that, in which bits are smooth and noisy.
        pixels: larger pictures than about this are averaged: many updates tell more of actions than fine detail.
    """

    def __init__(
        self,
        recording: str | None = None,
        bits: int = 3,
        width: int = 64,
        depth: int = 4,
        patch: int = 4,
        lr: float = 2e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 50,
        total_steps: int = 2000,
        moving_weight: float = 20.0,
        alone_share: float = 0.4,
        noise_share: float = 0.1,
        pixels: int = 48 * 48,
        frames_per_step: int | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if frames_per_step is None and recording is not None:
            frames_per_step = EpisodeStore(recording).schema.frames_per_step
        self.frames_per_step = frames_per_step or 1
        self.hparams["frames_per_step"] = self.frames_per_step  # a checkpoint needs no recording
        self.model = LatentActions(bits, width, depth, patch)
        self.moving_weight, self.pixels = moving_weight, pixels
        self.alone_steps, self.noise_steps = int(alone_share * total_steps), int(noise_share * total_steps)
        self.seen: list[Tensor] = []

    def pairs(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 clips (B, 1 + r * n, H, W, 3) to pasts (N, 2, 3, h, w) and what followed (N, 3, h, w), in [0, 1]."""
        pictures = frames[:, :: self.frames_per_step].permute(0, 1, 4, 2, 3).float() / 255
        coarser = round((pictures.shape[-2] * pictures.shape[-1] / self.pixels) ** 0.5)
        if coarser > 1:
            few = F.avg_pool2d(pictures.flatten(0, 1), coarser, ceil_mode=True)
            pictures = few.unflatten(0, pictures.shape[:2])
        pictures = torch.cat([pictures[:, :1], pictures], 1) if pictures.shape[1] == PAST else pictures
        steps = pictures.unfold(1, PAST + 1, 1).movedim(-1, 2).flatten(0, 1)
        return steps[:, :PAST], steps[:, PAST]

    def _weight(self, past: Tensor, following: Tensor) -> Tensor:
        """Of each pixel; all moments count the same, however much moves in them."""
        moves = ((following - past[:, -1]).abs().amax(1, keepdim=True) > MOVES).float()
        weight = 1 + self.moving_weight * F.max_pool2d(moves, 5, stride=1, padding=2)
        return weight / (3 * len(past) * weight.sum((1, 2, 3), keepdim=True))

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        past, following = _without_cuts(*self.pairs(batch["frames"]))
        weight = self._weight(past, following)
        foreseen, told = self.model.foresee(past), self.global_step - self.alone_steps
        alone = loss = ((foreseen - following).square() * weight).sum()
        if told >= 0:
            self.model.noisy = told < self.noise_steps
            digits, _ = self.model.infer(past, following)
            coded = ((self.model.foresee(past, digits, foreseen) - following).square() * weight).sum()
            loss = alone + coded
            self.log("coded", coded.detach(), batch_size=len(past))
        self.log_dict({"loss": loss.detach(), "alone": alone.detach()}, batch_size=len(past))
        return loss

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        figures = compare(self.model, *self.pairs(batch["frames"]))
        self.seen.append(figures.codes)
        named = {"val/moving_psnr": figures.inferred, "val/moving_psnr_shuffled": figures.shuffled}
        self.log_dict(named | {"val/agreement": figures.agreement}, on_epoch=True, batch_size=len(figures.codes))

    def on_validation_epoch_end(self) -> None:
        codes = torch.cat(self.seen)
        self.seen.clear()
        self.log("val/codes_used", float(used(codes, self.model.num_codes)))


@dataclass(frozen=True)
class Compared:
    """What codes are worth: PSNR over moving pixels with the code that was ``inferred`` and with one of another moment
    (``shuffled``), and ``agreement``: how often a code, done in another episode, is named again by the inverse model
    that sees what it led to there."""

    inferred: Tensor
    shuffled: Tensor
    agreement: Tensor
    codes: Tensor


@torch.no_grad()
def compare(model: LatentActions, past: Tensor, following: Tensor) -> Compared:
    """Of moments (N, ...) in an order in which neighbours are of one episode, so half the batch on is another."""
    digits, codes = model.infer(past, following)
    away = len(codes) // 2
    moves = ((following - past[:, -1]).abs().amax(1, keepdim=True) > MOVES).float()

    def score(made: Tensor) -> Tensor:
        square = (made.clamp(0, 1) - following).square().mean(1, keepdim=True)
        return decibels((square * moves).sum() / moves.sum().clamp_min(1))

    elsewhere = model.foresee(past, digits.roll(away, 0))
    again = model.infer(past, elsewhere)[1]
    agreement = (again == codes.roll(away, 0)).float().mean()
    return Compared(score(model.foresee(past, digits)), score(elsewhere), agreement, codes)


def used(codes: Tensor, num_codes: int) -> int:
    """How many codes at least a hundredth of all moments have."""
    shares = torch.bincount(codes.flatten(), minlength=num_codes).float() / codes.numel()
    return int((shares >= 0.01).sum())


def figures(codes: Tensor, num_codes: int) -> dict[str, Any]:
    """How many codes are used, and as how many evenly used ones they count."""
    shares = torch.bincount(codes.flatten(), minlength=num_codes).float() / codes.numel()
    entropy = -(shares * shares.clamp_min(1e-9).log()).sum()
    return {"codes_used": used(codes, num_codes), "perplexity": float(entropy.exp())}
