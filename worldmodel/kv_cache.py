"""How the past is kept: a ring of whole steps, and anchors that never leave.

All rows of a batch share one clock; a row that is reset is simply *born* later, and what lies before its
birth is hidden from it. Keys in the ring are rotated by the absolute step and stay valid for ever. Header and
anchors are kept as if at step 0 and turned, each step, to a fixed distance just beyond the window: that is
where training shows them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenizer.causal_conv import pick
from worldmodel.rotary import rotate
from worldmodel.transformer import Dynamics, KeysValues, bias_of


@dataclass(frozen=True)
class Past:
    """What one pass attends to: pieces that state slots left, pieces that video slots left, and which of all their
    keys, in this order, each row may see: bool (B, keys). ``whole``: every row sees them all, as the host knows.
    ``event``: the condition of state slots that an event makes, (B, width), if the world can be told any."""

    states: list[KeysValues]
    video: list[KeysValues]
    seen: Tensor
    whole: bool = False
    event: Tensor | None = None

    @property
    def pieces(self) -> list[KeysValues]:
        return [*self.states, *self.video]

    @property
    def without_video(self) -> Past:
        return replace(self, video=[], seen=self.seen[:, : sum(piece.keys.shape[3] for piece in self.states)])

    def followed_by(self, kept: KeysValues) -> Past:
        """With keys after it that every row may see. Events end here: only the state is conditioned on them."""
        seen = F.pad(self.seen, (0, kept.keys.shape[3]), value=True)
        return replace(self, video=[*self.video, kept], seen=seen, event=None)

    def with_room(self, size: int) -> Past:
        """All in one piece, with room at its end that nobody sees before it is filled."""
        whole = join(self.pieces)
        keys, values = (F.pad(x, (0, 0, 0, size)) for x in (whole.keys, whole.values))
        return Past([], [KeysValues(keys, values)], F.pad(self.seen, (0, size)))

    def fill(self, left: int, new: KeysValues) -> None:
        """Writes keys and values where ``left`` places of the room are left, and shows them."""
        end = self.seen.shape[1]
        slots, room = slice(end - left, end - left + new.keys.shape[3]), self.video[-1]
        room.keys[..., slots, :], room.values[..., slots, :] = new.keys, new.values
        self.seen[:, slots] = True

    def turned(self, cos: Tensor, sin: Tensor) -> Past:
        """With the keys of each part's first piece moved to another step."""
        states, video = ([turn(part[0], cos, sin), *part[1:]] for part in (self.states, self.video))
        return replace(self, states=states, video=video)


def turn(kept: KeysValues, cos: Tensor, sin: Tensor) -> KeysValues:
    return KeysValues(rotate(kept.keys, cos, sin), kept.values)


def beyond_window(dynamics: Dynamics, step: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (1, head_dim) that turn what is far to just beyond the window of ``step``."""
    cos, sin = dynamics.turn(torch.tensor([step - dynamics.config.window - 1]))
    return cos[0, 0], sin[0, 0]


class StepCache:
    """The memory of ``batch`` streams. ``clock`` is the step that comes next; it never wraps, and may begin below 0.

    ``far`` holds header and anchors as if at step 0, ``near`` the ring, each in two pieces: what state slots left and
    what video slots left, for state passes need not look at video. Without ``draw``, there is no room for video.
    """

    def __init__(self, dynamics: Dynamics, batch: int, clock: int = 0, *, draw: bool = True) -> None:
        config, layout = dynamics.config, dynamics.layout
        self.dynamics, self.clock = dynamics, clock
        self.count, self.num_video = layout.num_settled, layout.num_video if draw else 0
        self.start = layout.header_length
        self.shared = False  # keys and values with another cache, so that they are copied before they are written
        shape = (config.depth, batch, config.heads)

        def room(size: int) -> KeysValues:
            empty = torch.zeros(*shape, size, config.head_dim, device=dynamics.device, dtype=dynamics.dtype)
            return KeysValues(empty, empty.clone())

        anchors, window = config.anchor_frames, config.window
        self.far = room(self.start + anchors * self.count), room(anchors * self.num_video)
        self.near = room(config.long * self.count), room(window * self.num_video)
        self.born = torch.full((batch,), clock)
        self.header_seen = torch.zeros(batch, self.start, dtype=torch.bool)
        self.event: Tensor | None = None
        if config.max_event and dynamics.state_painter is not None:
            self.event = torch.zeros(batch, config.width, device=dynamics.device, dtype=dynamics.dtype)

    def __len__(self) -> int:
        return len(self.born)

    # -- writing ------------------------------------------------------------------------------------

    def _write(
        self, part: tuple[KeysValues, KeysValues], at: int, step: KeysValues, rows: Tensor | slice = slice(None)
    ) -> None:
        """Puts a step's slots in their ``at``-th place, or, in a ring, in that of step ``at``."""
        header = self.start if part is self.far else 0
        for piece, start, count, slots in (
            (part[0], header, self.count, slice(self.count)),
            (part[1], 0, self.num_video, slice(self.count, None)),
        ):
            place = start + at * count % (piece.keys.shape[3] - start) if count else start
            here = slice(place, place + count)
            piece.keys[:, rows, :, here] = step.keys[..., slots, :]
            piece.values[:, rows, :, here] = step.values[..., slots, :]

    def begin(self, rows: Tensor, header: KeysValues, header_seen: Tensor, first: KeysValues) -> None:
        """Starts these rows anew: their first step becomes the one before ``clock``."""
        self._own()
        self.born[rows.cpu()] = self.clock - 1
        self.replace_header(rows, header, header_seen)
        self._write(self.near, self.clock - 1, first, rows)

    def replace_header(
        self, rows: Tensor, header: KeysValues, header_seen: Tensor, event: Tensor | None = None
    ) -> None:
        """Puts another header in its place, for rows whose scene was edited or that are told something."""
        self._own()
        self.header_seen[rows.cpu()] = header_seen.cpu()
        if self.event is not None:
            self.event[rows] = self.event.new_zeros(1) if event is None else event
        far = self.far[0]
        far.keys[:, rows, :, : self.start], far.values[:, rows, :, : self.start] = header.keys, header.values

    def forget_events(self) -> None:
        """Hides from every row what one step was told."""
        self.header_seen[:, self.dynamics.layout.scene_end :] = False
        if self.event is not None:
            self.event.zero_()

    def commit(self, step: KeysValues) -> None:
        """Appends one whole step for all rows and moves the clock. Positions count steps, not frames."""
        self._own()
        config = self.dynamics.config
        self._write(self.near, self.clock, step)
        for i in range(config.anchor_frames):
            rows = (self.born + 1 + i == self.clock).nonzero()[:, 0]
            if len(rows):
                cos, sin = self.dynamics.turn(torch.tensor([-self.clock]))
                home = turn(KeysValues(step.keys[:, rows], step.values[:, rows]), cos[0], sin[0])
                self._write(self.far, i, home, rows)
        self.clock += 1

    # -- reading ------------------------------------------------------------------------------------

    def past(self) -> Past:
        """What the step at ``clock`` may see of everything before it, the far pieces yet to be turned."""
        config = self.dynamics.config
        age = self.clock - 1 - self.born[:, None]  # steps since each row's first
        anchored = age > config.window + torch.arange(config.anchor_frames)
        seen = [self.header_seen]
        for size, kept in ((self.count, config.long), (self.num_video, config.window)):
            # How long ago each slot of the ring was written says who may see it.
            recent = (self.clock - 1 - torch.arange(kept)) % kept <= age
            seen += [anchored.repeat_interleave(size, 1), recent.repeat_interleave(size, 1)]
        states, video = zip(self.far, self.near, strict=True)
        shown = torch.cat(seen, 1)
        return Past(list(states), list(video), shown.to(self.dynamics.device), bool(shown.all()), self.event)

    def forget_video(self) -> None:
        """From now on keeps what state slots leave, alone."""
        self.num_video = 0
        for part in ("far", "near"):
            states, video = getattr(self, part)
            setattr(self, part, (states, KeysValues(video.keys[..., :0, :], video.values[..., :0, :])))

    def latest(self) -> KeysValues:
        """What the last step's slots left."""
        pieces = []
        for piece, count in zip(self.near, (self.count, self.num_video), strict=True):
            place = (self.clock - 1) * count % piece.keys.shape[3] if count else 0
            here = slice(place, place + count)
            pieces.append(KeysValues(piece.keys[..., here, :], piece.values[..., here, :]))
        return join(pieces)

    # -- copies -------------------------------------------------------------------------------------

    def fork(self, rows: Tensor | None = None) -> StepCache:
        """An independent copy of all rows, or of these, each as often as it is named. Costs nothing before one of the
        two is written into."""
        twin = StepCache.__new__(StepCache)
        twin.__dict__.update(self.__dict__)
        self.shared = twin.shared = True
        born = slice(None) if rows is None else rows.cpu()
        twin.born, twin.header_seen = self.born[born].clone(), self.header_seen[born].clone()
        twin.far, twin.near = (_both(part, lambda x: pick(x, rows, 1)) for part in (self.far, self.near))
        twin.event = None if self.event is None else pick(self.event, rows).clone()
        return twin

    def _own(self) -> None:
        if self.shared:
            self.far, self.near = (_both(part, Tensor.clone) for part in (self.far, self.near))
            self.shared = False

    def adopt(self, other: StepCache, rows: Tensor) -> None:
        """Takes over another cache's streams, at the same clock, as these rows, in order."""
        assert other.clock == self.clock
        self._own()
        for mine, theirs in zip((*self.far, *self.near), (*other.far, *other.near), strict=True):
            mine.keys[:, rows], mine.values[:, rows] = theirs.keys, theirs.values
        here = rows.cpu()
        self.born[here], self.header_seen[here] = other.born, other.header_seen
        if self.event is not None and other.event is not None:
            self.event[rows] = other.event


def _both(pieces: tuple[KeysValues, KeysValues], of: Callable[[Tensor], Tensor]) -> tuple[KeysValues, KeysValues]:
    first, second = (KeysValues(of(piece.keys), of(piece.values)) for piece in pieces)
    return first, second


def pass_bias(past: Past, inside: Tensor) -> Tensor | None:
    """Bias (B, 1, q, keys) of a pass of Q slots, which see each other as ``inside`` (q, Q) says; q is Q, or 1 if all
    see all. None where all is seen, which lets flash attention run."""
    if past.whole and len(inside) == 1 and inside.is_cuda:
        return None
    batch, queries = len(past.seen), len(inside)
    allowed = torch.cat(
        [past.seen[:, None].expand(-1, queries, -1), inside.to(past.seen.device).expand(batch, -1, -1)], 2
    )
    return bias_of(allowed, past.pieces[0].keys.dtype)[:, None]


def join(parts: list[KeysValues]) -> KeysValues:
    """Several passes of one step as a whole."""
    return KeysValues(torch.cat([p.keys for p in parts], 3), torch.cat([p.values for p in parts], 3))
