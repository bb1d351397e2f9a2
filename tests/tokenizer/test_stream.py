"""The stream's grammar: every token lies where the layout says, and headers hold what they were packed from."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer.stream import Layout, Modality
from tokenizer.vocabulary import Range, Vocabulary

counts = st.integers(0, 4)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Layouts of any sizes, also without text, static ids, state or actions."""
    size = st.integers(0, 20)
    return Layout(
        vocabulary=Vocabulary(text=draw(size), action=draw(size), state=draw(size), video=draw(size)),
        max_text=draw(counts),
        max_event=draw(counts),
        num_static=draw(counts),
        num_state=draw(counts),
        num_action=draw(st.integers(1, 4)),
        grid=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
    )


@settings(deadline=None)
@given(layouts())
def test_every_place_of_a_step_belongs_to_one_part(layout: Layout):
    kinds = layout.step_modality
    assert len(kinds) == layout.step_length == layout.num_action + layout.num_state + layout.num_video
    assert (kinds[: layout.num_action] == Modality.ACTION).all()
    assert (kinds[layout.step_state] == Modality.STATE).all()
    assert (kinds[layout.step_video] == Modality.VIDEO).all()
    assert int((kinds == Modality.STATE).sum()) == layout.num_state
    assert int((kinds == Modality.VIDEO).sum()) == layout.num_video


@settings(deadline=None)
@given(layouts())
def test_steps_lie_on_their_grid_and_the_header_on_the_diagonal(layout: Layout):
    header = layout.header_place
    assert torch.equal(header[:, 0], header[:, 1])
    assert torch.equal(header[:, 0], torch.arange(layout.header_length))
    rows, columns = layout.grid
    cells = layout.step_place[layout.step_video].unflatten(0, (rows, columns))
    assert (cells[..., 0] == torch.arange(rows)[:, None]).all()
    assert (cells[..., 1] == torch.arange(columns)).all()
    assert (layout.step_place[: layout.num_settled] == -1).all()


@settings(deadline=None)
@given(layouts(), st.data())
def test_a_header_holds_its_texts_between_marks_and_padding_after_them(layout: Layout, data: st.DataObject):
    v = layout.vocabulary
    if not v.text or (layout.num_static and not v.state):
        return
    length = data.draw(st.integers(0, layout.max_text))
    text = torch.full((1, layout.max_text), -1)
    text[0, :length] = torch.arange(length) % v.text
    static = torch.zeros(1, layout.num_static, dtype=torch.long)
    ids = layout.pack_header(text, static)[0]
    assert len(ids) == layout.header_length
    assert ids[0] == v.special("bos")
    caption = ids[1 : layout.max_text + 3].tolist()
    words = (text[0, :length] + v.span("text").start).tolist()
    padding = [v.special("pad")] * (layout.max_text - length)
    assert caption == [v.special("text"), *words, v.special("end_text"), *padding]
    assert (ids[layout.header_static] == v.span("state").start).all()
    assert (ids[layout.scene_end :] == v.special("pad")).all()  # nothing is told


@settings(deadline=None)
@given(layouts())
def test_no_action_is_a_step_mark_and_an_action_an_id_of_its_range(layout: Layout):
    v = layout.vocabulary
    assert layout.action_ids(torch.tensor([-1])).item() == v.special("step")
    span = v.span("action")
    for local in range(v.action):
        assert span.start <= layout.action_ids(torch.tensor([local])).item() < span.stop


@settings(deadline=None)
@given(layouts())
def test_unknown_ids_are_masks_and_known_ones_keep_their_range(layout: Layout):
    v = layout.vocabulary
    names: tuple[Range, Range] = ("state", "video")
    for of, name in zip((layout.state_ids, layout.video_ids), names):
        assert of(torch.tensor([-1])).item() == v.special("mask")
        local = torch.arange(v.size(name))
        assert torch.equal(v.to_local(name, of(local)), local)
