"""Learns actions from video in which nobody said what was done: K codes that tell apart what follows from one moment.

As in Genie (arXiv:2402.15391), an inverse model says in few numbers what happened, from which and the last picture
another network draws the next one. Codes collapse easily (LAPA's issues 17 and 50), and one that describes the next
picture is no action (issue 38). Three things make a code an action:

- The inverse model sees nothing but how the picture changed, and which way what is in it moved (see :func:`moved`).
  Else a code would mean "up" below and "down" above. A change alone does not say which way a wall went past.
- The next picture is drawn from the last one alone, which shows no motion. Else codes would be "as foreseen" and
  "turned back", whichever way that is.
- The few numbers stay smooth while they are learned: noise limits what they can say, and whitening keeps all of them in
  use. Codes are the clusters that k-means finds in them afterwards, so no code can be lost in training.

``agreement`` asks whether a code does the same in another episode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize

from train.data.episode_store import EpisodeStore
from train.modules.picture_losses import decibels
from train.modules.schedule import ScheduledModule

_NOISE = 0.35  # of numbers whose spread is 1
_CLEARER = 4.0  # changes are small beside pictures
_FARTHER = 8.0  # pixels that things move are many beside what a layer says at first
MOVES = 0.04  # change of a pixel, of 1, from which on it moves
_CUT, _SELDOM = 0.9, 0.1  # share of pixels: where more of them change at once, and that is seldom, nobody did it
_REACH = 3  # places to either side that a shift is looked for
_ROUNDS = 50  # of k-means


class Whitening(nn.Module):
    """A batch's values (N, C), centred, and neither alike nor of different spread, as by a batch norm that also takes
    out what channels share (arXiv:1804.08450). Otherwise all of them would say the same.

    At evaluation it whitens by what ``settle`` was given.
    """

    mean: Tensor
    covariance: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("covariance", torch.eye(channels))

    def forward(self, values: Tensor) -> Tensor:
        mean, covariance = self._of(values) if self.training else (self.mean, self.covariance)
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

    def forward(self, pictures: Tensor, scales: Tensor | None = None, besides: Tensor | None = None) -> Tensor:
        """``scales`` (N, depth, 2, width): how much each layer is scaled and shifted. ``besides`` are added to what the
        first layer makes of patches."""
        height, width = (-side % self.patch for side in pictures.shape[2:])
        x = self.embed(F.pixel_unshuffle(F.pad(pictures, (0, width, 0, height)), self.patch))
        x = F.gelu(x if besides is None else x + besides)
        for i, conv in enumerate(self.convs):
            y = conv(x)
            if scales is not None:
                y = y * (1 + scales[:, i, 0, :, None, None]) + scales[:, i, 1, :, None, None]
            x = x + F.gelu(y)
        return x


def moved(last: Float[Tensor, "N 3 H W"], following: Float[Tensor, "N 3 H W"], patch: int) -> Float[Tensor, "N C h w"]:
    """Which way everything moved, patch by patch: how much better each shift of the last picture, up to ``_REACH``
    places to either side, explains the next one than no shift does, near and, in a picture a quarter as large, far.

    A cost volume, as networks for optical flow compare pictures (PWC-Net, arXiv:1709.02371); it holds nothing of what
    the pictures show, or where.
    """
    height, width = (-(-side // patch) for side in last.shape[2:])
    found, reach = [], _REACH
    for coarser in (patch // 2 or 1, 2 * patch):
        a, b = (F.avg_pool2d(x, coarser, ceil_mode=True) for x in (last, following))
        around = F.pad(a, (reach,) * 4, mode="replicate")
        costs = torch.stack(
            [
                (around[..., dy : dy + a.shape[2], dx : dx + a.shape[3]] - b).abs().mean(1)
                for dy in range(2 * reach + 1)
                for dx in range(2 * reach + 1)
            ],
            1,
        )
        costs = F.avg_pool2d(costs, 3, stride=1, padding=1, count_include_pad=False)
        better = costs[:, costs.shape[1] // 2, None] - costs
        found.append(F.interpolate(better, (height, width), mode="area" if coarser < patch else "nearest"))
    return _CLEARER * torch.cat(found, 1)


def warp(pictures: Float[Tensor, "N C H W"], shift: Float[Tensor, "N 2 H W"]) -> Float[Tensor, "N C H W"]:
    """Pictures whose every place shows what lies ``shift`` pixels to its right and below."""
    height, width = pictures.shape[-2:]
    rows, columns = torch.arange(height, device=shift.device), torch.arange(width, device=shift.device)
    across = (2 * (columns + shift[:, 0]) + 1) / width - 1
    down = (2 * (rows[:, None] + shift[:, 1]) + 1) / height - 1
    return F.grid_sample(pictures, torch.stack([across, down], -1), padding_mode="border", align_corners=False)


class LatentActions(nn.Module):
    """Inverse model, what its numbers do to a picture, and their codes, 0 to ``num_codes`` - 1.

    There are no codes before :meth:`settle`.
    """

    centres: Tensor

    def __init__(self, num_codes: int = 8, dims: int = 2, width: int = 64, depth: int = 4, patch: int = 4) -> None:
        super().__init__()
        self.num_codes, self.patch = num_codes, patch
        shifts = 2 * (2 * _REACH + 1) ** 2
        self.inverse, self.effect = Trunk(3, width, depth, patch), Trunk(3, width, depth, patch)
        self.moved = nn.Conv2d(shifts, width, 1)
        self.point = nn.Linear(2 * width, dims)
        self.norm = Whitening(dims)
        self.register_buffer("centres", torch.zeros(num_codes, dims))
        self.scales = nn.Sequential(nn.Linear(dims, width), nn.GELU(), nn.Linear(width, depth * 2 * width))
        self.draw, self.shift = nn.Conv2d(width, 3 * patch**2, 1), nn.Conv2d(width, 2, 1)
        for last in (self.draw, self.shift):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def points(self, last: Float[Tensor, "N 3 H W"], following: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N C"]:
        """What was done between two pictures, before it is whitened."""
        x = self.inverse(_CLEARER * (following - last), besides=self.moved(moved(last, following, self.patch)))
        return self.point(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))

    @torch.no_grad()
    def settle(self, points: Float[Tensor, "N C"]) -> None:
        """Finds the codes of what was done in these moments, the same whenever it is asked."""
        self.norm.settle(points)
        white = self.norm.eval()(points)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            clusters = VectorQuantize(
                white.shape[1], self.num_codes, kmeans_init=True, kmeans_iters=_ROUNDS, threshold_ema_dead_code=0
            )
            clusters.train()(white[None].cpu())
        self.centres.copy_(clusters.codebook)

    def code(self, points: Float[Tensor, "N C"]) -> Int[Tensor, " N"]:
        """The nearest code of what was done."""
        return torch.cdist(self.norm(points), self.centres).argmin(1)

    def act(self, last: Float[Tensor, "N 3 H W"], what: Float[Tensor, "N C"]) -> Float[Tensor, "N 3 H W"]:
        """The next picture, if this was done: whitened points, or ``centres`` of codes.

        What is there moves; what is new is drawn over it.
        """
        scales = self.scales(what).unflatten(1, (-1, 2, self.draw.in_channels))
        x, (height, width) = self.effect(last, scales), last.shape[-2:]
        change = F.pixel_shuffle(self.draw(x), self.patch)[..., :height, :width]
        shift = F.interpolate(self.shift(x), scale_factor=self.patch, mode="bilinear", align_corners=False)
        return warp(last, _FARTHER * shift[..., :height, :width]) + change


def without_cuts(last: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
    """Moments (N, ...) without those in which everything changes: a flash among the changes that actions make would be
    worth a code, and hide what whitening sees of the others. Where that happens all the time, somebody looks around."""
    changed = ((following - last).abs().amax(1) > MOVES).float().mean((1, 2)) < _CUT
    return (last[changed], following[changed]) if changed.float().mean() > 1 - _SELDOM else (last, following)


class LatentActionModule(ScheduledModule):
    """Lightning module around :class:`LatentActions`.

    Args:
        recording: folder whose videos are learned from; says what a step is.
        num_codes: how many actions there are.
        dims: of what is said of a moment before it becomes a code.
        width, depth, patch: size of the two networks.
        moving_weight: how much more a pixel counts that moves.
        pixels: larger pictures than about this are averaged: many updates tell more of actions than fine detail.
    """

    def __init__(
        self,
        recording: str | None = None,
        num_codes: int = 8,
        dims: int = 2,
        width: int = 64,
        depth: int = 4,
        patch: int = 4,
        lr: float = 2e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 50,
        total_steps: int = 2000,
        moving_weight: float = 20.0,
        pixels: int = 48 * 48,
        frames_per_step: int | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if frames_per_step is None and recording is not None:
            frames_per_step = EpisodeStore(recording).schema.frames_per_step
        self.frames_per_step = frames_per_step or 1
        self.hparams["frames_per_step"] = self.frames_per_step  # a checkpoint needs no recording
        self.model = LatentActions(num_codes, dims, width, depth, patch)
        self.moving_weight, self.pixels = moving_weight, pixels
        self.seen: list[tuple[Tensor, Tensor]] = []

    def pairs(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 clips (B, 1 + r * n, H, W, 3) to each step's last picture (N, 3, h, w) and what followed, in [0, 1]."""
        pictures = frames[:, :: self.frames_per_step].permute(0, 1, 4, 2, 3).float() / 255
        coarser = round((pictures.shape[-2] * pictures.shape[-1] / self.pixels) ** 0.5)
        if coarser > 1:
            few = F.avg_pool2d(pictures.flatten(0, 1), coarser, ceil_mode=True)
            pictures = few.unflatten(0, pictures.shape[:2])
        return pictures[:, :-1].flatten(0, 1), pictures[:, 1:].flatten(0, 1)

    def _weight(self, last: Tensor, following: Tensor) -> Tensor:
        """Of each pixel; all moments count the same, however much moves in them."""
        moves = ((following - last).abs().amax(1, keepdim=True) > MOVES).float()
        weight = 1 + self.moving_weight * F.max_pool2d(moves, 5, stride=1, padding=2)
        return weight / weight.sum((1, 2, 3), keepdim=True)

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        last, following = without_cuts(*self.pairs(batch["frames"]))
        weight = self._weight(last, following)
        said = self.model.norm(self.model.points(last, following))
        made = self.model.act(last, said + _NOISE * torch.randn_like(said))
        # Measured by what nothing done would get, so that gradients are never too small for the optimizer.
        loss = ((made - following).square() * weight).sum()
        loss = loss / ((last - following).square() * weight).sum().clamp_min(1e-6)
        self.log("loss", loss.detach(), batch_size=len(last))
        return loss

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        self.seen.append(without_cuts(*self.pairs(batch["frames"])))

    def on_validation_epoch_end(self) -> None:
        last, following = (torch.cat(parts) for parts in zip(*self.seen, strict=True))
        self.seen.clear()
        self.model.settle(self.model.points(last, following))
        found = compare(self.model, last, following)
        named = {"val/moving_psnr": found.inferred, "val/moving_psnr_shuffled": found.shuffled}
        self.log_dict(named | {"val/agreement": found.agreement})
        self.log("val/codes_used", float(used(found.codes, self.model.num_codes)))


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
def compare(model: LatentActions, last: Tensor, following: Tensor) -> Compared:
    """Of moments (N, ...) in an order in which neighbours are of one episode, so half the batch on is another."""
    codes = model.code(model.points(last, following))
    others = codes.roll(len(codes) // 2)
    moves = ((following - last).abs().amax(1, keepdim=True) > MOVES).float()

    def score(made: Tensor) -> Tensor:
        square = (made.clamp(0, 1) - following).square().mean(1, keepdim=True)
        return decibels((square * moves).sum() / moves.sum().clamp_min(1))

    elsewhere = model.act(last, model.centres[others])
    agreement = (model.code(model.points(last, elsewhere)) == others).float().mean()
    return Compared(score(model.act(last, model.centres[codes])), score(elsewhere), agreement, codes)


def used(codes: Tensor, num_codes: int) -> int:
    """How many codes at least a hundredth of all moments have."""
    shares = torch.bincount(codes.flatten(), minlength=num_codes).float() / codes.numel()
    return int((shares >= 0.01).sum())


def figures(codes: Tensor, num_codes: int) -> dict[str, Any]:
    """How many codes are used, and as how many evenly used ones they count."""
    shares = torch.bincount(codes.flatten(), minlength=num_codes).float() / codes.numel()
    entropy = -(shares * shares.clamp_min(1e-9).log()).sum()
    return {"codes_used": used(codes, num_codes), "perplexity": float(entropy.exp())}
