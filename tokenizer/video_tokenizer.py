"""Video to ids and back: ``1 + r * n`` pixel frames are ``1 + n`` latent frames of ``h * w`` ids.

The first pixel frame is its own latent frame (it is encoded as ``r`` copies of itself, and of its ``r``
decoded frames the last is kept). Encoding is local in time, decoding is causal, and streaming equals the
whole clip.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from tokenizer.causal_conv import StreamingCache
from tokenizer.frames import said_size
from tokenizer.quantizer import Quantized, Quantizer, QuantizerConfig
from tokenizer.state_embedding import telling_inputs
from tokenizer.state_schema import StateSchema
from tokenizer.video_autoencoder import Decoder, Encoder, FrameStates, VideoTokenizerConfig
from tokenizer.weights import load_weights, refuse_larger, save_weights

__all__ = ["FrameStates", "QuantizerConfig", "Reconstruction", "VideoTokenizer", "VideoTokenizerConfig"]


@dataclass(frozen=True)
class Reconstruction:
    """video: float (B, 1 + r * n, 3, H, W) in [0, 1], unclamped; indices: (B, 1 + n, h, w); loss: the quantizer's.

    drawn: shaped like video, what is drawn of the states alone, over grey; None where there are none.
    """

    video: Float[Tensor, "B frames 3 H W"]
    indices: Int[Tensor, "B T h w"]
    loss: Float[Tensor, ""]
    drawn: Float[Tensor, "B frames 3 H W"] | None = None


class VideoTokenizer(nn.Module):
    """A causal VQ autoencoder of video with exact streaming.

    With a ``schema``, decoding takes the states too, wherever they are known: they are drawn where it has a view, and
    else told to the decoder as they are. One whose states say nothing of the picture is not kept: ``schema`` is that of
    the states that are shown.
    """

    def __init__(self, config: VideoTokenizerConfig, schema: StateSchema | None = None) -> None:
        super().__init__()
        self.config = config
        self.schema = schema if schema is not None and (schema.view or telling_inputs(schema)) else None
        self.quantizer = Quantizer(config.quantizer)
        self.encoder = Encoder(config, self.quantizer.dim)
        self.decoder = Decoder(config, self.quantizer.dim, self.schema)

    @property
    def grid(self) -> tuple[int, int]:
        return self.config.grid

    @property
    def num_codes(self) -> int:
        return self.quantizer.num_codes

    @property
    def frames_per_step(self) -> int:
        return self.config.frames_per_step

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a picture."""
        return self.config.size

    # -- training -----------------------------------------------------------------------------------

    def forward(
        self,
        video: Tensor,
        shown: FrameStates | None = None,
        wrong: Tensor | None = None,
        at: Int[Tensor, "B 2"] | None = None,
    ) -> Reconstruction:
        """Reconstructs float video (B, 1 + r * n, 3, H, W) in [0, 1] with gradients through the quantizer.

        ``wrong`` bool (B, 1 + n, h, w) marks cells that the decoder is given another cell's code for, to learn
        what a rollout's mistakes look like. ``at`` is the row and column of cells at which clips begin that are cut out
        of a picture, in whole cells.
        """
        quantized, batch = self._quantize(video, whole=at is None), len(video)
        codes, ids = (x.unflatten(0, (batch, -1)) for x in (quantized.codes, quantized.indices))
        if wrong is not None:
            others = codes.detach().movedim(2, -1).flatten(0, 3)
            order = torch.randperm(len(others), device=codes.device)
            codes = torch.where(wrong[:, :, None], others[order].view_as(codes.movedim(2, -1)).movedim(-1, 2), codes)
            ids = torch.where(wrong, ids.flatten()[order].view_as(ids), ids)
        drawn = None if shown is None else self.decoder.draw(shown)
        named = None if self.quantizer.noisy and self.training else ids  # noise is between codes
        video = self._join(self.decoder(codes, shown=shown, drawn=drawn, at=at, ids=named)) + 0.5
        alone = None if drawn is None else self._join(drawn[:, :, :, :3]) + 0.5
        return Reconstruction(video, quantized.indices.unflatten(0, (batch, -1)), quantized.loss, alone)

    def _quantize(self, video: Tensor, *, whole: bool = True) -> Quantized:
        r = self.frames_per_step
        if whole and (video.dim() != 5 or video.shape[2:] != (3, *self.size)):
            raise ValueError(
                f"this tokenizer takes clips of {said_size(self.size)} RGB frames (height x width), "
                f"got shape {tuple(video.shape)}: resize them first"
            )
        if (video.shape[1] - 1) % r:
            raise ValueError(
                f"a clip has 1 + {r}n frames, got {video.shape[1]}: drop the last {(video.shape[1] - 1) % r}"
            )
        video = torch.cat([video[:, :1].expand(-1, r - 1, -1, -1, -1), video], 1) - 0.5
        return self.quantizer(self.encoder(rearrange(video, "b (t r) c h w -> (b t) r c h w", r=r)))

    @staticmethod
    def _join(decoded: Tensor) -> Tensor:
        """(B, T, r, 3, H, W) to (B, 1 + r * (T - 1), 3, H, W)."""
        return decoded.flatten(1, 2)[:, decoded.shape[2] - 1 :]

    # -- ids ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Int[Tensor, "B T h w"]:
        """uint8 (B, 1 + r * n, H, W, 3) to local ids int64 (B, 1 + n, h, w). Raises ValueError for any other shape or
        type."""
        if frames.dim() != 5:
            raise ValueError(f"clips are (rows, frames, height, width, 3), got shape {tuple(frames.shape)}")
        if frames.dtype != torch.uint8:
            raise ValueError(f"frames are uint8, got {frames.dtype}: multiply by 255 and convert")
        video = frames.permute(0, 1, 4, 2, 3).to(self._float_kind) / 255
        return self._quantize(video).indices.unflatten(0, (len(frames), -1))

    @torch.no_grad()
    def decode(
        self, ids: Int[Tensor, "B T h w"], states: Float[Tensor, "B T F"] | None = None
    ) -> UInt8[Tensor, "B frames H W 3"]:
        """Local ids (B, 1 + n, h, w) to uint8 frames (B, 1 + r * n, H, W, 3).

        ``states`` (B, 1 + n, num_values) are what the latent frames show, if that is known. Raises ValueError for ids
        that are none of the codebook's.
        """
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.num_codes:
            raise ValueError(f"ids are from 0 to {self.num_codes - 1}, got {int(ids.min())} to {int(ids.max())}")
        shown = None if states is None else FrameStates.of(states)
        return self._to_pixels(self._join(self.decoder(self._codes(ids), shown=shown, ids=ids)))

    # -- streaming ----------------------------------------------------------------------------------

    def start_cache(self, batch: int) -> StreamingCache:
        """An empty past for ``batch`` streams to be decoded step by step."""
        return StreamingCache(batch)

    @torch.no_grad()
    def encode_step(self, frames: UInt8[Tensor, "B r H W 3"]) -> Int[Tensor, "B h w"]:
        """uint8 (B, r, H, W, 3), or (B, 1, H, W, 3) for a stream's first frame, to ids (B, h, w).

        The encoder keeps no past, so there is no cache to pass.
        """
        if frames.shape[1] == 1:
            return self.encode(frames)[:, 0]
        lead = frames[:, :1]  # a first frame that only fills the clip's place for one
        return self.encode(torch.cat([lead, frames], 1))[:, 1]

    @torch.no_grad()
    def decode_step(
        self,
        ids: Int[Tensor, "B h w"],
        cache: StreamingCache,
        state: Float[Tensor, "B F"] | None = None,
        previous: Float[Tensor, "B F"] | None = None,
    ) -> UInt8[Tensor, "B r H W 3"]:
        """Ids of one latent frame (B, h, w) to uint8 (B, r, H, W, 3); of a stream's first, keep the last frame.

        ``state`` (B, num_values) is what it shows at its end, if that is known, and ``previous`` what it began from
        (the same, if left out). Raises ValueError for another number of rows than the cache has.
        """
        if len(ids) != len(cache.fresh):
            raise ValueError(f"this cache is of {len(cache.fresh)} streams, got {len(ids)}: start one of as many")
        shown = None
        if state is not None:
            shown = FrameStates(state[:, None], (state if previous is None else previous)[:, None])
        pixels = self._to_pixels(self.decoder(self._codes(ids[:, None]), cache, shown, ids=ids[:, None])[:, 0])
        cache.advance()
        return pixels

    @property
    def _float_kind(self) -> torch.dtype:
        return self.decoder.place.dtype

    def _codes(self, ids: Tensor) -> Tensor:
        if ids.is_floating_point():
            raise ValueError(f"ids are whole numbers, got {ids.dtype}")
        if ids.shape[2:] != self.grid:
            raise ValueError(f"this tokenizer's latent frames are {self.grid} ids, got shape {tuple(ids.shape)}")
        return self.quantizer.lookup(ids.flatten(0, 1)).unflatten(0, ids.shape[:2]).to(self._float_kind)

    @staticmethod
    def _to_pixels(video: Tensor) -> Tensor:
        return ((video + 0.5) * 255).round().clamp(0, 255).to(torch.uint8).movedim(-3, -1)

    def saying(self, said: Sequence[int]) -> VideoTokenizer:
        """The same tokenizer, in which these codes alone have an id (see ``QuantizerConfig.said``).

        Raises ValueError for a code that has no id here.
        """
        if tuple(said) == self.config.quantizer.said:
            return self
        config = replace(self.config, quantizer=replace(self.config.quantizer, said=tuple(said)))
        ids = {place: i for i, place in enumerate(self.config.quantizer.places)}
        kept = [ids[place] for place in config.quantizer.places if place in ids]
        if len(kept) < config.quantizer.size:
            raise ValueError("this tokenizer does not say all of these codes: take the one that it was made from")
        made = VideoTokenizer(config, self.schema).to(self.decoder.place.device)
        weights = self.state_dict()
        if self.decoder.names is not None:
            weights["decoder.names.weight"] = self.decoder.names.weight[kept]
        made.load_state_dict(weights)
        return made.train(self.training)

    # -- on disk ------------------------------------------------------------------------------------

    def save(self, folder: str | Path, *, half: bool = False) -> None:
        """Writes ``tokenizer.json`` and ``tokenizer.safetensors``, with ``half`` in float16."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        about = {**asdict(self.config), "schema": None if self.schema is None else self.schema.to_json()}
        (folder / "tokenizer.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
        save_weights(self, folder / "tokenizer.safetensors", half=half)

    @classmethod
    def load(cls, folder: str | Path) -> VideoTokenizer:
        """Reads what ``save`` wrote. Raises ValueError when files are missing, broken or of two tokenizers."""
        path = Path(folder) / "tokenizer.safetensors"
        config, schema = read_config(folder)
        refuse_larger(asdict(config), path)
        tokenizer = cls(config, schema)
        load_weights(tokenizer, path)
        return tokenizer.eval()


def read_config(folder: str | Path) -> tuple[VideoTokenizerConfig, StateSchema | None]:
    """The sizes of the tokenizer exported to ``folder``, and the schema of the states it decodes with."""
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"no tokenizer.json in {folder}: give a folder that a tokenizer was exported to")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        schema = about.pop("schema", None)
        return VideoTokenizerConfig(**about), StateSchema.from_json(schema) if schema else None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} describes no tokenizer ({error}): export it again, with this version") from None
