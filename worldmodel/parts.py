"""What a world consists of: its tokenizers, its networks, and that they belong together.

Engines and rollouts take this; who loads, saves and starts worlds stands in ``world.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from tokenizer.action_space import ActionSpace
from tokenizer.state_codec import StateCodec
from tokenizer.state_schema import StateSchema
from tokenizer.text_tokenizer import TextTokenizer
from tokenizer.video_tokenizer import VideoTokenizer
from tokenizer.vocabulary import Vocabulary
from worldmodel.attention import choose_backend
from worldmodel.state_estimator import StateEstimator
from worldmodel.steering import StateLimiter
from worldmodel.transformer import Dynamics
from worldmodel.upsampler import Upsampler


@dataclass(frozen=True, kw_only=True, eq=False)
class WorldParts:
    """The parts of one world, in evaluation mode.

    Attributes:
        text: None for a world without words.
        upsampler: None for a world that is seen at the tokenizer's resolution only.
        estimator: reads states from frames; None for a world that has none, or no state.
        attention: backend name, see ``worldmodel.attention``; "auto" becomes the one that was chosen.

    Raises ValueError when the parts do not belong together.
    """

    schema: StateSchema
    tokenizer: VideoTokenizer
    dynamics: Dynamics
    text: TextTokenizer | None = None
    upsampler: Upsampler | None = None
    estimator: StateEstimator | None = None
    attention: str = "auto"
    attention_reason: str = field(init=False)
    codec: StateCodec = field(init=False)
    limiter: StateLimiter = field(init=False)

    def __post_init__(self) -> None:
        self.vocabulary.check(self.dynamics.layout.vocabulary, "the dynamics")
        self._check()
        for part in self.networks.values():
            part.eval()
        backend, reason = choose_backend(self.attention, self.device, self.dynamics.dtype)
        codec = StateCodec(self.schema).to(self.device)
        limiter = StateLimiter(self.schema, codec).to(self.device)
        for name, value in (
            ("attention", backend),
            ("attention_reason", reason),
            ("codec", codec),
            ("limiter", limiter),
        ):
            object.__setattr__(self, name, value)

    def _check(self) -> None:
        tokenizer, estimator, schema = self.tokenizer, self.estimator, self.schema
        if tokenizer.schema not in (None, schema):
            raise ValueError(
                f"the tokenizer decodes with states of {tokenizer.schema.name!r}, whose schema is not this world's: "
                "export a tokenizer that was trained on the same recording"
            )
        if tokenizer.config.quantizer.said != self.dynamics.config.said:
            raise ValueError(
                "the tokenizer's ids are other codes than those that the dynamics learned: export both from one folder "
                "of tokens"
            )
        if tokenizer.frames_per_step != schema.frames_per_step:
            raise ValueError(
                f"the tokenizer makes {tokenizer.frames_per_step} frames a step and {schema.name!r} has "
                f"{schema.frames_per_step}: train it with frames_per_step {schema.frames_per_step}"
            )
        if estimator is not None and (estimator.schema, estimator.config.size) != (schema, tokenizer.size):
            raise ValueError(
                f"the state estimator reads {estimator.schema.name!r} from {estimator.config.resolution} pixels and "
                "this world shows something else: export one that was trained on the same recording"
            )

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What the ids of all parts mean."""
        return Vocabulary.of(
            text=self.text, actions=self.actions, schema=self.schema, num_codes=self.tokenizer.num_codes
        )

    @cached_property
    def module_names(self) -> dict[nn.Module, str]:
        """Every module of every part, by its own name."""
        return {
            module: f"{part}.{name}"
            for part, network in self.networks.items()
            for name, module in network.named_modules()
        }

    @cached_property
    def fingerprint(self) -> str:
        """The same for the same weights, wherever they were loaded."""
        sha = hashlib.sha256(self.vocabulary.fingerprint.encode())
        for network in self.networks.values():
            for name, weights in network.state_dict().items():
                few = weights.detach().flatten()[:: max(1, weights.numel() // 64)]
                sha.update(f"{name} {tuple(weights.shape)}".encode() + few.float().cpu().numpy().tobytes())
        return sha.hexdigest()

    @property
    def actions(self) -> ActionSpace:
        return self.schema.actions

    @property
    def device(self) -> torch.device:
        return self.dynamics.device

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What has weights, by name."""
        found = {
            "tokenizer": self.tokenizer,
            "dynamics": self.dynamics,
            "upsampler": self.upsampler,
            "estimator": self.estimator,
        }
        return {name: part for name, part in found.items() if part is not None}

    # -- what people give -----------------------------------------------------------------------------

    def encode_captions(self, captions: Sequence[str]) -> Int[Tensor, "B max_text"]:
        """Local text ids (B, max_text), padded with -1.

        Raises ValueError for a caption that is too long, and for any in a world without words.
        """
        if any(captions) and self.text is None:
            raise ValueError("this world was learned without captions and reads none: start it without one")
        return self._encode("caption", captions, self.dynamics.layout.max_text)

    def encode_events(self, events: Sequence[str]) -> Int[Tensor, "B max_event"]:
        """Local text ids (B, max_event), padded with -1. Raises ValueError for what is too long, or told to a world
        that reads captions only."""
        if any(events) and not self.dynamics.layout.max_event:
            raise ValueError("this world reads captions only and can be told nothing in mid-stream: edit its state")
        return self._encode("event", events, self.dynamics.layout.max_event)

    def _encode(self, kind: str, texts: Sequence[str], length: int) -> Tensor:
        out = torch.full((len(texts), length), -1, device=self.device)
        for row, text in enumerate(texts):
            if not _is_unicode(text):
                raise ValueError(f"the {kind} {text!r} has half of a letter, which no text has: leave it out")
            ids = self.text.encode(text) if self.text is not None and text else []
            if len(ids) > length:
                raise ValueError(
                    f"the {kind} takes {len(ids)} tokens and this world reads {length}: shorten it to about "
                    f"{len(text) * length // len(ids)} characters"
                )
            out[row, : len(ids)] = torch.tensor(ids, dtype=torch.long, device=self.device)
        return out

    def checked_state(self, state: Tensor) -> Float[Tensor, " F"]:
        """One state, float32 (num_values,), on the world's device. Raises ValueError for another size, and for values
        that are not finite or far out of their range."""
        if state.shape != (self.schema.num_values,):
            raise ValueError(
                f"a state of {self.schema.name!r} has {self.schema.num_values} values, got shape {tuple(state.shape)}"
            )
        self.schema.refuse_absurd(state)
        return state.to(self.device, torch.float32)

    def checked_frames(self, frames: Tensor) -> UInt8[Tensor, ...]:
        """Frames uint8, on the world's device. Raises ValueError for another type."""
        if frames.dtype != torch.uint8:
            raise ValueError(f"frames are uint8, got {frames.dtype}: multiply by 255 and convert")
        return frames.to(self.device)

    def estimate(self, frames: Tensor) -> Float[Tensor, "B F"]:
        """See ``World.estimate``; frames uint8 (B, T, H, W, 3)."""
        if self.estimator is None:
            raise ValueError("this world has no state estimator: train one (state_estimator/small.yaml) and export it")
        return self.estimator.estimate(self.checked_frames(frames))


def _is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold it, as it can all but lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
