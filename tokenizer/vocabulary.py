"""One flat vocabulary of named, disjoint ranges. The only place that adds offsets to ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from tokenizer.action_space import ActionSpace
from tokenizer.state_schema import StateSchema
from tokenizer.text_tokenizer import TextTokenizer

Range = Literal["special", "text", "action", "state", "video"]
RANGES: tuple[Range, ...] = get_args(Range)
MOST = 2**31  # ids of a range
SPECIALS = ("pad", "bos", "text", "end_text", "scene", "end_scene", "step", "mask", "read")


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """How many local ids each range holds, and what they mean.

    ``text_model`` and ``schema`` are hashes: two vocabularies of equal sizes are still different if the text
    model or the scene schema differs. A range may be empty (a world without text, actions or state).
    """

    text: int = 0
    action: int = 0
    state: int = 0
    video: int = 0
    text_model: str = ""
    schema: str = ""
    specials: tuple[str, ...] = SPECIALS

    def __post_init__(self) -> None:
        object.__setattr__(self, "specials", tuple(self.specials))
        for name in RANGES:
            if not 0 <= self.size(name) <= MOST:
                count = f"the {name} range cannot hold {self.size(name)} ids"
                raise ValueError(f"{count}: give 0 to {MOST}, and 0 for a world without it")

    @classmethod
    def of(
        cls,
        *,
        text: TextTokenizer | None = None,
        actions: ActionSpace | None = None,
        schema: StateSchema | None = None,
        num_codes: int = 0,
    ) -> Vocabulary:
        """The vocabulary that these tokenizers and a codebook of ``num_codes`` speak together."""
        return cls(
            text=len(text) if text else 0,
            action=actions.num_ids if actions else 0,
            state=schema.num_local_ids if schema else 0,
            video=num_codes,
            text_model=text.fingerprint if text else "",
            schema=_short_hash(schema.to_json()) if schema else "",
        )

    def __len__(self) -> int:
        return sum(self.size(name) for name in RANGES)

    def size(self, name: Range) -> int:
        if name not in RANGES:
            raise ValueError(f"no range {name!r} in the vocabulary; it has {', '.join(RANGES)}")
        return len(self.specials) if name == "special" else getattr(self, name)

    def span(self, name: Range) -> slice:
        """The range's global ids."""
        size = self.size(name)
        start = sum(self.size(before) for before in RANGES[: RANGES.index(name)])
        return slice(start, start + size)

    def special(self, name: str) -> int:
        """Global id of a special token, such as ``"bos"``."""
        if name not in self.specials:
            raise ValueError(f"no special token {name!r}; there are {', '.join(self.specials)}")
        return self.specials.index(name)

    def to_global(self, name: Range, local: Tensor, *, validate: bool = True) -> Tensor:
        """Local ids, any shape, to global ones. Raises ValueError if an id lies outside the range.

        ``validate=False`` saves a synchronisation where the ids are in range by construction.
        """
        if validate:
            self._require(name, local, 0)
        return local + self.span(name).start

    def to_local(self, name: Range, ids: Tensor, *, validate: bool = True) -> Tensor:
        """Global ids, any shape, to the range's local ones. Raises ValueError if one belongs to another range."""
        start = self.span(name).start
        if validate:
            self._require(name, ids, start)
        return ids - start

    def _require(self, name: Range, ids: Tensor, start: int) -> None:
        if ids.is_floating_point() or ids.dtype == torch.bool:
            raise ValueError(f"{name} ids must be whole numbers, got {ids.dtype}: convert them with .long()")
        stop = start + self.size(name)
        if ids.numel() and not (start <= ids.min() and ids.max() < stop):
            wrong = ids[(ids < start) | (ids >= stop)].flatten()[0].item()
            kind = "global" if start else "local"
            raise ValueError(f"id {wrong} is outside the {kind} {name} range [{start}, {stop})")

    # -- identity -----------------------------------------------------------------------------------

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that differ if any id could mean something else."""
        return _short_hash(self.to_json())

    def check(self, other: Vocabulary, what: str = "the data") -> None:
        """Raises ValueError, naming what differs and the mend, unless ``other``'s ids mean what ours mean."""
        if self.fingerprint == other.fingerprint:
            return
        mine, theirs = self.to_json(), other.to_json()
        words = {"text_model": "text model", "schema": "scene schema", "specials": "special tokens"}
        differing = ", ".join(words.get(key, f"{key} ids") for key in mine if mine[key] != theirs[key])
        raise ValueError(
            f"{what} speaks another vocabulary ({other.fingerprint}) than this world ({self.fingerprint}): {differing} "
            "differ; make it again with this world's tokenizers, or load the world that it was made with"
        )

    def to_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Vocabulary:
        return cls(**data)


def _short_hash(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
