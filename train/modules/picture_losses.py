"""What reconstruction may be asked for besides squared error; nothing here needs pretrained weights but LPIPS."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def decibels(mean_squared_error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, for values in [0, 1]; at most 100."""
    return -10 * mean_squared_error.clamp_min(1e-10).log10()


def laplacian(error: Tensor, levels: int = 3) -> Tensor:
    """Mean absolute error (..., 3, H, W) over the bands of a Laplacian pyramid, each counted alike.

    Fine bands hold little of an absolute error over pixels, so there edges may stay soft (Bojanowski et al. 2018,
    arXiv:1707.05776, train with it alone).
    """
    rest, total = error.flatten(0, -4), error.new_zeros(())
    for _ in range(levels):
        low = F.avg_pool2d(rest, 2)
        total = total + (rest - F.interpolate(low, rest.shape[-2:], mode="bilinear")).abs().mean()
        rest = low
    return (total + rest.abs().mean()) / (levels + 1)


def worst(square: Tensor, share: float = 0.02) -> Tensor:
    """Mean of the largest ``share`` of squared errors (B, T, 3, H, W), clip by clip."""
    pixels = square.mean(2).flatten(1)
    return pixels.topk(max(1, int(share * pixels.shape[1])), dim=1).values.mean()


class PatchDiscriminator(nn.Module):
    """Scores space-time patches of a clip as recorded (high) or reconstructed (low).

    A 3-D convolutional net over (B, T, 3, H, W) in [0, 1], as in MAGVIT-v2 (arXiv:2310.05737); the result is the
    features of its layers, the last of which are the scores.
    """

    def __init__(self, width: int = 32, layers: int = 3) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(layers)]
        self.layers = nn.ModuleList(
            nn.Conv3d(a, b, (3, 4, 4), stride=(1, 2, 2), padding=1)
            for a, b in zip([3, *widths[:-1]], widths, strict=True)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, w) if i else nn.Identity() for i, w in enumerate(widths))
        self.score = nn.Conv3d(widths[-1], 1, (3, 3, 3), padding=1)

    def forward(self, video: Tensor) -> list[Tensor]:
        x, features = 2 * video.movedim(2, 1) - 1, []
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.leaky_relu(norm(layer(x)), 0.2)
            features.append(x)
        return [*features, self.score(x)]


def adversarial(
    discriminator: PatchDiscriminator, made: Tensor, truth: Tensor, feature_weight: float = 1.0
) -> tuple[Tensor, Tensor]:
    """What the generator is asked for, with gradients for ``made`` alone, and the discriminator's own loss.

    Hinge losses (Lim and Ye 2017, arXiv:1705.02894); the generator is also asked to match the discriminator's
    features of the truth (Wang et al. 2018, arXiv:1711.11585).
    """
    real, fake = discriminator(truth), discriminator(made.detach())
    own = F.relu(1 - real[-1]).mean() + F.relu(1 + fake[-1]).mean()
    held = {name: weight.detach() for name, weight in discriminator.named_parameters()}
    seen = torch.func.functional_call(discriminator, held, (made,))
    matched = torch.stack([(a - b.detach()).abs().mean() for a, b in zip(seen[:-1], real[:-1], strict=True)]).mean()
    return feature_weight * matched - seen[-1].mean(), own


def adaptive(recon: Tensor, wanted: Tensor, last: Tensor) -> Tensor:
    """What ``wanted`` is to be weighed by so that it pulls as hard on the ``last`` layer's weights as ``recon``.

    Esser et al. 2021 (arXiv:2012.09841).
    """
    pulls = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (recon, wanted)]
    return (pulls[0] / (pulls[1] + 1e-6)).clamp(max=1e4).detach()


def learned_perceptual() -> Callable[[Tensor, Tensor], Tensor]:
    """LPIPS (Zhang et al. 2018, arXiv:1801.03924) of clips (B, T, 3, H, W) in [0, 1], by its authors' package.

    Raises ValueError when that is not installed.
    """
    try:
        import lpips  # type: ignore[import-not-found]
    except ImportError as error:
        raise ValueError(
            f"lpips_weight needs the package lpips ({error}), which no extra of this project installs: "
            "pip install lpips in an environment of its own, or leave lpips_weight at 0"
        ) from None
    network = lpips.LPIPS(net="vgg", verbose=False).eval().requires_grad_(False)

    def distance(made: Tensor, truth: Tensor) -> Tensor:
        network.to(made.device)
        return network(made.flatten(0, 1), truth.flatten(0, 1), normalize=True).mean()

    return distance
