"""The tokenizer's promises: a stream is the clip, the past never sees the future, ids stay where pixels stay."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenizer.causal_conv import StreamingCache
from tokenizer.quantizer import KINDS, Quantizer, QuantizerConfig, QuantizerKind
from tokenizer.state_schema import Entity, Field, StateSchema
from tokenizer.video_tokenizer import FrameStates, VideoTokenizer, VideoTokenizerConfig

from ..worldmodel.tiny_world import PLANE, VALUES

STEPS = 6
FSQ = QuantizerConfig(levels=(5, 4, 3))
VQ = QuantizerConfig(kind="vq", num_codes=12, dim=4)
RESIDUAL = QuantizerConfig(kind="residual_fsq", levels=(4, 3), stages=2)
SIMVQ = QuantizerConfig(kind="simvq", num_codes=12, dim=4)
LFQ = QuantizerConfig(kind="lfq", num_codes=16)
EACH_KIND = pytest.mark.parametrize("quantizer", [FSQ, RESIDUAL, VQ, SIMVQ, LFQ], ids=lambda config: config.kind)


def tiny(
    r: int = 4,
    kind: torch.dtype = torch.float32,
    quantizer: QuantizerConfig = FSQ,
    kernel: int = 2,
    schema: StateSchema | None = None,
    size: tuple[int, int] | int = 16,
    by_name: bool = False,
):
    """Random weights everywhere, also where training starts from zeros."""
    torch.manual_seed(0)
    config = VideoTokenizerConfig(
        resolution=size,
        frames_per_step=r,
        patch=2,
        encoder_width=12,
        encoder_blocks=1,
        decoder_width=12,
        decoder_blocks=3,
        detail_width=8,
        detail_blocks=1,
        temporal_kernel=kernel,
        by_name=by_name,
        quantizer=quantizer,
    )
    tokenizer = VideoTokenizer(config, schema).to(kind).eval()
    with torch.no_grad():
        for parameter in tokenizer.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return tokenizer


def clip(r: int = 4, batch: int = 2, steps: int = STEPS, size: tuple[int, int] = (16, 16)) -> Tensor:
    chance = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, 1 + r * steps, *size, 3), dtype=torch.uint8, generator=chance)


def some_ids(tokenizer: VideoTokenizer, batch: int = 2) -> Tensor:
    chance = torch.Generator().manual_seed(2)
    return torch.randint(0, tokenizer.num_codes, (batch, 1 + STEPS, *tokenizer.grid), generator=chance)


def decode(tokenizer: VideoTokenizer, ids: Tensor, cache: StreamingCache | None = None) -> Tensor:
    """Unrounded decoded frames (B, T, r, 3, H, W)."""
    with torch.no_grad():
        out = tokenizer.decoder(tokenizer._codes(ids), cache, ids=ids)
    if cache is not None:
        cache.advance()
    return out


# -- streaming --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@settings(max_examples=10, deadline=None)
@given(cuts=st.sets(st.integers(1, STEPS)), kernel=st.integers(2, 4))
def test_decoding_in_any_chunks_equals_the_whole(kind, tolerance: float, cuts: set[int], kernel: int):
    tokenizer = tiny(kind=kind, kernel=kernel)
    ids, cache = some_ids(tokenizer), tokenizer.start_cache(2)
    edges = [0, *sorted(cuts), 1 + STEPS]
    chunks = [decode(tokenizer, ids[:, a:b], cache) for a, b in pairwise(edges)]
    assert (torch.cat(chunks, 1) - decode(tokenizer, ids)).abs().max() <= tolerance


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("r", [1, 4])
def test_a_stream_of_ids_gives_the_clips_frames(r: int, by_name: bool):
    tokenizer = tiny(r, by_name=by_name)
    ids, cache = some_ids(tokenizer), tokenizer.start_cache(2)
    steps = [tokenizer.decode_step(ids[:, t], cache) for t in range(1 + STEPS)]
    assert all(step.shape == (2, r, 16, 16, 3) for step in steps)
    streamed, whole = torch.cat([steps[0][:, -1:], *steps[1:]], 1), tokenizer.decode(ids)
    assert whole.shape == (2, 1 + r * STEPS, 16, 16, 3)
    assert (streamed.int() - whole.int()).abs().max() <= 1  # the rounding of a grey level


@pytest.mark.parametrize("r", [1, 2, 4])
@EACH_KIND
def test_a_stream_of_frames_gives_the_clips_ids(r: int, quantizer: QuantizerConfig):
    tokenizer, frames = tiny(r, quantizer=quantizer), clip(r)
    tokenizer.train()
    tokenizer(frames.movedim(-1, 2) / 255)  # a first batch, from which clustering takes its codes
    tokenizer.eval()
    whole = tokenizer.encode(frames)
    assert whole.shape == (2, 1 + STEPS, 4, 4)
    steps = [frames[:, :1], *frames[:, 1:].split(r, 1)]
    assert torch.equal(torch.stack([tokenizer.encode_step(s) for s in steps], 1), whole)
    assert torch.equal(tokenizer.encode(frames[:, : 1 + 2 * r]), whole[:, :3])
    # Any later latent frame may be the first of a window; only as a single picture it is another latent.
    assert torch.equal(tokenizer.encode(frames[:, 2 * r :])[:, 1:], whole[:, 3:])


def some_states(batch: int = 2) -> Tensor:
    """A random walk of everything, (batch, 1 + STEPS, num_values)."""
    chance = torch.Generator().manual_seed(3)
    return 0.1 * torch.randn(batch, 1 + STEPS, PLANE.num_values, generator=chance).cumsum(1)


@pytest.mark.parametrize("r", [1, 4])
def test_a_stream_with_states_gives_the_clips_frames(r: int):
    tokenizer = tiny(r, schema=PLANE)
    ids, states, cache = some_ids(tokenizer), some_states(), tokenizer.start_cache(2)
    steps = [tokenizer.decode_step(ids[:, t], cache, states[:, t], states[:, max(0, t - 1)]) for t in range(1 + STEPS)]
    streamed, whole = torch.cat([steps[0][:, -1:], *steps[1:]], 1), tokenizer.decode(ids, states)
    assert (streamed.int() - whole.int()).abs().max() <= 1


def test_a_state_changes_its_own_latent_frame_and_what_follows_from_it():
    tokenizer = tiny(schema=PLANE)
    ids, states = some_ids(tokenizer), some_states()
    before = tokenizer.decode(ids, states)
    other = states.clone()
    other[:, 3] += 0.2
    after = tokenizer.decode(ids, other)
    differs = (before != after).flatten(2).any(-1).any(0)
    assert not differs[: 1 + 4 * 2].any()
    assert differs[1 + 4 * 2 : 4 * 4].all()  # the next step begins where this one ends
    assert torch.equal(before[:, 4 * 4 :], after[:, 4 * 4 :])  # and ends where it would have ended


def test_unknown_states_are_no_states():
    tokenizer = tiny(schema=PLANE)
    video, states = clip().movedim(-1, 2) / 255, some_states()
    known = torch.zeros(2, 1 + STEPS, dtype=torch.bool)
    known[1] = True
    with torch.no_grad():
        told = tokenizer(video, FrameStates(states, states, known)).video
        assert torch.equal(told[0], tokenizer(video).video[0])
        assert not torch.equal(told[1], tokenizer(video).video[1])


def test_wrong_codes_are_decoded_where_they_are_marked():
    tokenizer, video = tiny(kernel=2), clip().movedim(-1, 2) / 255
    wrong = torch.zeros(2, 1 + STEPS, 4, 4, dtype=torch.bool)
    wrong[1, 4] = True
    with torch.no_grad():
        differs = (tokenizer(video).video != tokenizer(video, wrong=wrong).video).flatten(2).any(-1)
    assert not differs[0].any()
    assert not differs[1, : 1 + 4 * 3].any()
    assert differs[1, 1 + 4 * 3 : 1 + 4 * 4].all()


@pytest.mark.parametrize("by_name", [False, True])
def test_whole_reconstruction_is_encoding_and_decoding(by_name: bool):
    tokenizer, frames = tiny(by_name=by_name), clip()
    with torch.no_grad():
        whole = tokenizer(frames.movedim(-1, 2) / 255)
    assert torch.equal(whole.indices, tokenizer.encode(frames))
    rounded = (whole.video * 255).round().clamp(0, 255).to(torch.uint8).movedim(2, -1)
    assert (rounded.int() - tokenizer.decode(whole.indices).int()).abs().max() <= 1


def test_a_code_may_mean_what_its_digits_do_not_say():
    tokenizer, frames = tiny(by_name=True).train(), clip().movedim(-1, 2) / 255
    names = tokenizer.decoder.names
    assert names is not None
    ids = torch.zeros(1, 1, *tokenizer.grid, dtype=torch.long)
    before = tokenizer.decode(ids), tokenizer.decode(ids + 1)
    with torch.no_grad():
        names.weight[1] += 3
    assert torch.equal(tokenizer.decode(ids), before[0])
    assert not torch.equal(tokenizer.decode(ids + 1), before[1])
    for noisy in (True, False):  # noise lies between codes, so nothing is meant by name then
        tokenizer.quantizer.noisy = noisy
        tokenizer.zero_grad()
        tokenizer(frames).video.sum().backward()
        assert (names.weight.grad is None or not names.weight.grad.any()) is noisy


def test_future_ids_do_not_change_past_frames():
    tokenizer = tiny()
    ids = some_ids(tokenizer)
    before = decode(tokenizer, ids)
    for t in range(1, 1 + STEPS):
        other = ids.clone()
        other[:, t:] = (ids[:, t:] + 1) % tokenizer.num_codes
        after = decode(tokenizer, other)
        assert torch.equal(after[:, :t], before[:, :t])
        assert not torch.equal(after[:, t], before[:, t])


def test_an_id_depends_on_its_own_cell_and_step_alone():
    tokenizer, frames = tiny(), clip()
    before = tokenizer.encode(frames)
    other = frames.clone()
    other[:, 5:9, 4:8, 8:12] = 255 - other[:, 5:9, 4:8, 8:12]  # the pixels of cell (1, 2) in step 2
    changed = tokenizer.encode(other) != before
    assert changed[:, 2, 1, 2].any()
    changed[:, 2, 1, 2] = False
    assert not changed.any()


# -- rows and copies --------------------------------------------------------------------------------


def test_a_row_reset_alone_begins_anew_and_the_others_go_on():
    tokenizer = tiny(kind=torch.float64)
    ids, cache = some_ids(tokenizer, batch=3), tokenizer.start_cache(3)
    whole = decode(tokenizer, ids)
    for t in range(3):
        decode(tokenizer, ids[:, t : t + 1], cache)
    cache.reset([1])
    streamed = torch.cat([decode(tokenizer, ids[:, t : t + 1], cache) for t in range(3, 1 + STEPS)], 1)
    assert (streamed[[0, 2]] - whole[[0, 2], 3:]).abs().max() <= 1e-10
    assert (streamed[1] - decode(tokenizer, ids[1:2, 3:])[0]).abs().max() <= 1e-10
    assert (streamed[1] - whole[1, 3:]).abs().max() > 1e-3


def test_a_cloned_cache_goes_its_own_way():
    tokenizer = tiny(kind=torch.float64)
    ids, cache = some_ids(tokenizer), tokenizer.start_cache(2)
    decode(tokenizer, ids[:, :3], cache)
    twin = cache.fork()
    decode(tokenizer, ids[:, :2], twin)
    twin.reset([0, 1])
    rest = decode(tokenizer, ids[:, 3:], cache)
    assert (rest - decode(tokenizer, ids)[:, 3:]).abs().max() <= 1e-10


def test_a_cache_takes_over_the_streams_of_another():
    tokenizer = tiny(kind=torch.float64)
    ids = some_ids(tokenizer, batch=3)
    cache, other = tokenizer.start_cache(3), tokenizer.start_cache(2)
    decode(tokenizer, ids[:, :2], cache)
    decode(tokenizer, ids[:2, :4], other)
    cache.adopt(other, [2, 0])
    next_ids = torch.stack([ids[1, 4], ids[1, 2], ids[0, 4]])[:, None]
    streamed = decode(tokenizer, next_ids, cache)[:, 0]
    whole = decode(tokenizer, ids)
    expected = torch.stack([whole[1, 4], whole[1, 2], whole[0, 4]])
    assert (streamed - expected).abs().max() <= 1e-10
    fresh = tokenizer.start_cache(3)
    fresh.adopt(other, [1, 2])  # a cache that has seen nothing may adopt as well
    assert torch.isfinite(decode(tokenizer, next_ids, fresh)).all()


# -- quantizers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [FSQ, RESIDUAL, VQ, SIMVQ, LFQ, QuantizerConfig()], ids=lambda config: config.kind)
def test_codes_come_back_from_their_indices(config: QuantizerConfig):
    torch.manual_seed(0)
    quantizer = Quantizer(config).train()
    latents = 2 * torch.randn(6, quantizer.dim, 4, 4)
    quantizer(latents)
    quantized = quantizer.eval()(latents)
    assert quantized.codes.shape == latents.shape
    assert quantized.indices.shape == (6, 4, 4)
    assert quantized.indices.dtype == torch.int64
    assert quantized.indices.min() >= 0
    assert quantized.indices.max() < quantizer.num_codes
    assert quantizer.num_codes == config.size
    torch.testing.assert_close(quantizer.lookup(quantized.indices), quantized.codes, atol=1e-6, rtol=0)


@EACH_KIND
@pytest.mark.parametrize("noisy", [False, True])
def test_a_training_step_lowers_the_error_and_reaches_every_network(quantizer: QuantizerConfig, noisy: bool):
    tokenizer, video = tiny(quantizer=quantizer).train(), clip(steps=2).movedim(-1, 2) / 255
    tokenizer.quantizer.noisy = noisy
    optimizer = torch.optim.SGD(tokenizer.parameters(), lr=0.1)
    errors = []
    for _ in range(12):
        torch.manual_seed(3)
        reconstruction = tokenizer(video)
        error = (reconstruction.video - video).square().mean() + reconstruction.loss
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < errors[0]
    for part in (tokenizer.encoder, tokenizer.decoder):
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in part.parameters())
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters())


def test_noise_in_place_of_rounding_stays_within_half_a_bin_of_it(monkeypatch):
    quantizer, latents = Quantizer(QuantizerConfig(levels=(8, 5, 4))).train(), 2 * torch.randn(4, 3, 4, 4)
    rounded = quantizer(latents).codes
    quantizer.noisy = True
    bin_width = 1 / torch.tensor([8 // 2, 5 // 2, 4 // 2]).view(3, 1, 1)
    assert ((quantizer(latents).codes - rounded).abs() <= bin_width + 1e-5).all()
    monkeypatch.setattr(torch, "rand_like", lambda x: torch.full_like(x, 0.5))
    assert ((quantizer(latents).codes - rounded).abs() <= bin_width / 2 + 1e-5).all()
    quantizer.eval()
    assert torch.equal(quantizer(latents).codes, rounded)


def test_half_precision_is_quantised_in_full():
    quantizer, latents = Quantizer(FSQ).eval(), torch.randn(2, 3, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        quantized = quantizer(latents.bfloat16())
    assert quantized.codes.dtype == torch.float32
    assert torch.equal(quantized.indices, quantizer(latents.bfloat16().float()).indices)


# -- on disk, and mistakes --------------------------------------------------------------------------


@EACH_KIND
def test_a_saved_tokenizer_comes_back_the_same(tmp_path, quantizer: QuantizerConfig):
    tokenizer, frames = tiny(quantizer=quantizer), clip()
    tokenizer.train()(frames.movedim(-1, 2) / 255)
    tokenizer.eval().save(tmp_path)
    again = VideoTokenizer.load(tmp_path)
    assert again.config == tokenizer.config
    ids = tokenizer.encode(frames)
    assert torch.equal(again.encode(frames), ids)
    assert torch.equal(again.decode(ids), tokenizer.decode(ids))


def test_a_saved_tokenizer_keeps_the_schema_of_its_states(tmp_path):
    tokenizer = tiny(schema=PLANE)
    tokenizer.save(tmp_path)
    again, ids, states = VideoTokenizer.load(tmp_path), some_ids(tokenizer), some_states()
    assert again.schema == PLANE
    assert torch.equal(again.decode(ids, states), tokenizer.decode(ids, states))


class Signs(torch.nn.Module):
    """A quantizer of a few lines: a bit a channel."""

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        bits = latents > 0
        return 2.0 * bits - 1, (bits * 2 ** torch.arange(latents.shape[-1])).sum(-1)


def test_codes_that_are_not_said_are_told_by_the_nearest_that_is(tmp_path: Path):
    tokenizer = tiny(by_name=True)
    clip = torch.randint(0, 256, (2, 5, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ids = tokenizer.encode(clip)
    said = ids.unique()[::2]
    chosen = tokenizer.saying(said.tolist())
    numbered = chosen.encode(clip)
    assert 0 <= numbered.min() <= numbered.max() < chosen.num_codes == len(said)
    told = said[numbered]
    kept = torch.isin(ids, said)
    assert torch.equal(told[kept], ids[kept])
    codes = tokenizer.quantizer.lookup(torch.arange(tokenizer.num_codes)[:, None, None])[:, :, 0, 0]
    away = (codes[ids[~kept]] - codes[told[~kept]]).norm(dim=-1)
    assert (away <= torch.cdist(codes[ids[~kept]], codes[said]).amin(1) + 1e-6).all()
    assert torch.equal(chosen.decode(numbered), tokenizer.decode(told))
    chosen.save(tmp_path)
    assert torch.equal(VideoTokenizer.load(tmp_path).encode(clip), numbered)
    fewer = chosen.saying(said[[0, 2]].tolist())
    assert chosen.saying(said.tolist()) is chosen
    with pytest.raises(ValueError, match="does not say all of these codes"):
        chosen.saying([int(ids[~kept][0])])
    assert torch.equal(fewer.decode(torch.ones_like(numbered)), tokenizer.decode(said[2] + torch.zeros_like(told)))
    with pytest.raises(ValueError, match=r"said names codes from 0 to \d+: there are"):
        tokenizer.saying([0, tokenizer.num_codes])


def test_a_new_quantizer_is_one_row(monkeypatch: pytest.MonkeyPatch):
    kind = QuantizerKind(
        size=lambda config: 2**config.dim,
        channels=lambda config: config.dim,
        build=lambda config: Signs(),
        lookup=lambda config, codebook, flat: 2.0 * (flat[..., None] >> torch.arange(config.dim) & 1) - 1,
    )
    monkeypatch.setitem(KINDS, "signs", kind)
    tokenizer, frames = tiny(quantizer=QuantizerConfig(kind="signs", dim=3)), clip(steps=2)
    assert tokenizer.num_codes == 8
    ids = tokenizer.encode(frames)
    assert ids.unique().numel() > 1
    quantized = tokenizer.quantizer(torch.randn(2, 3, 4, 4))
    assert torch.equal(tokenizer.quantizer.lookup(quantized.indices), quantized.codes)
    assert tokenizer.decode(ids).shape == frames.shape


@pytest.mark.parametrize("r", [1, 4])
@pytest.mark.parametrize("size", [(96, 64), (64, 112), (128, 72)], ids=lambda size: "x".join(map(str, size)))
def test_pictures_of_any_size_stream_as_the_whole_clip(size: tuple[int, int], r: int, tmp_path: Path):
    tokenizer, frames = tiny(r, torch.float64, schema=PLANE, size=size), clip(r, 1, 3, size)
    assert tokenizer.size == size
    assert tokenizer.grid == (size[0] // 4, size[1] // 4)
    ids = tokenizer.encode(frames)
    assert ids.shape == (1, 4, *tokenizer.grid)
    pieces = [tokenizer.encode_step(frames[:, :1]), *(tokenizer.encode_step(x) for x in frames[:, 1:].split(r, 1))]
    assert torch.equal(torch.stack(pieces, 1), ids)
    states = torch.rand(1, 4, PLANE.num_values, generator=torch.Generator().manual_seed(2)).double()
    whole, cache = tokenizer.decode(ids, states), tokenizer.start_cache(1)
    assert whole.shape == frames.shape
    before = torch.cat([states[:, :1], states[:, :-1]], 1)
    steps = [tokenizer.decode_step(ids[:, t], cache, states[:, t], before[:, t]) for t in range(4)]
    assert (torch.cat([steps[0][:, -1:], *steps[1:]], 1).int() - whole.int()).abs().max() <= 1
    tokenizer.float().save(tmp_path)
    assert VideoTokenizer.load(tmp_path).size == size


@pytest.mark.parametrize(
    ("wrong", "mend"),
    [
        ({"resolution": 60}, "resolution 60 is not a multiple of the cell of 8 pixels: 64 x 64"),
        (
            {"resolution": [96, 50]},
            r"resolution 96 x 50 is not a multiple of the cell of 8 pixels: 96 x 48 \(height",
        ),
        ({"resolution": [96, 64, 3]}, r"a number of pixels or \[height, width\], got \[96, 64, 3\]"),
        ({"resolution": 0}, r"a number of pixels or \[height, width\], got 0"),
        ({"frames_per_step": 0}, "a step shows at least one frame"),
    ],
)
def test_a_size_that_cannot_be_is_refused(wrong: dict[str, Any], mend: str):
    with pytest.raises(ValueError, match=mend):
        VideoTokenizerConfig(**wrong)


@pytest.mark.parametrize("schema", [PLANE, VALUES], ids=["a view", "no view"])
def test_states_are_shown_where_they_are_known(schema: StateSchema):
    tokenizer = tiny(schema=schema)
    ids, chance = some_ids(tokenizer), torch.Generator().manual_seed(3)
    states = torch.rand(2, 1 + STEPS, schema.num_values, generator=chance)
    whole, without = tokenizer.decode(ids, states), tokenizer.decode(ids)
    known = torch.zeros(2, 1 + STEPS, dtype=torch.bool)
    known[:, -1] = True
    shown = FrameStates.of(states, known)
    with torch.no_grad():
        last = tokenizer._to_pixels(tokenizer._join(tokenizer.decoder(tokenizer._codes(ids), shown=shown)))
    assert torch.equal(last[:, :-4], without[:, :-4])
    assert not torch.equal(last[:, -4:], without[:, -4:])
    cache, before = tokenizer.start_cache(2), FrameStates.of(states).previous
    steps = [tokenizer.decode_step(ids[:, t], cache, states[:, t], before[:, t]) for t in range(1 + STEPS)]
    assert (torch.cat([steps[0][:, -1:], *steps[1:]], 1).int() - whole.int()).abs().max() <= 1


def test_a_schema_without_a_view_is_kept_where_it_tells_of_the_picture(tmp_path: Path):
    tokenizer = tiny(schema=VALUES)
    assert tokenizer.schema == VALUES
    assert tokenizer.decoder.layer is None
    tokenizer.save(tmp_path)
    ids, states = some_ids(tokenizer), torch.rand(2, 1 + STEPS, VALUES.num_values)
    assert torch.equal(VideoTokenizer.load(tmp_path).decode(ids, states), tokenizer.decode(ids, states))
    outcome = Entity(name="episode", fields=(Field(name="reward", kind="flag", role="reward"),))
    silent = tiny(schema=replace(VALUES, entities=(outcome,)))
    assert silent.schema is None
    assert silent.state_dict().keys() == tiny().state_dict().keys()


def test_mistakes_are_answered_with_the_mend(tmp_path):
    tokenizer = tiny()
    with pytest.raises(ValueError, match=r"16x16 RGB frames \(height x width\), got shape .*: resize them first"):
        tokenizer.encode(torch.zeros(1, 5, 8, 8, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"a clip has 1 \+ 4n frames, got 7: drop the last 2"):
        tokenizer.encode(torch.zeros(1, 7, 16, 16, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"clips are \(rows, frames, height, width, 3\), got shape"):
        tokenizer.encode(torch.zeros(5, 16, 16, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"latent frames are \(4, 4\) ids, got shape"):
        tokenizer.decode(torch.zeros(1, 2, 3, 3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"frames are uint8, got torch.float32"):
        tokenizer.encode(torch.zeros(1, 5, 16, 16, 3))
    ids = torch.zeros(1, 2, 4, 4, dtype=torch.long)
    for wrong in (-1, tokenizer.num_codes):
        with pytest.raises(ValueError, match=f"ids are from 0 to {tokenizer.num_codes - 1}, got"):
            tokenizer.decode(ids.index_fill(1, torch.tensor([1]), wrong))
    with pytest.raises(ValueError, match="this cache is of 1 streams, got 2"):
        tokenizer.decode_step(ids[0], tokenizer.start_cache(1))
    with pytest.raises(ValueError, match="resolution 20 is not a multiple of the cell of 8 pixels"):
        VideoTokenizerConfig(resolution=20)
    with pytest.raises(ValueError, match="unknown quantizer 'rvq'; choose from fsq, residual_fsq, vq"):
        QuantizerConfig(kind="rvq")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"no tokenizer.json in .*: give a folder that a tokenizer was exported to"):
        VideoTokenizer.load(tmp_path)
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer.safetensors").unlink()
    with pytest.raises(ValueError, match=r"tokenizer.safetensors is missing .*: export it again"):
        VideoTokenizer.load(tmp_path)
