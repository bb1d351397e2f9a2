"""Captions to ids and back: SentencePiece's byte-pair encoding with byte fallback.

Kudo and Richardson, "SentencePiece" (2018). We differ in keeping every string exactly: no normalisation, no
dummy prefix, and the three bytes of U+2581, which SentencePiece itself would give back as a space. Byte pairs
rather than its unigram model, which finds no whole words in a few hundred templated captions.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

_SPACE = "\u2581"  # what SentencePiece writes for a space
_NUM_BYTES = 256
_USUAL = 512  # pieces


class TextTokenizer:
    """Local text ids. Encodes any string; what the captions never held is spelled in bytes.

    ``model`` is a serialized SentencePiece model with byte fallback. Make one with ``train``, or ``load`` it.
    """

    def __init__(self, model: bytes):
        self.model = model
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise ValueError("this is no SentencePiece model: give the bytes of a world's text.model") from error
        size = self._processor.get_piece_size()
        pieces = [self._processor.id_to_piece(i) for i in range(size)]
        self._bytes = [
            bytes([int(piece[3:5], 16)]) if self._processor.is_byte(i) else piece.replace(_SPACE, " ").encode()
            for i, piece in enumerate(pieces)
        ]
        by_byte = {self._bytes[i][0]: i for i in range(size) if self._processor.is_byte(i)}
        if len(by_byte) != _NUM_BYTES:
            raise ValueError("this text model has no byte fallback: train one with TextTokenizer.train")
        self._space_ids = [by_byte[b] for b in _SPACE.encode()]

    @classmethod
    def train(cls, captions: Iterable[str], vocab_size: int | None = None) -> TextTokenizer:
        """Learns at most ``vocab_size`` pieces, 256 of them bytes; by default 512, or as many as the captions' letters
        need. The captions' order does not matter.

        Raises ValueError without captions, or if ``vocab_size`` cannot hold the bytes and the captions' letters.
        """
        lines = sorted(caption for caption in captions if caption.strip())
        if not lines:
            raise ValueError("a text tokenizer needs at least one caption that is not empty")
        letters = set("".join(lines)) - {" "}
        needed = _NUM_BYTES + 2 + len(letters)
        vocab_size = max(_USUAL, needed) if vocab_size is None else vocab_size
        if vocab_size < needed:
            raise ValueError(
                f"vocab_size {vocab_size} is too small for 256 bytes and {len(letters)} different letters: "
                f"use {needed} or more"
            )
        written = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=written,
            model_type="bpe",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            byte_fallback=True,
            character_coverage=1.0,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            num_threads=1,
            minloglevel=2,
        )
        return cls(written.getvalue())

    def __len__(self) -> int:
        return len(self._bytes)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.model).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        """Local ids of any string that UTF-8 can hold."""
        ids: list[int] = []
        for i, part in enumerate(text.split(_SPACE)):
            ids += self._space_ids if i else []
            ids += self._processor.encode(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The string again. Bytes that are no UTF-8, which only a model can sample, become U+FFFD."""
        for i in ids:
            if not 0 <= i < len(self):
                raise ValueError(f"text id {i} is outside [0, {len(self)}): subtract the vocabulary's offset first")
        return b"".join(self._bytes[i] for i in ids).decode(errors="replace")

    def save(self, path: str | Path) -> None:
        Path(path).write_bytes(self.model)

    @classmethod
    def load(cls, path: str | Path) -> TextTokenizer:
        if not Path(path).is_file():
            raise ValueError(f"no text model at {path}: a world's folder holds one named text.model")
        return cls(Path(path).read_bytes())
