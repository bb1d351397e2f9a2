"""The order of things: text, scene, then step after step of action, state and video, as one token stream.

::

    header   <bos> <text> caption </text> <scene> static ids </scene> [<text> event </text>]
    step 0   <step>   | state in absolute ids | video
    step t   action   | state, as changes     | video

An action is one id for each part of the action space (``action_space.py``); where nobody steers, <step> stands in
its place in every step. Texts take a fixed number of places, padded after ``</text>``, so that a header always has the
same length and every step the same layout. An event is what is told in mid-stream, seen by the one step that it is told
to; it stands in the header, where it knows the scene and where no ring of steps drops it. Nothing outside this file
knows the order.

Every token has a modality and a position (step, row, column) for rotary embedding: text and scene lie on
the diagonal, video on its grid, as in multimodal RoPE (Qwen2-VL, arXiv:2409.12191); the state and the action
stand at the grid's corner.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from tokenizer.state_schema import StateSchema
from tokenizer.vocabulary import Vocabulary


class Modality(IntEnum):
    """What kind of token stands at a place."""

    SPECIAL = 0
    TEXT = 1
    ACTION = 2
    STATE = 3
    VIDEO = 4


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Lengths of the stream's parts and where they lie. Without places for an event, none can be told."""

    vocabulary: Vocabulary
    max_text: int
    num_static: int
    num_state: int
    grid: tuple[int, int]
    max_event: int = 0
    num_action: int = 1

    @classmethod
    def of(
        cls, vocabulary: Vocabulary, schema: StateSchema, grid: tuple[int, int], max_text: int, max_event: int = 0
    ) -> Layout:
        """Of a world with this schema, and so many places for a caption and for an event."""
        return cls(
            vocabulary=vocabulary,
            max_text=max_text,
            num_static=len(schema.static_slots),
            num_state=len(schema.slots),
            grid=grid,
            max_event=max_event,
            num_action=max(1, schema.actions.num_parts),
        )

    @property
    def num_video(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def header_length(self) -> int:
        return self.scene_end + (self.max_event + 2 if self.max_event else 0)

    @property
    def scene_end(self) -> int:
        """How much of a header every step sees: all but the event."""
        return self.max_text + self.num_static + 5

    @property
    def step_length(self) -> int:
        return self.num_settled + self.num_video

    @property
    def num_settled(self) -> int:
        """How many ids of a step stand before its video: action and state."""
        return self.num_action + self.num_state

    @property
    def header_text(self) -> slice:
        return slice(2, 2 + self.max_text)

    @property
    def header_static(self) -> slice:
        return slice(4 + self.max_text, 4 + self.max_text + self.num_static)

    @property
    def header_event(self) -> slice:
        return slice(self.scene_end + 1, self.scene_end + 1 + self.max_event)

    @property
    def step_state(self) -> slice:
        return slice(self.num_action, self.num_settled)

    @property
    def step_video(self) -> slice:
        return slice(self.num_settled, self.step_length)

    @cached_property
    def header_modality(self) -> Tensor:
        modality = torch.full((self.header_length,), int(Modality.SPECIAL))
        modality[self.header_text] = modality[self.header_event] = int(Modality.TEXT)
        modality[self.header_static] = int(Modality.STATE)
        return modality

    @cached_property
    def step_modality(self) -> Tensor:
        modality = torch.full((self.step_length,), int(Modality.VIDEO))
        modality[: self.num_action] = int(Modality.ACTION)
        modality[self.step_state] = int(Modality.STATE)
        return modality

    @cached_property
    def header_place(self) -> Tensor:
        """(row, column) of each header token: its index, on the diagonal. int64 (header_length, 2)."""
        return torch.arange(self.header_length)[:, None].expand(-1, 2).contiguous()

    @cached_property
    def step_place(self) -> Tensor:
        """(row, column) of each token of a step: int64 (step_length, 2)."""
        rows, columns = self.grid
        place = torch.full((self.step_length, 2), -1)
        cells = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        place[self.step_video] = cells
        return place

    def cell_order(self, k: int) -> Tensor:
        """Cells in the order in which passes of ``k`` settle them, int64 (num_video,).

        Row by row; of two passes the first settles every other cell, as on a checkerboard, so that the second sees what
        all of its neighbours show.
        """
        cells = torch.arange(self.num_video)
        if 2 * k != self.num_video:
            return cells
        return self.step_place[self.step_video].sum(-1).remainder(2).argsort(stable=True)

    def pack_header(
        self, text: Int[Tensor, "B text"], static: Int[Tensor, "B S0"], event: Int[Tensor, "B event"] | None = None
    ) -> Int[Tensor, "B header"]:
        """Local text (B, max_text; -1 pads) and static ids (B, S0) to global ids (B, header_length).

        ``event`` (B, max_event; -1 pads) is what is told to a step. Rows of padding alone are told nothing, as by None.
        """
        v, caption = self.vocabulary, self._between_marks(text)
        ends = [v.special(name) for name in ("bos", "scene", "end_scene")]
        bos, scene, end_scene = (caption.new_full((len(caption), 1), end) for end in ends)
        parts = [bos, caption, scene, v.to_global("state", static, validate=False), end_scene]
        if self.max_event:
            event = text.new_full((len(text), self.max_event), -1) if event is None else event
            parts.append(torch.where((event >= 0).any(1, keepdim=True), self._between_marks(event), v.special("pad")))
        return torch.cat(parts, 1)

    def _between_marks(self, text: Tensor) -> Tensor:
        """Local text ids (B, n), -1 after the last, to global ids between their marks (B, n + 2), padded at the end."""
        v = self.vocabulary
        words = torch.where(text >= 0, v.to_global("text", text.clamp_min(0), validate=False), v.special("pad"))
        ids = F.pad(F.pad(words, (1, 0), value=v.special("text")), (0, 1), value=v.special("pad"))
        return ids.scatter(1, (text >= 0).sum(1, keepdim=True) + 1, v.special("end_text"))

    def action_ids(self, actions: Int[Tensor, "*b"]) -> Int[Tensor, "*b"]:
        """Local actions (..., num_action), -1 for none, to global ids."""
        v = self.vocabulary
        acted = v.to_global("action", actions, validate=False)
        return torch.where(actions >= 0, acted, v.special("step"))

    def state_ids(self, ids: Int[Tensor, "*b"]) -> Int[Tensor, "*b"]:
        """Local state ids, -1 for one that is not known yet, to global ids."""
        v = self.vocabulary
        return torch.where(ids >= 0, v.to_global("state", ids, validate=False), v.special("mask"))

    def video_ids(self, ids: Int[Tensor, "*b"]) -> Int[Tensor, "*b"]:
        """Local video ids, -1 for one that is not known yet, to global ids."""
        v = self.vocabulary
        return torch.where(ids >= 0, v.to_global("video", ids, validate=False), v.special("mask"))
