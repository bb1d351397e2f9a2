"""How the past is kept: a ring of whole steps, and anchors that never leave.

All rows of a batch share one clock; a row that is reset is simply *born* later, and what lies before its
birth is hidden from it. Keys in the ring are rotated by the absolute step and stay valid for ever. Header and
anchors are kept as if at step 0 and turned, each step, to a fixed distance just beyond the window: that is
where training shows them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.rotary import rotate
from worldmodel.transformer import Dynamics, KeysValues, bias_of


@dataclass(frozen=True)
class Past:
    """Pieces of keys and values for one pass, and which of their keys each row may see: bool (B, keys)."""

    pieces: list[KeysValues]
    seen: Tensor


class StepCache:
    """The memory of ``batch`` streams. ``clock`` is the step that comes next; it never wraps.

    It lies in two pieces, so that passes take it as it is: what state slots left (after the header, and anchors
    before the ring), and what video slots left. ``header`` and ``anchors`` keep theirs as if at step 0.
    """

    def __init__(self, dynamics: Dynamics, batch: int, clock: int = 0) -> None:
        config, layout = dynamics.config, dynamics.layout
        self.dynamics, self.clock = dynamics, clock
        self.count = 1 + layout.num_state
        self.steps = config.anchor_frames + config.window
        shape = (config.depth, batch, config.heads)

        def room(*size: int) -> KeysValues:
            empty = torch.zeros(*shape, *size, config.head_dim, device=dynamics.device, dtype=dynamics.dtype)
            return KeysValues(empty, empty.clone())

        self.states = room(layout.header_length + self.steps * self.count)
        self.video = room(self.steps * layout.num_video)
        self.header = room(layout.header_length)
        self.anchors = room(config.anchor_frames, layout.step_length)
        self.born = torch.full((batch,), clock)
        self.header_seen = torch.zeros(batch, layout.header_length, dtype=torch.bool)
        self._far: int | None = None  # the clock for which header and anchors lie turned in the pieces

    def __len__(self) -> int:
        return len(self.born)

    # -- writing ------------------------------------------------------------------------------------

    def _places(self, at: int) -> tuple[slice, slice]:
        """Where the ``at``-th kept step, anchors first, has its slots in both pieces."""
        start, count, ids = self.dynamics.layout.header_length, self.count, self.dynamics.layout.num_video
        return slice(start + at * count, start + (at + 1) * count), slice(at * ids, (at + 1) * ids)

    def _write(self, at: int, step: KeysValues, rows: Tensor | slice = slice(None)) -> None:
        for piece, here, slots in zip(
            (self.states, self.video), self._places(at), (slice(self.count), slice(self.count, None)), strict=True
        ):
            piece.keys[:, rows, :, here] = step.keys[..., slots, :]
            piece.values[:, rows, :, here] = step.values[..., slots, :]

    def begin(self, rows: Tensor, header: KeysValues, header_seen: Tensor, first: KeysValues) -> None:
        """Starts these rows anew: their first step becomes the one before ``clock`` (which must be above 0)."""
        assert self.clock > 0
        self.born[rows.cpu()] = self.clock - 1
        self.replace_header(rows, header, header_seen)
        config = self.dynamics.config
        self._write(config.anchor_frames + (self.clock - 1) % config.window, first, rows)

    def replace_header(self, rows: Tensor, header: KeysValues, header_seen: Tensor) -> None:
        """Puts another header in its place, for rows whose scene was edited."""
        self.header_seen[rows.cpu()] = header_seen.cpu()
        self.header.keys[:, rows], self.header.values[:, rows] = header.keys, header.values
        self._far = None

    def commit(self, step: KeysValues) -> None:
        """Appends one whole step for all rows and moves the clock. Positions count steps, not frames."""
        config = self.dynamics.config
        self._write(config.anchor_frames + self.clock % config.window, step)
        for i in range(config.anchor_frames):
            rows = (self.born + 1 + i == self.clock).nonzero()[:, 0]
            if len(rows):
                cos, sin = self.dynamics.turn(torch.tensor([-self.clock]))
                home = rotate(step.keys[:, rows], cos[0], sin[0])
                self.anchors.keys[:, rows, :, i], self.anchors.values[:, rows, :, i] = home, step.values[:, rows]
        self.clock += 1

    # -- reading ------------------------------------------------------------------------------------

    def place_far(self, kept: KeysValues, step: int) -> KeysValues:
        """Keys kept as if at step 0, turned to just beyond the window of ``step``."""
        cos, sin = self.dynamics.turn(torch.tensor([step - self.dynamics.config.window - 1]))
        return KeysValues(rotate(kept.keys, cos[0], sin[0]), kept.values)

    def _turn_far(self) -> None:
        """Header and anchors to their distance from ``clock``, once a step."""
        if self._far == self.clock:
            return
        header, length = self.place_far(self.header, self.clock), self.dynamics.layout.header_length
        self.states.keys[..., :length, :], self.states.values[..., :length, :] = header.keys, header.values
        if self.dynamics.config.anchor_frames:
            anchors = self.place_far(self.anchors, self.clock)
            for i in range(self.dynamics.config.anchor_frames):
                self._write(i, KeysValues(anchors.keys[..., i, :, :], anchors.values[..., i, :, :]))
        self._far = self.clock

    def past(self) -> Past:
        """What the step at ``clock`` may see of everything before it: state slots' piece, then video slots'."""
        config, layout = self.dynamics.config, self.dynamics.layout
        self._turn_far()
        age = self.clock - 1 - self.born[:, None]  # steps since each row's first
        anchors, slots = torch.arange(config.anchor_frames), torch.arange(config.window)
        # How long ago each slot of the ring was written says who may see it.
        seen = torch.cat([age > config.window + anchors, (self.clock - 1 - slots) % config.window <= age], 1)
        parts = [self.header_seen, seen.repeat_interleave(self.count, 1), seen.repeat_interleave(layout.num_video, 1)]
        return Past([self.states, self.video], torch.cat(parts, 1).to(self.dynamics.device))

    # -- copies -------------------------------------------------------------------------------------

    def clone(self) -> StepCache:
        """An independent copy of all rows."""
        twin = object.__new__(StepCache)
        twin.__dict__.update(self.__dict__)
        for name in ("states", "video", "header", "anchors"):
            kept: KeysValues = getattr(self, name)
            setattr(twin, name, KeysValues(kept.keys.clone(), kept.values.clone()))
        twin.born, twin.header_seen = self.born.clone(), self.header_seen.clone()
        return twin


def pass_bias(past: Past, inside: Tensor) -> Tensor | None:
    """Bias (B, 1, q, keys) of a pass of Q slots, which see each other as ``inside`` (q, Q) says; q is Q, or 1 for all
    alike. None if all is seen, where that lets flash attention run."""
    if past.seen.is_cuda and bool(past.seen.all()) and bool(inside.all()):
        return None
    batch, queries = len(past.seen), len(inside)
    allowed = torch.cat(
        [past.seen[:, None].expand(-1, queries, -1), inside.to(past.seen.device).expand(batch, -1, -1)], 2
    )
    return bias_of(allowed, past.pieces[0].keys.dtype)[:, None]


def join(parts: list[KeysValues]) -> KeysValues:
    """Several passes of one step as a whole."""
    return KeysValues(torch.cat([p.keys for p in parts], 3), torch.cat([p.values for p in parts], 3))
