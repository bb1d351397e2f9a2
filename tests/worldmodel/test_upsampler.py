"""The upsampler's promises: a stream equals the clip, the past never sees the future, noise has a name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenizer.state_schema import Entity, Field, StateSchema
from tokenizer.view import Orbit
from worldmodel.frame_noise import FrameNoise
from worldmodel.upsampler import StateMotion, Upsampler, UpsamplerConfig

TINY = UpsamplerConfig(resolution=16, width=16, levels=2, depth=1, condition=16)
STEPS, R = 4, 4


def _scene() -> StateSchema:
    def body(name: str) -> Entity:
        return Entity(
            name=name,
            fields=(
                Field(name="present", kind="flag", role="present", static=True),
                Field(name="shape", kind="categorical", role="shape", static=True, names=("ball", "box", "cylinder")),
                Field(name="colour", kind="categorical", role="colour", static=True, names=("red", "green", "blue")),
                Field(name="size", kind="continuous", role="size", static=True, low=0.05, high=0.1, bins=16),
                Field(name="position", kind="continuous", role="position", size=2, low=-0.5, high=0.5, bins=256),
            ),
        )

    camera = Entity(
        name="camera", fields=(Field(name="azimuth", kind="continuous", role="camera", low=-1, high=1, bins=64),)
    )
    light = Entity(
        name="light",
        fields=(Field(name="angle", kind="continuous", role="light", low=-3, high=3, bins=64, periodic=True),),
    )
    view = Orbit(distance=1.6, elevation=0.9, fovy=0.8)
    return StateSchema(name="scene", entities=(body("player"), body("body_1"), camera, light), view=view)


SCENE = _scene()


def _states(batch: int, latent_frames: int) -> Tensor:
    start = torch.zeros(SCENE.num_values)
    for name in ("player", "body_1"):
        start = SCENE.write(start, {name: {"present": True, "size": 0.08, "position": (0.1, -0.2)}})
    moving = torch.zeros(SCENE.num_values)
    for field in ("player.position", "body_1.position", "camera.azimuth", "light.angle"):
        moving[SCENE.columns(*field.split("."))] = 0.1
    return start + moving * torch.randn(batch, latent_frames, SCENE.num_values)


def _upsampler(schema: StateSchema | None = SCENE, kind: torch.dtype = torch.float32) -> Upsampler:
    """Random weights everywhere, also where training starts from zeros."""
    torch.manual_seed(0)
    upsampler = Upsampler(TINY, schema).to(kind).eval()
    for parameter in upsampler.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return upsampler


def _clip(batch: int = 2, steps: int = STEPS) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randint(0, 256, (batch, 1 + R * steps, 16, 16, 3), dtype=torch.uint8), _states(batch, 1 + steps)


SEEDS = torch.tensor([3, 4])


@pytest.mark.parametrize("size", [(96, 64), (64, 112), (128, 72)], ids=lambda size: "x".join(map(str, size)))
@torch.no_grad()
def test_pictures_of_any_size_stream_as_the_whole_clip(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    upsampler = Upsampler(replace(TINY, resolution=size), SCENE).double().eval()
    for parameter in upsampler.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    frames = torch.randint(0, 256, (1, 5, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    states = _states(1, 2).double()
    whole = upsampler(frames, states, SEEDS[:1])
    assert whole.shape == (1, 5, 2 * size[0], 2 * size[1], 3)
    assert upsampler.config.size == whole.shape[2:4]
    cache = upsampler.start_cache(1)
    first = upsampler.step(frames[:, :1], states[:, 0], None, cache, SEEDS[:1])
    rest = upsampler.step(frames[:, 1:], states[:, 1], states[:, 0], cache, SEEDS[:1])
    assert (torch.cat([first, rest], 1).int() - whole.int()).abs().max() <= 1
    with pytest.raises(ValueError, match=rf"uint8 frames \(rows, frames, {size[0]}, {size[1]}, 3\)"):
        upsampler(frames.transpose(2, 3), states, SEEDS[:1])


def test_a_size_that_the_coarsest_level_would_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="16x18 x 2 pixels must be multiples of 8, the side of the coarsest"):
        replace(TINY, resolution=[16, 18])


@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("num_steps", [1, 3])
@pytest.mark.parametrize("chunks", [[17], [1, 4, 4, 4, 4], [1] * 17, [3, 1, 6, 2, 5]])
def test_a_stream_in_any_chunks_equals_the_whole_clip(
    kind: torch.dtype, tolerance: float, num_steps: int, chunks: list[int]
) -> None:
    upsampler = _upsampler(kind=kind)
    frames, states = _clip()
    moved = upsampler.frame_states(states, frames.shape[1])
    with torch.no_grad():
        whole = upsampler.generate(frames, moved, upsampler.start_cache(2), SEEDS, num_steps)
        cache, parts, at = upsampler.start_cache(2), [], 0
        for size in chunks:
            part = slice(at, at + size)
            parts.append(upsampler.generate(frames[:, part], moved[:, part], cache, SEEDS, num_steps))
            at += size
    assert (torch.cat(parts, 1) - whole).abs().max() <= tolerance * whole.abs().max()
    assert cache.frame.tolist() == [17, 17]


def _stream(upsampler: Upsampler, frames: Tensor, states: Tensor, first_frame: int = 0, num_steps: int = 2) -> Tensor:
    cache = upsampler.start_cache(len(frames), first_frame)
    out = [upsampler.step(frames[:, :1], states[:, 0], None, cache, SEEDS, num_steps)]
    for i in range(states.shape[1] - 1):
        step = frames[:, 1 + i * R : 1 + (i + 1) * R]
        out.append(upsampler.step(step, states[:, i + 1], states[:, i], cache, SEEDS, num_steps))
    return torch.cat(out, 1)


def test_steps_make_the_same_pictures_as_a_call_with_the_whole_clip() -> None:
    upsampler = _upsampler()
    frames, states = _clip()
    whole = upsampler(frames, states, SEEDS, num_steps=2)
    assert whole.shape == (2, 17, 32, 32, 3)
    assert whole.dtype == torch.uint8
    difference = (_stream(upsampler, frames, states).int() - whole.int()).abs()
    assert difference.max() <= 1  # a rounding at the edge between two grey levels
    assert difference.float().mean() < 1e-3


def test_chunks_without_a_past_differ_and_one_chunk_is_the_clip() -> None:
    upsampler = _upsampler()
    frames, states = _clip()
    whole = upsampler(frames, states, SEEDS, num_steps=2)
    once = upsampler.in_chunks(frames, states, SEEDS, 2, chunk=17)
    assert (once.int() - whole.int()).abs().max() <= 1
    naive = upsampler.in_chunks(frames, states, SEEDS, 2, chunk=8)
    blended = upsampler.in_chunks(frames, states, SEEDS, 2, chunk=8, overlap=4)
    assert naive.shape == blended.shape == whole.shape
    assert (naive[:, :8].int() - whole[:, :8].int()).abs().max() <= 1
    assert not torch.equal(naive[:, 8], whole[:, 8])
    assert (blended[:, :4].int() - whole[:, :4].int()).abs().max() <= 1
    assert not torch.equal(blended, naive)


def test_a_locked_picture_changes_where_frames_do_and_nowhere_else() -> None:
    upsampler = _upsampler()
    frames, states = _clip(steps=2)
    frames[:] = frames[:, :1]  # nothing moves …
    frames[:, 5:, 4:6, 4:6] += 60  # … but one place, in the second step
    states = states[:, :1].expand(-1, 3, -1)
    cache, free = upsampler.start_cache(2), upsampler.start_cache(2)
    shown, unlocked = [], []
    for i, part in enumerate((slice(0, 1), slice(1, 5), slice(5, 9))):
        step = frames[:, part], states[:, i], states[:, i]
        shown.append(upsampler.step(*step, cache, SEEDS, 2, lock=4.0))
        unlocked.append(upsampler.step(*step, free, SEEDS, 2))
    first, still, moved = shown
    assert (still == first).all()
    assert not torch.equal(unlocked[1], unlocked[0].expand_as(unlocked[1]))  # it would have flickered
    changed = (moved[:, 0] != first[:, 0]).any(-1)
    assert changed[:, 6:14, 6:14].any()
    changed[:, 6:14, 6:14] = False
    assert not changed.any()
    cache.reset([0])
    again = upsampler.step(frames[:, 5:], states[:, 2], states[:, 2], cache, SEEDS, 2, lock=4.0)
    outside = (again[0, 0] != moved[0, -1]).any(-1)
    outside[6:14, 6:14] = False
    assert outside.any()  # it is drawn anew everywhere
    assert torch.equal(again[1, 0], moved[1, -1])


def test_a_world_without_state_streams_too() -> None:
    upsampler = _upsampler(schema=None)
    frames, _ = _clip()
    cache = upsampler.start_cache(2)
    steps = [upsampler.step(part, None, None, cache, SEEDS) for part in frames.split([1, 4, 4, 4, 4], 1)]
    assert (torch.cat(steps, 1).int() - upsampler(frames, seed=SEEDS).int()).abs().max() <= 1
    assert upsampler.layer is None
    assert Upsampler(TINY, StateSchema(name="video")).layer is None


def test_a_later_frame_or_state_changes_nothing_before_it() -> None:
    upsampler = _upsampler()
    frames, states = _clip()
    whole = upsampler(frames, states, SEEDS, num_steps=2)
    changed_frames, changed_states = frames.clone(), states.clone()
    changed_frames[:, 9:] = 255 - changed_frames[:, 9:]
    changed_states[:, 3:] += 0.1
    changed = upsampler(changed_frames, changed_states, SEEDS, num_steps=2)
    assert torch.equal(changed[:, :9], whole[:, :9])
    assert not torch.equal(changed[:, 9], whole[:, 9])


def test_the_past_and_the_state_are_seen() -> None:
    upsampler = _upsampler()
    frames, states = _clip()
    whole = upsampler(frames, states, SEEDS)
    other_past = frames.clone()
    other_past[:, 0] = 0
    assert not torch.equal(upsampler(other_past, states, SEEDS)[:, 1], whole[:, 1])
    for field, value in (("player.position", -0.3), ("camera.azimuth", 0.5), ("light.angle", 2.0)):
        moved = states.clone()
        moved[..., SCENE.columns(*field.split("."))] = value
        assert not torch.equal(upsampler(frames, moved, SEEDS), whole), field


def test_a_reset_row_begins_anew_and_leaves_the_others_alone() -> None:
    upsampler = _upsampler()
    frames, states = _clip()
    moved = upsampler.frame_states(states, 17)
    with torch.no_grad():
        cache = upsampler.start_cache(2)
        upsampler.generate(frames[:, :6], moved[:, :6], cache, SEEDS, 2)
        kept = cache.fork()
        on = (frames[:, 6:10], moved[:, 6:10])
        undisturbed = upsampler.generate(*on, kept, SEEDS, 2)
        cache.reset([1])
        after = upsampler.generate(*on, cache, SEEDS, 2)
        anew = upsampler.generate(*on, upsampler.start_cache(2), SEEDS, 2)
    assert (after[0] - undisturbed[0]).abs().max() < 1e-5
    assert (after[1] - anew[1]).abs().max() < 1e-5
    assert (after[1] - undisturbed[1]).abs().max() > 1e-3
    assert cache.frame.tolist() == [10, 4]


def test_a_cloned_cache_goes_on_alone() -> None:
    upsampler = _upsampler()
    frames, states = _clip()
    cache = upsampler.start_cache(2)
    upsampler.step(frames[:, :1], states[:, 0], None, cache, SEEDS)
    twin = cache.fork()
    first = upsampler.step(frames[:, 1:5], states[:, 1], states[:, 0], cache, SEEDS)
    upsampler.step(frames[:, 5:9], states[:, 2], states[:, 1], cache, SEEDS)
    assert torch.equal(upsampler.step(frames[:, 1:5], states[:, 1], states[:, 0], twin, SEEDS), first)


def test_a_long_stream_keeps_a_constant_past() -> None:
    upsampler = _upsampler()
    frames, states = _clip()
    cache, sizes = upsampler.start_cache(2), []
    for _ in range(5):
        upsampler.step(frames[:, 1:5], states[:, 1], states[:, 0], cache, SEEDS)
        sizes.append(sum(kept.untyped_storage().nbytes() for one in cache.passes for kept in one.past.values()))
    assert len(set(sizes)) == 1


def test_an_untrained_upsampler_without_a_state_is_bicubic_interpolation() -> None:
    frames, _ = _clip()
    low = frames.flatten(0, 1).movedim(-1, 1).double()
    bicubic = torch.nn.functional.interpolate(low, scale_factor=2, mode="bicubic").round().clamp(0, 255)
    out = Upsampler(TINY).eval()(frames, seed=SEEDS)
    assert (out.flatten(0, 1).movedim(-1, 1).double() - bicubic).abs().max() <= 1


# -- noise ------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(-(2**62), 2**62), first=st.integers(0, 2**40), cut=st.integers(1, 6))
def test_noise_depends_on_seed_frame_and_place_alone(seed: int, first: int, cut: int) -> None:
    noise, frames = FrameNoise(), torch.arange(first, first + 7)
    seeds = torch.full_like(frames, seed)
    whole = noise(seeds, frames, (3, 6, 5))
    assert torch.equal(
        torch.cat([noise(seeds[:cut], frames[:cut], (3, 6, 5)), noise(seeds[cut:], frames[cut:], (3, 6, 5))]), whole
    )
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(noise(seeds + 1, frames, (3, 6, 5)), whole)


def test_noise_is_standard_normal_and_uncorrelated() -> None:
    seeds, frames = torch.meshgrid(torch.arange(4), torch.arange(16), indexing="ij")
    values = FrameNoise()(seeds, frames, (3, 64, 64)).double()
    assert abs(values.mean().item()) < 5e-3
    assert abs(values.std().item() - 1) < 5e-3
    assert abs((values**4).mean().item() - 3) < 0.05
    for dim, shift in ((0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (4, 2), (4, 3), (4, 4)):
        assert abs((values * values.roll(shift, dim)).mean().item()) < 5e-3, (dim, shift)


@pytest.mark.gpu
def test_noise_is_the_same_on_a_gpu() -> None:
    seed, frame = torch.arange(8), torch.arange(8) * 1000
    here = FrameNoise()(seed, frame, (3, 128, 128))
    assert torch.equal(FrameNoise().cuda()(seed.cuda(), frame.cuda(), (3, 128, 128)).cpu(), here)


def test_the_seed_changes_one_row_and_the_first_frame_names_the_noise() -> None:
    upsampler = _upsampler()
    frames, states = _clip()
    whole = upsampler(frames, states, SEEDS, 2)
    other = upsampler(frames, states, torch.tensor([3, 5]), 2)
    assert torch.equal(other[0], whole[0])
    assert not torch.equal(other[1], whole[1])
    assert not torch.equal(upsampler(frames, states, SEEDS, 2, first_frame=1), whole)


def test_a_single_step_gives_the_expected_picture_whatever_the_seed() -> None:
    upsampler = _upsampler()
    frames, states = _clip()
    assert torch.equal(upsampler(frames, states, SEEDS), upsampler(frames, states, SEEDS + 7))


# -- states between the frames ------------------------------------------------------------------------------


def test_states_move_evenly_and_the_short_way_round() -> None:
    previous, state = torch.zeros(2, SCENE.num_values)
    x, angle = SCENE.columns("player", "position").start, SCENE.columns("light", "angle").start
    shape = SCENE.columns("player", "shape").start
    previous[x], state[x] = -0.1, 0.1
    previous[angle], state[angle] = 2.8, -2.8
    state[shape] = 2
    moved = StateMotion(SCENE)(previous, state, 4)
    torch.testing.assert_close(moved[:, x], torch.tensor([-0.05, 0.0, 0.05, 0.1]))
    torch.testing.assert_close(moved[:, angle], torch.tensor([2.9, -3.0, -2.9, -2.8]))
    assert moved[:, shape].tolist() == [2, 2, 2, 2]
    assert torch.equal(moved[-1], state)


def test_what_a_cut_has_moved_is_there_at_once_and_all_else_goes_on_evenly() -> None:
    previous, state = torch.zeros(2, SCENE.num_values)
    x, azimuth = SCENE.columns("player", "position").start, SCENE.columns("camera", "azimuth").start
    state[x], previous[azimuth], state[azimuth] = 0.2, -0.5, 0.5
    moved = StateMotion(SCENE)(previous, state, 4)
    assert moved[:, azimuth].tolist() == [0.5] * 4
    torch.testing.assert_close(moved[:, x], torch.tensor([0.05, 0.1, 0.15, 0.2]))


# -- mistakes -----------------------------------------------------------------------------------------------


def test_wrong_input_is_refused_with_a_sentence_that_says_the_mend() -> None:
    upsampler = _upsampler()
    frames, states = _clip()
    with pytest.raises(ValueError, match=r"takes uint8 frames \(rows, frames, 16, 16, 3\).*resize or convert"):
        upsampler(frames[:, :, :8], states)
    with pytest.raises(ValueError, match="takes uint8 frames"):
        upsampler(frames.float(), states)
    with pytest.raises(ValueError, match="told the scene state"):
        upsampler(frames)
    with pytest.raises(ValueError, match=r"scene state must have shape \(2, 1 \+ n, "):
        upsampler(frames, states[..., 1:])
    with pytest.raises(ValueError, match=r"17 frames cannot belong to 4 states"):
        upsampler(frames, states[:, 1:])
    with pytest.raises(ValueError, match="one a row"):
        upsampler.step(frames[:, :1], states[:, 0], None, upsampler.start_cache(2), SEEDS[:1])
    with pytest.raises(ValueError, match="cache holds 3 streams"):
        upsampler.step(frames[:, :1], states[:, 0], None, upsampler.start_cache(3), SEEDS)
    with pytest.raises(ValueError, match="num_steps must be at least 1"):
        upsampler(frames, states, num_steps=0)
    cache = upsampler.start_cache(2)
    upsampler.step(frames[:, :1], states[:, 0], None, cache, SEEDS, 2)
    with pytest.raises(ValueError, match="begun with num_steps=2"):
        upsampler.step(frames[:, 1:5], states[:, 1], states[:, 0], cache, SEEDS, 4)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"patch": 3}, "multiple of the factor"),
        ({"resolution": 20, "levels": 3}, "use fewer levels"),
    ],
)
def test_an_impossible_shape_is_refused(fields: dict[str, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        UpsamplerConfig(**fields)  # type: ignore[arg-type]
