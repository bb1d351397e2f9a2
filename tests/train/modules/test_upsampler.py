"""The upsampler learns from what a tokenizer decodes, and says what a batch lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tokenizer.clip import halve
from tokenizer.state_schema import Entity, Field, StateSchema
from tokenizer.video_tokenizer import QuantizerConfig, VideoTokenizer, VideoTokenizerConfig
from tokenizer.view import Plane
from train.modules.upsampler import UpsamplerModule, corrupt

TINY: dict[str, Any] = {"resolution": 16, "width": 16, "levels": 2, "depth": 1, "condition": 16}
BALL = StateSchema(
    name="ball",
    entities=(
        Entity(
            name="ball",
            fields=(
                Field(name="position", kind="continuous", role="position", size=2, bins=64),
                Field(name="velocity", kind="continuous", role="velocity", size=2, low=-1, high=1, bins=64),
            ),
        ),
    ),
    view=Plane(),
)


def _batch(rows: int = 4, steps: int = 2) -> dict[str, Any]:
    """Sharp red discs of 4 pixels' radius that cross a grey 32 x 32 picture."""
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(rows, 1, 2, generator=generator) * 0.3 + 0.2
    velocity = torch.rand(rows, 1, 2, generator=generator) * 0.2
    at = start + velocity * torch.arange(1 + 4 * steps)[:, None] / 4  # (B, T, 2), x and y in [0, 1]
    y, x = torch.meshgrid((torch.arange(32) + 0.5) / 32, (torch.arange(32) + 0.5) / 32, indexing="ij")
    inside = (x - at[..., 0, None, None]) ** 2 + (y - at[..., 1, None, None]) ** 2 < (4 / 32) ** 2
    frames = torch.where(inside[..., None], torch.tensor([200, 30, 30]), torch.tensor([128, 128, 128])).byte()
    states = torch.cat([at[:, ::4], velocity.expand(-1, 1 + steps, -1)], -1)
    return {"frames": frames, "states": states, "segmentation": inside.byte(), "caption": ["a ball"] * rows}


class _Batches(torch.utils.data.Dataset[dict[str, Any]]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        return _batch()


def _module(**changes: Any) -> UpsamplerModule:
    torch.manual_seed(0)
    settings = {"config": TINY, "schema": BALL.to_json(), "total_steps": 120, "warmup_steps": 5, "lr": 1e-2}
    return UpsamplerModule(**(settings | changes))


def _trainer(folder: Path, steps: int) -> L.Trainer:
    return L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


def _loader(count: int) -> DataLoader[dict[str, Any]]:
    return DataLoader(_Batches(count), batch_size=None)


def test_training_beats_bicubic_within_seconds(tmp_path: Path) -> None:
    module, trainer = _module(corruption=0.0), _trainer(tmp_path, 120)
    trainer.fit(module, _loader(120))
    scores = trainer.validate(module, _loader(1), verbose=False)[0]
    assert scores["val/psnr"] > scores["val/bicubic_psnr"] + 0.5
    assert scores["val/body_psnr"] > scores["val/bicubic_body_psnr"]


def test_an_untrained_module_without_a_state_scores_as_bicubic(tmp_path: Path) -> None:
    scores = _trainer(tmp_path, 1).validate(_module(schema=None), _loader(1), verbose=False)[0]
    assert scores["val/psnr"] == pytest.approx(scores["val/bicubic_psnr"], abs=1e-3)


def test_the_loss_is_the_same_for_the_same_step() -> None:
    module = _module()
    torch.nn.init.normal_(module.upsampler.get_parameter("experts.0.head.weight"), std=0.02)
    losses = [module.training_step(_batch(), 0) for _ in range(2)]
    assert losses[0] == losses[1]
    losses[0].backward()
    network = [
        p for name, p in module.upsampler.named_parameters() if not name.startswith("layer.bodies.") and p.numel()
    ]
    assert all(p.grad is not None for p in network)


def test_a_mean_flow_learns_what_its_velocity_turns_by() -> None:
    module = _module(config={**TINY, "mean_flow": True})
    network = module.upsampler
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    batch = _batch()
    with torch.no_grad():
        given = module._given(module.small_frames(batch), batch["states"])
        clean = network.residual(batch["frames"], given)
    noise = torch.randn_like(clean)
    time, until = torch.full((len(clean),), 0.7), torch.full((len(clean),), 0.2)

    def velocity(at: float) -> Tensor:
        t = torch.full_like(time, at)
        z = torch.lerp(clean, noise, at)
        return (z - network.denoise(z, t, given, until=until)) / at

    turning = module._turning(torch.lerp(clean, noise, 0.7), noise - clean, time, until, given)
    with torch.no_grad():
        expected = (velocity(0.701) - velocity(0.699)) / 0.002
    assert (turning - expected).abs().mean() < 0.02 * expected.abs().mean()
    module.training_step(batch, 0).backward()
    assert network.get_parameter("experts.0.span.weight").grad is not None
    pictures = [network(module.small_frames(batch), batch["states"], seed) for seed in (0, 1)]
    assert not torch.equal(*pictures)  # a single step samples


def test_experts_share_the_times_and_each_row_goes_to_its_own() -> None:
    network = _module(config={**TINY, "experts": 2}).upsampler
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    batch = {name: value[:2] for name, value in _batch().items()}
    states = network.frame_states(batch["states"], batch["frames"].shape[1])
    with torch.no_grad():
        given = network.conditions(torch.from_numpy(halve(batch["frames"].numpy())), states)
        z, time = torch.randn_like(network.residual(batch["frames"], given)), torch.tensor([0.9, 0.2])
        both = network.denoise(z, time, given)
        early, late = (network.denoise(z, time[i].expand(2), given) for i in (0, 1))
        torch.testing.assert_close(both[0], early[0])
        torch.testing.assert_close(both[1], late[1])
        torch.nn.init.zeros_(network.get_parameter("experts.1.head.weight"))
        assert torch.equal(network.denoise(z, time[:1].expand(2), given), early)  # which never asks the second
        assert not torch.allclose(network.denoise(z, time[1:].expand(2), given), late)


def test_a_regression_is_trained_by_its_absolute_error_from_no_noise() -> None:
    module = _module(objective="regression")
    torch.nn.init.normal_(module.upsampler.get_parameter("experts.0.head.weight"), std=0.02)
    batch = _batch()
    loss = module.training_step(batch, 0)
    module.seed = 1  # the corruption is another, and nothing else
    module.corruption = 0.0
    clean_loss = module.training_step(batch, 0)
    module.seed = 2
    assert module.training_step(batch, 0) == clean_loss != loss


def test_bodies_weigh_more() -> None:
    module = _module(body_weight=9.0)
    weight = module._patch_weight(_batch())
    assert isinstance(weight, Tensor)
    assert weight.mean().item() == pytest.approx(1)
    assert (weight.max() / weight.min()).item() == pytest.approx(10)
    assert module._patch_weight({}) == 1.0


def _tokenizer(folder: Path) -> VideoTokenizer:
    sizes = {"encoder_width": 16, "decoder_width": 16, "detail_width": 8}
    blocks = {"encoder_blocks": 1, "decoder_blocks": 1, "detail_blocks": 1}
    config = VideoTokenizerConfig(resolution=16, quantizer=QuantizerConfig(), **sizes, **blocks)  # type: ignore[arg-type]
    tokenizer = VideoTokenizer(config).eval()
    tokenizer.save(folder)
    return tokenizer


def test_it_is_given_what_the_tokenizer_decodes(tmp_path: Path) -> None:
    tokenizer, batch = _tokenizer(tmp_path), _batch()
    module = _module(tokenizer_path=str(tmp_path))
    small = torch.from_numpy(halve(batch["frames"].numpy()))
    assert torch.equal(module.small_frames(batch), tokenizer.decode(tokenizer.encode(small)))
    assert torch.equal(_module().small_frames(batch), small)
    assert torch.equal(module.small_frames(batch | {"decoded": small}), small)
    assert not any("tokenizer" in name for name in module.state_dict())


def test_the_sample_video_shows_bicubic_upsampled_and_real_side_by_side() -> None:
    batch = _batch()
    video = _module().sample_video(batch)
    assert video.shape == (9, 32, 96, 3)
    assert video.dtype == torch.uint8
    assert torch.equal(video[:, :, 64:], batch["frames"][0])


def test_pictures_that_are_not_square_are_trained_on() -> None:
    batch = _batch()
    module = _module(config=TINY | {"resolution": [16, 12]})
    narrow = {name: batch[name][:, :, :, 4:28] for name in ("frames", "segmentation")}
    assert module.small_frames(batch | narrow).shape == (4, 9, 16, 12, 3)
    assert module._patch_weight(batch | narrow).shape == (4, 9, 8, 6, 1)  # type: ignore[union-attr]
    module.training_step(batch | narrow, 0).backward()
    assert module.upsampler.see_frames.weight.grad is not None
    with pytest.raises(ValueError, match=r"makes 32x24 frames but the batch holds 32x32: .* resolution \[32, 24\]"):
        module.small_frames(batch)


def test_a_world_without_state_trains_on_frames_alone() -> None:
    module = _module(schema=None)
    batch = _batch()
    del batch["states"], batch["segmentation"]
    assert module.training_step(batch, 0).isfinite()


def test_corruption_is_mild_seeded_and_grows_with_its_strength() -> None:
    frames = torch.from_numpy(halve(_batch()["frames"].numpy()))
    changes = []
    for strength in (0.0, 0.3, 1.0):
        corrupted = corrupt(frames, strength, torch.Generator().manual_seed(0))
        assert torch.equal(corrupted, corrupt(frames, strength, torch.Generator().manual_seed(0)))
        changes.append((corrupted.float() - frames.float()).abs().mean().item())
    assert changes[0] == 0
    assert 0 < changes[1] < changes[2] < 25


def test_what_a_batch_lacks_is_said_in_one_sentence(tmp_path: Path) -> None:
    batch = _batch()
    with pytest.raises(ValueError, match="makes 32x32 frames but the batch holds 16x16: read the recording with"):
        _module().training_step(batch | {"frames": batch["frames"][:, :, ::2, ::2]}, 0)
    with pytest.raises(ValueError, match="has no 'states'"):
        _module().training_step({"frames": batch["frames"]}, 0)
    with pytest.raises(ValueError, match=r"no tokenizer\.json in"):
        _module(tokenizer_path=str(tmp_path)).training_step(batch, 0)
