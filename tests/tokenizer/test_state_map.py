"""A state without places is drawn as a layer that is learned."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tokenizer.quantizer import QuantizerConfig
from tokenizer.state_schema import Entity, Field, StateSchema
from tokenizer.video_tokenizer import FrameStates, VideoTokenizer, VideoTokenizerConfig

FIELD = Field(
    name="at", kind="continuous", role="value", low=0, high=1, bins=16, change=0.5, change_bins=17
)  # fmt: skip
SCHEMA = StateSchema(
    name="bar", frames_per_step=1, actions=("none",), entities=(Entity(name="bar", fields=(FIELD,)),), view=None
)


def tiny(frames_per_step: int = 1) -> VideoTokenizer:
    torch.manual_seed(0)
    config = VideoTokenizerConfig(
        resolution=16,
        frames_per_step=frames_per_step,
        encoder_width=16,
        encoder_blocks=1,
        decoder_width=16,
        decoder_blocks=1,
        detail_width=16,
        quantizer=QuantizerConfig(kind="fsq", levels=(4, 4)),
    )
    return VideoTokenizer(config, SCHEMA).eval()


def bars(at: Tensor) -> Tensor:
    """Pictures (N, 3, 16, 16) with a column of light at ``at`` (N), which no single cell holds."""
    columns = torch.arange(16)
    return (columns == (at * 15).round()[:, None]).float()[:, None, None].expand(-1, 3, 16, 16)


@pytest.mark.parametrize("r", [1, 4])
def test_a_stream_gives_the_clips_frames(r: int) -> None:
    tokenizer = tiny(r)
    layer = tokenizer.decoder.learned_layer
    assert layer is not None
    torch.nn.init.normal_(layer.head.weight)
    ids = torch.randint(tokenizer.num_codes, (2, 4, 2, 2))
    states, cache = torch.rand(2, 4, 1), tokenizer.start_cache(2)
    steps = [tokenizer.decode_step(ids[:, t], cache, states[:, t], states[:, max(0, t - 1)]) for t in range(4)]
    streamed, whole = torch.cat([steps[0][:, -1:], *steps[1:]], 1), tokenizer.decode(ids, states)
    assert (streamed.int() - whole.int()).abs().max() <= 1
    assert not torch.equal(whole, tokenizer.decode(ids, states.flip(0)))


def test_unknown_states_are_no_states() -> None:
    tokenizer = tiny()
    layer = tokenizer.decoder.learned_layer
    assert layer is not None
    torch.nn.init.normal_(layer.head.weight)
    video, states = torch.rand(2, 4, 3, 16, 16), torch.rand(2, 4, 1)
    known = torch.tensor([False, True])[:, None].expand(2, 4)
    with torch.no_grad():
        told = tokenizer(video, FrameStates(states, states, known)).video
        assert torch.equal(told[0], tokenizer(video).video[0])
        assert not torch.equal(told[1], tokenizer(video).video[1])


def test_the_picture_follows_a_written_state_against_its_ids() -> None:
    tokenizer = tiny().train()
    optimizer = torch.optim.AdamW(tokenizer.parameters(), 1e-2)
    for _ in range(150):
        at = torch.rand(16)
        video = bars(at)[:, None]
        wrong = (torch.rand(16) < 0.3)[:, None, None, None].expand(-1, 1, 2, 2)
        out = tokenizer(video, FrameStates.of(at[:, None, None]), wrong)
        assert out.drawn is not None
        loss = (out.video - video).square().mean() + (out.drawn - video).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tokenizer.eval()
    said = torch.arange(16) / 15
    written = said.roll(5)
    ids = tokenizer.encode((bars(said) * 255).byte().permute(0, 2, 3, 1)[:, None])
    made = tokenizer.decode(ids, written[:, None, None])[:, 0].float() / 255
    wanted, other = (bars(at).permute(0, 2, 3, 1) for at in (written, said))
    error = [(made - picture).square().flatten(1).mean(1) for picture in (wanted, other)]
    assert (error[0] < 0.5 * error[1]).float().mean() > 0.8
