"""What a tokenizer is trained on: squares of pictures in which something is seen, over what mostly is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tokenizer.video_tokenizer import VideoTokenizer, VideoTokenizerConfig
from train.modules.tokenizer import TokenizerModule

SIZES = {
    "resolution": (48, 40),
    "patch": 4,
    "encoder_width": 12,
    "decoder_width": 12,
    "detail_width": 8,
    "still": True,
    "spread": True,
    "by_name": True,
}


def filled() -> tuple[TokenizerModule, Tensor]:
    """A module with random weights everywhere, and clips (2, 9, 3, 48, 40) that tell where each pixel was."""
    torch.manual_seed(0)
    module = TokenizerModule(config=SIZES, parts=200, part_cells=2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    rows, columns = torch.arange(48.0)[:, None].expand(48, 40), torch.arange(40.0).expand(48, 40)
    picture = torch.stack([rows / 48, columns / 40, torch.zeros(48, 40)])
    return module, torch.stack([picture, picture + torch.tensor([0, 0, 1.0])[:, None, None]])[:, None].repeat(
        1, 9, 1, 1, 1
    )


def test_squares_lie_where_they_are_said_to_and_mostly_where_something_is() -> None:
    module, video = filled()
    mask = torch.zeros(2, 9, 48, 40)
    mask[:, 3, 20, 12] = 1  # in the cell (2, 1)
    cut, marked, at = module._cut_out(video, mask, torch.Generator().manual_seed(0))
    assert cut.shape == (400, 9, 3, 16, 16)
    assert torch.equal((cut[:, 0, 0, 0, 0] * 48).round().long(), 8 * at[:, 0])
    assert torch.equal((cut[:, 0, 1, 0, 0] * 40).round().long(), 8 * at[:, 1])
    assert cut[:200, :, 2].eq(0).all()
    assert cut[200:, :, 2].eq(1).all()
    inside = (at[:, 0] <= 2) & (at[:, 0] >= 1) & (at[:, 1] <= 1)
    assert torch.equal(marked.amax((1, 2, 3)) > 0, inside)
    assert inside.float().mean() > 0.5  # of 30 cells, each alike, a tenth


def test_a_square_is_drawn_as_the_picture_that_it_is_cut_out_of() -> None:
    """Where nothing crosses cells, for a convolution sees less at a square's edge."""
    module, video = filled()
    tokenizer = module.tokenizer.eval()
    with torch.no_grad():
        for conv in [m for m in tokenizer.decoder.modules() if isinstance(m, torch.nn.Conv2d)]:
            if conv.kernel_size == (3, 3):
                middle = conv.weight[:, :, 1, 1].clone()
                conv.weight.zero_()
                conv.weight[:, :, 1, 1] = middle
        whole = tokenizer(video)
        at = torch.tensor([[1, 2], [3, 0]])
        part = tokenizer(
            torch.stack([video[i, :, :, 8 * r : 8 * r + 16, 8 * c : 8 * c + 16] for i, (r, c) in enumerate(at)]), at=at
        )
    for i, (r, c) in enumerate(at):
        assert torch.equal(part.indices[i], whole.indices[i, :, r : r + 2, c : c + 2])
        expected = whole.video[i, :, :, 8 * r : 8 * r + 16, 8 * c : 8 * c + 16]
        assert torch.allclose(part.video[i], expected, atol=1e-5)


def test_training_begins_at_what_pictures_mostly_show() -> None:
    module = TokenizerModule(config=SIZES, parts=2)
    background = torch.randint(0, 256, (2, 48, 40, 3), dtype=torch.uint8)
    module.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    module.training_step({"frames": background[:, None].repeat(1, 9, 1, 1, 1), "background": background}, 0)
    still = module.tokenizer.decoder.still
    assert still is not None
    shown = background.float().mean(0).permute(2, 0, 1) / 255 - 0.5
    assert torch.allclose(still, shown)


def test_latents_are_spread_by_what_was_seen_in_training() -> None:
    torch.manual_seed(0)
    encoder = VideoTokenizer(VideoTokenizerConfig(**SIZES)).encoder.train()
    frames = torch.rand(16, 4, 3, 48, 40) - 0.5
    for _ in range(200):
        spread = encoder(frames)
    assert torch.allclose(spread.std((0, 2, 3)), torch.ones(spread.shape[1]), atol=0.01)
    assert torch.allclose(encoder.eval()(frames), spread, atol=0.1)


def test_what_is_no_checkpoint_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken.ckpt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"no checkpoint at .*: train first"):
        TokenizerModule(config=SIZES, start_from=str(tmp_path / "missing.ckpt"))
    with pytest.raises(ValueError, match=r"broken\.ckpt is broken .*: resume the run"):
        TokenizerModule(config=SIZES, start_from=str(tmp_path / "broken.ckpt"))
    torch.save({"state_dict": {"tokenizer.odd": torch.zeros(1)}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="holds no weights for this model"):
        TokenizerModule(config=SIZES, start_from=str(tmp_path / "other.ckpt"))
