"""The order of things: text, scene, then step after step of action, state and video, as one token stream.

::

    header   <bos> <text> caption </text> <scene> static ids </scene> [<text> event </text>]
    step 0   <step>   | state in absolute ids | video
    step t   action   | state, as changes     | video

Texts take a fixed number of places, padded after ``</text>``, so that a header always has the same length and
every step the same layout. An event is what is told in mid-stream, seen by the one step that it is told to; it
stands in the header, where it knows the scene and where no ring of steps drops it. Nothing outside this file
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
from torch import Tensor

from tokenizer.state_schema import StateSchema
from tokenizer.vocabulary import Vocabulary


class Modality(IntEnum):
    SPECIAL = 0
    TEXT = 1
    ACTION = 2
    STATE = 3
    VIDEO = 4


@dataclass(frozen=True, kw_only=True)
class SceneTokens:
    """One batch of scenes as local ids; what ``pack`` takes and ``unpack`` gives back.

    text: int64 (B, max_text), -1 where there is none; static: (B, S0); actions: (B, T), -1 for "no action
    yet" (only the stream's first step has that); states: (B, T, S), the first absolute, later ones changes;
    video: (B, T, h, w).
    """

    text: Tensor
    static: Tensor
    actions: Tensor
    states: Tensor
    video: Tensor


@dataclass(frozen=True)
class TokenStream:
    """Flat global ids (B, N) with modality (N,), position (N, 3) and where a loss is taken (B, N)."""

    ids: Tensor
    modality: Tensor
    position: Tensor
    loss_mask: Tensor


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Lengths of the stream's parts and where they lie. Without places for an event, none can be told."""

    vocabulary: Vocabulary
    max_text: int
    num_static: int
    num_state: int
    grid: tuple[int, int]
    max_event: int = 0

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
        return 1 + self.num_state + self.num_video

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
        return slice(1, 1 + self.num_state)

    @property
    def step_video(self) -> slice:
        return slice(1 + self.num_state, self.step_length)

    @cached_property
    def header_modality(self) -> Tensor:
        modality = torch.full((self.header_length,), int(Modality.SPECIAL))
        modality[self.header_text] = modality[self.header_event] = int(Modality.TEXT)
        modality[self.header_static] = int(Modality.STATE)
        return modality

    @cached_property
    def step_modality(self) -> Tensor:
        modality = torch.full((self.step_length,), int(Modality.VIDEO))
        modality[0] = int(Modality.ACTION)
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

    def pack_header(self, text: Tensor, static: Tensor, event: Tensor | None = None) -> Tensor:
        """Local text (B, max_text; -1 pads) and static ids (B, S0) to global ids (B, header_length).

        ``event`` (B, max_event; -1 pads) is what is told to a step. Rows of padding alone are told nothing, as by None.
        """
        v, caption = self.vocabulary, self._told(text)
        ends = [v.special(name) for name in ("bos", "scene", "end_scene")]
        bos, scene, end_scene = (caption.new_full((len(caption), 1), end) for end in ends)
        parts = [bos, caption, scene, v.to_global("state", static, validate=False), end_scene]
        if self.max_event:
            event = text.new_full((len(text), self.max_event), -1) if event is None else event
            parts.append(torch.where((event >= 0).any(1, keepdim=True), self._told(event), v.special("pad")))
        return torch.cat(parts, 1)

    def _told(self, text: Tensor) -> Tensor:
        """Local text ids (B, n), -1 after the last, to global ids between their marks (B, n + 2), padded at the end."""
        v = self.vocabulary
        words = torch.where(text >= 0, v.to_global("text", text.clamp_min(0), validate=False), v.special("pad"))
        ids = F.pad(F.pad(words, (1, 0), value=v.special("text")), (0, 1), value=v.special("pad"))
        return ids.scatter(1, (text >= 0).sum(1, keepdim=True) + 1, v.special("end_text"))

    def pack_steps(self, actions: Tensor, states: Tensor, video: Tensor) -> Tensor:
        """Local ids of T steps to global ids (B, T, step_length)."""
        v = self.vocabulary
        acted = v.to_global("action", actions.clamp_min(0), validate=False)
        acted = torch.where(actions >= 0, acted, v.special("step"))[..., None]
        stated, drawn = v.to_global("state", states, validate=False), v.to_global("video", video, validate=False)
        return torch.cat([acted, stated, drawn.flatten(-2)], dim=-1)

    def pack(self, scene: SceneTokens) -> TokenStream:
        """The whole stream, flat."""
        steps = scene.actions.shape[1]
        header = self.pack_header(scene.text, scene.static)
        blocks = self.pack_steps(scene.actions, scene.states, scene.video)
        ids = torch.cat([header, blocks.flatten(1)], 1)
        modality = torch.cat([self.header_modality, self.step_modality.repeat(steps)])
        at = torch.arange(steps).repeat_interleave(self.step_length)[:, None]
        header_at = torch.zeros(self.header_length, 1, dtype=torch.long)
        position = torch.cat(
            [torch.cat([header_at, self.header_place], 1), torch.cat([at, self.step_place.repeat(steps, 1)], 1)]
        )
        predicted = torch.isin(modality, torch.tensor([int(Modality.TEXT), int(Modality.STATE), int(Modality.VIDEO)]))
        loss_mask = predicted.to(ids.device) & (ids != self.vocabulary.special("pad"))
        return TokenStream(ids, modality, position, loss_mask)

    def unpack(self, ids: Tensor) -> SceneTokens:
        """The inverse of ``pack``: flat global ids (B, N) to the scene's local ids."""
        v, rest = self.vocabulary, ids.shape[1] - self.header_length
        if rest < 0 or rest % self.step_length:
            raise ValueError(
                f"a stream is {self.header_length} header ids and whole steps of {self.step_length}; "
                f"{ids.shape[1]} ids are neither"
            )
        header = ids[:, : self.header_length]
        blocks = ids[:, self.header_length :].unflatten(1, (-1, self.step_length))
        text = header[:, self.header_text]
        text = torch.where(text >= v.span("text").start, text - v.span("text").start, -1)
        actions = blocks[..., 0]
        actions = torch.where(actions == v.special("step"), -1, actions - v.span("action").start)
        return SceneTokens(
            text=text,
            static=v.to_local("state", header[:, self.header_static]),
            actions=actions,
            states=v.to_local("state", blocks[..., self.step_state]),
            video=v.to_local("video", blocks[..., self.step_video]).unflatten(-1, self.grid),
        )
