"""The stream's grammar: what is packed comes back, and every token lies where the layout says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer.stream import Layout, Modality, SceneTokens
from tokenizer.vocabulary import RANGES, Range, Vocabulary

counts = st.integers(0, 4)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Layout, SceneTokens]:
    """Scenes of any sizes, also without text, static ids, state or actions."""
    grid = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    size = st.integers(1, 20)
    vocabulary = Vocabulary(text=draw(size), action=draw(size), state=draw(size), video=draw(size))
    layout = Layout(
        vocabulary=vocabulary,
        max_text=draw(counts),
        num_static=draw(counts),
        num_state=draw(counts),
        grid=grid,
    )
    batch, steps = draw(st.integers(1, 3)), draw(st.integers(0, 4))
    chance = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def ids(name: Range, *shape: int) -> torch.Tensor:
        return torch.randint(0, vocabulary.size(name), shape, generator=chance)

    text, actions = ids("text", batch, layout.max_text), ids("action", batch, steps)
    used = draw(st.integers(0, layout.max_text))
    text[:, used:] = -1
    actions[:, : draw(st.integers(0, 1))] = -1
    scene = SceneTokens(
        text=text,
        static=ids("state", batch, layout.num_static),
        actions=actions,
        states=ids("state", batch, steps, layout.num_state),
        video=ids("video", batch, steps, *grid),
    )
    return layout, scene


@settings(deadline=None)
@given(scenes())
def test_what_is_packed_comes_back(given_scene: tuple[Layout, SceneTokens]):
    layout, scene = given_scene
    again = layout.unpack(layout.pack(scene).ids)
    for name in ("text", "static", "actions", "states", "video"):
        assert torch.equal(getattr(again, name), getattr(scene, name)), name


@settings(deadline=None)
@given(scenes())
def test_every_id_belongs_to_the_modality_of_its_place(given_scene: tuple[Layout, SceneTokens]):
    layout, scene = given_scene
    stream, v = layout.pack(scene), layout.vocabulary
    steps = scene.actions.shape[1]
    assert stream.ids.shape[1] == layout.header_length + steps * layout.step_length
    assert len(stream.modality) == len(stream.position) == stream.ids.shape[1]
    kinds = v.modality(stream.ids)
    ranges = {int(Modality[name.upper()]): RANGES.index(name) for name in RANGES}
    expected = torch.tensor([ranges[m] for m in stream.modality.tolist()])
    special = kinds == RANGES.index("special")  # padding and "no action yet" stand in for text and actions
    assert (special | (kinds == expected)).all()
    stands_in = {int(Modality.SPECIAL), int(Modality.TEXT), int(Modality.ACTION)}
    assert set(stream.modality[special.any(0)].tolist()) <= stands_in


@settings(deadline=None)
@given(scenes())
def test_steps_lie_on_their_grid_and_the_header_on_the_diagonal(given_scene: tuple[Layout, SceneTokens]):
    layout, scene = given_scene
    position = layout.pack(scene).position
    header = position[: layout.header_length]
    assert (header[:, 0] == 0).all()
    assert torch.equal(header[:, 1], header[:, 2])
    assert torch.equal(header[:, 1], torch.arange(layout.header_length))
    blocks = position[layout.header_length :].unflatten(0, (-1, layout.step_length)) if scene.actions.shape[1] else None
    if blocks is not None:
        assert torch.equal(blocks[..., 0], torch.arange(len(blocks))[:, None].expand(-1, layout.step_length))
        rows, columns = layout.grid
        cells = blocks[:, layout.step_video, 1:].unflatten(1, (rows, columns))
        assert (cells[..., 0] == torch.arange(rows)[:, None]).all()
        assert (cells[..., 1] == torch.arange(columns)).all()


@settings(deadline=None)
@given(scenes())
def test_a_loss_is_taken_of_text_state_and_video_but_not_of_conditions_and_padding(
    given_scene: tuple[Layout, SceneTokens],
):
    layout, scene = given_scene
    stream = layout.pack(scene)
    header = stream.loss_mask[:, : layout.header_length]
    ended = torch.nn.functional.pad(scene.text >= 0, (1, 0), value=True)[:, :-1]  # a text's end is foreseen too
    assert torch.equal(header[:, layout.header_text], ended)
    assert header[:, layout.header_static].all()
    assert int(header.sum()) == int(ended.sum()) + scene.static.numel()
    blocks = stream.loss_mask[:, layout.header_length :].unflatten(1, (scene.actions.shape[1], layout.step_length))
    assert not blocks[..., 0].any()
    assert blocks[..., 1:].all()


def test_a_stream_that_is_cut_in_a_step_is_refused():
    layout = Layout(vocabulary=Vocabulary(video=3), max_text=1, num_static=0, num_state=0, grid=(2, 2))
    with pytest.raises(ValueError, match="a stream is 6 header ids and whole steps of 5; 13 ids are neither"):
        layout.unpack(torch.zeros(1, 13, dtype=torch.long))
    with pytest.raises(ValueError, match="6 header ids"):
        layout.unpack(torch.zeros(1, 5, dtype=torch.long))


def test_ids_of_another_range_are_refused():
    layout = Layout(vocabulary=Vocabulary(video=3, state=2), max_text=1, num_static=0, num_state=1, grid=(1, 2))
    scene = SceneTokens(
        text=torch.full((1, 1), -1),
        static=torch.zeros(1, 0, dtype=torch.long),
        actions=torch.full((1, 1), -1),
        states=torch.zeros(1, 1, 1, dtype=torch.long),
        video=torch.zeros(1, 1, 1, 2, dtype=torch.long),
    )
    ids = layout.pack(scene).ids
    ids[0, -1] = layout.vocabulary.span("state").start
    with pytest.raises(ValueError, match=r"outside the .* video range"):
        layout.unpack(ids)
