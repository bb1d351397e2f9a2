"""The whole of a world: its tokenizers, its dynamics, upsampler, state estimator, and how they are kept on disk.

A world folder holds ``world.json`` (schema, sizes, vocabulary, sampling), ``text.model``, ``tokenizer.json``
and safetensors weights; nothing in it can run code. A bundled world is asked for by name.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokenizer.action_space import ActionSpace
from tokenizer.state_codec import StateCodec
from tokenizer.state_schema import StateSchema
from tokenizer.stream import Layout
from tokenizer.text_tokenizer import TextTokenizer
from tokenizer.video_tokenizer import VideoTokenizer
from tokenizer.vocabulary import Vocabulary
from tokenizer.weights import load_weights, save_weights
from worldmodel.attention import choose_backend
from worldmodel.engines.torch_engine import make_engine
from worldmodel.kv_cache import join
from worldmodel.rollout import Beginning, Rollout, Sampling
from worldmodel.sampling import sample, uniforms
from worldmodel.state_estimator import StateEstimator, StateEstimatorConfig
from worldmodel.steering import StateLimiter
from worldmodel.transformer import Dynamics, DynamicsConfig
from worldmodel.upsampler import Upsampler, UpsamplerConfig

BUNDLED = Path(__file__).parent / "worlds"


class World:
    """A trained world model, ready to start rollouts.

    Args:
        upsampler: None for a world that is seen at the tokenizer's resolution only.
        estimator: reads states from frames; None for a world that has none, or no state.
        attention: backend name, see ``worldmodel.attention``.
        engine: who computes steps: ``torch``, ``openvino`` (CPUs only, with the extra ``fast``) or ``cuda_graph``.

    Raises ValueError when the parts do not speak one vocabulary.
    """

    def __init__(
        self,
        *,
        schema: StateSchema,
        text: TextTokenizer,
        tokenizer: VideoTokenizer,
        dynamics: Dynamics,
        upsampler: Upsampler | None = None,
        estimator: StateEstimator | None = None,
        sampling: Sampling | None = None,
        attention: str = "auto",
        engine: str = "torch",
    ) -> None:
        self.schema, self.text, self.actions = schema, text, ActionSpace(schema.actions)
        self.vocabulary = Vocabulary.of(text=text, actions=self.actions, schema=schema, num_codes=tokenizer.num_codes)
        self.vocabulary.check(dynamics.layout.vocabulary, "the dynamics")
        if tokenizer.schema not in (None, schema):
            raise ValueError(
                f"the tokenizer decodes with states of {tokenizer.schema.name!r}, whose schema is not this world's: "
                "export a tokenizer that was trained on the same recording"
            )
        if estimator is not None and (estimator.schema, estimator.config.resolution) != (schema, tokenizer.resolution):
            raise ValueError(
                f"the state estimator reads {estimator.schema.name!r} from {estimator.config.resolution} pixels and "
                "this world shows something else: export one that was trained on the same recording"
            )
        self.tokenizer, self.dynamics = tokenizer, dynamics
        self.upsampler, self.estimator = upsampler, estimator
        for part in self._parts().values():
            part.eval()
        self.sampling = sampling or Sampling()
        self.codec = StateCodec(schema).to(dynamics.device)
        self.limiter = StateLimiter(schema, self.codec).to(dynamics.device)
        self.attention, self.attention_reason = choose_backend(attention, dynamics.device, dynamics.dtype)
        self.engine = make_engine(engine, self)

    @property
    def device(self) -> torch.device:
        return self.dynamics.device

    @property
    def max_event(self) -> int:
        """How many tokens long what is told in mid-stream may be; 0 where nothing can be told."""
        return self.dynamics.layout.max_event

    def to(self, device: torch.device | str) -> World:
        """Moves every part, in place, and returns the world."""
        for part in self._parts().values():
            part.to(device)
        self.limiter.to(device)  # and the codec in it
        self.attention, self.attention_reason = choose_backend("auto", self.dynamics.device, self.dynamics.dtype)
        self.engine = make_engine(self.engine.name, self)
        return self

    def _parts(self) -> dict[str, nn.Module]:
        optional = {"upsampler": self.upsampler, "estimator": self.estimator}
        present = {name: part for name, part in optional.items() if part is not None}
        return {"tokenizer": self.tokenizer, "dynamics": self.dynamics, **present}

    # -- playing ------------------------------------------------------------------------------------

    def start(
        self,
        caption: str | Sequence[str] | None = None,
        *,
        frames: Tensor | None = None,
        state: Tensor | Mapping[str, Mapping[str, Any]] | None = None,
        seed: int | Sequence[int] = 0,
        batch: int | None = None,
        sampling: Sampling | None = None,
        upsample: bool = False,
    ) -> Rollout:
        """Starts a batch of worlds from captions, from frames or from states; what is not given is sampled.

        Args:
            caption: one for all rows or one for each.
            frames: uint8 (B, 1 + r * n, H, W, 3) or without B: the state is read from them.
            state: float32 (B, num_values) or (num_values,), or ``{entity: {field: value}}``: a part of it, around
                which the rest of every row is sampled.
            seed: of row 0, row i taking ``seed + i``; or one for each row. Same seeds, same rollouts.
            batch: number of rows; by default as many as captions, frames, states or seeds say.

        Raises ValueError for wrong shapes, unknown names, an upsampler that is not there.
        """
        if frames is not None:
            frames = torch.as_tensor(frames)
            frames = frames[None] if frames.dim() == 4 else frames
        if state is not None and not isinstance(state, Mapping):
            state = torch.as_tensor(state)
            state = state[None] if state.dim() == 1 else state
        sizes = {
            "captions": None if caption is None or isinstance(caption, str) else len(caption),
            "frames": None if frames is None else len(frames),
            "states": len(state) if isinstance(state, Tensor) else None,
            "seeds": None if isinstance(seed, int) else len(seed),
        }
        rows = max((n for n in sizes.values() if n is not None), default=1) if batch is None else batch
        if rows < 1:
            raise ValueError(f"a rollout has at least one row, got {rows}")
        for name, size in sizes.items():
            if size is not None and size != rows and not (size == 1 and name != "seeds"):
                raise ValueError(
                    f"{rows} rows were asked for but there are {size} {name}: give one for all or one for each"
                )
        if upsample and self.upsampler is None:
            raise ValueError("this world has no upsampler: start it with upsample=False")

        def of(given: Any, row: int) -> Any:
            return given[row] if len(given) > 1 else given[0]

        beginnings = [
            Beginning(
                caption=caption if isinstance(caption, str) else of(caption, i) if caption else "",
                seed=seed + i if isinstance(seed, int) else seed[i],
                state=of(state, i) if isinstance(state, Tensor) else state,
                frames=None if frames is None else of(frames, i),
            )
            for i in range(rows)
        ]
        return Rollout(self, beginnings, sampling or self.sampling, upsample=upsample)

    def estimate(self, frames: Tensor) -> Tensor:
        """The state that frames show at their end, the likeliest: float32 (B, num_values) in the schema's units.

        Args:
            frames: uint8 (B, T, H, W, 3) or without B. The last ``1 + r`` count; fewer tell less of what moves.

        Raises ValueError for frames of another size or type, and for a world without a state estimator.
        """
        if self.estimator is None:
            raise ValueError("this world has no state estimator: train one (state_estimator/small.yaml) and export it")
        frames = torch.as_tensor(frames)
        return self.estimator.estimate(self.checked_frames(frames[None] if frames.dim() == 4 else frames))

    def encode_captions(self, captions: Sequence[str]) -> Tensor:
        """Local text ids (B, max_text), padded with -1. Raises ValueError for a caption that is too long."""
        return self._encode("caption", captions, self.dynamics.layout.max_text)

    def encode_events(self, events: Sequence[str]) -> Tensor:
        """Local text ids (B, max_event), padded with -1. Raises ValueError for what is too long, or told to a world
        that reads captions only."""
        if any(events) and not self.max_event:
            raise ValueError("this world reads captions only and can be told nothing in mid-stream: edit its state")
        return self._encode("event", events, self.max_event)

    def _encode(self, kind: str, texts: Sequence[str], length: int) -> Tensor:
        out = torch.full((len(texts), length), -1, device=self.device)
        for row, text in enumerate(texts):
            ids = self.text.encode(text)
            if len(ids) > length:
                raise ValueError(
                    f"the {kind} takes {len(ids)} tokens and this world reads {length}: shorten it to about "
                    f"{len(text) * length // len(ids)} characters"
                )
            out[row, : len(ids)] = torch.tensor(ids, dtype=torch.long, device=self.device)
        return out

    @torch.inference_mode()
    def caption(self, state: Tensor, *, seed: int | None = None) -> list[str]:
        """What the model says of scene states, (B, num_values) or (num_values,): a caption for each row.

        The transformer that draws a scene from a caption, read the other way. Word by word the likeliest; with a
        ``seed``, sampled. Raises ValueError for a state of another size.
        """
        states = torch.stack([self.checked_state(row) for row in torch.as_tensor(state).reshape(-1, state.shape[-1])])
        dynamics, layout, v = self.dynamics, self.dynamics.layout, self.vocabulary
        ids = self.schema.encode(states, "static"), self.schema.encode(states, "absolute")
        generators = None if seed is None else [torch.Generator().manual_seed(seed + i) for i in range(len(states))]
        _, past = dynamics.core(*dynamics.scene_prompt(*ids, states), [], None)
        said = torch.full((len(states), 1), v.special("text"), device=self.device)
        text, end = v.span("text"), v.special("end_text")
        while said.shape[1] <= layout.max_text and not bool((said == end).any(1).all()):
            hidden, new = dynamics.core(*dynamics.words(said[:, -1:], said.shape[1] - 1), [past], None)
            past = join([past, new])
            logits = dynamics.header_head(hidden).float()
            likely = torch.cat([logits[..., text], logits[..., end : end + 1]], -1)  # the end after all words
            if generators is None:
                local = likely.argmax(-1)
            else:
                local = sample(likely, 1.0, uniforms(generators, 1, self.device))[0]
            said = torch.cat([said, torch.where(local < len(self.text), local + text.start, end)], 1)
        rows = [row[1 : row.index(end)] if end in row else row[1:] for row in said.tolist()]
        return [self.text.decode([i - text.start for i in row]) for row in rows]

    def checked_state(self, state: Tensor) -> Tensor:
        if state.shape != (self.schema.num_values,):
            raise ValueError(
                f"a state of {self.schema.name!r} has {self.schema.num_values} values, got shape {tuple(state.shape)}"
            )
        return state.to(self.device, torch.float32)

    def checked_frames(self, frames: Tensor) -> Tensor:
        if frames.dtype != torch.uint8:
            raise ValueError(f"frames are uint8, got {frames.dtype}: multiply by 255 and convert")
        return frames.to(self.device)

    # -- on disk ------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path, *, half: bool = False) -> None:
        """Writes the world folder; with ``half``, weights as float16, in half the room.

        A file is complete or absent, so a full disk spoils nothing that was there.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.text.save(folder / "text.model")
        self.tokenizer.save(folder, half=half)
        for name, part in self._parts().items():
            if name != "tokenizer":
                save_weights(part, folder / f"{name}.safetensors", half=half)
        about = {
            "schema": self.schema.to_json(),
            "vocabulary": {**asdict(self.vocabulary), "fingerprint": self.vocabulary.fingerprint},
            "dynamics": asdict(self.dynamics.config),
            "upsampler": None if self.upsampler is None else asdict(self.upsampler.config),
            "estimator": None if self.estimator is None else asdict(self.estimator.config),
            "sampling": asdict(self.sampling),
        }
        partial = folder / "world.part"
        partial.write_text(json.dumps(about, indent=1))
        partial.replace(folder / "world.json")

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: torch.device | str | None = None,
        attention: str = "auto",
        engine: str = "torch",
    ) -> World:
        """Loads a bundled world by name, a world folder, or a world from the Hugging Face hub (``owner/name``).

        Raises ValueError when there is no such world, or when its files do not belong together.
        """
        folder = _find(name)
        about = _read_json(folder / "world.json")
        text, tokenizer = TextTokenizer.load(folder / "text.model"), VideoTokenizer.load(folder)
        try:
            schema = StateSchema.from_json(about["schema"])
            stored = {k: v for k, v in about["vocabulary"].items() if k != "fingerprint"}
            config = DynamicsConfig(**about["dynamics"])
            layout = Layout.of(Vocabulary(**stored), schema, tokenizer.grid, config.max_text, config.max_event)
            dynamics = Dynamics(config, layout, schema)
            upsampler = Upsampler(UpsamplerConfig(**about["upsampler"]), schema) if about.get("upsampler") else None
            size = about.get("estimator")
            estimator = StateEstimator(StateEstimatorConfig(**size), schema) if size else None
            sampling = Sampling(**about.get("sampling", {}))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{folder / 'world.json'} describes no world ({error}): export it again, with this version"
            ) from None
        load_weights(dynamics, folder / "dynamics.safetensors")
        for name, part in (("upsampler", upsampler), ("estimator", estimator)):
            if part is not None:
                load_weights(part, folder / f"{name}.safetensors")
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        for part in (tokenizer, dynamics, upsampler, estimator):
            if part is not None:
                part.to(device)
        return cls(
            schema=schema,
            text=text,
            tokenizer=tokenizer,
            dynamics=dynamics,
            upsampler=upsampler,
            estimator=estimator,
            sampling=sampling,
            attention=attention,
            engine=engine,
        )


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/worldmodel``, else ``~/.cache/worldmodel``, else one in the temporary folder."""
    wished = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(wished) if wished else Path.home() / ".cache") / "worldmodel"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / "worldmodel"
    return folder


def _find(name: str | Path) -> Path:
    for folder in (Path(name), BUNDLED / str(name)):
        if (folder / "world.json").is_file():
            return folder
    if str(name).count("/") == 1 and not Path(name).exists():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(str(name), allow_patterns=["*.json", "*.safetensors", "*.model", "*.md"]))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise ValueError(
                f"no world {str(name)!r} on disk, and the hub did not give one ({type(error).__name__}): "
                "check the name and the network"
            ) from None
    bundled = ", ".join(sorted(p.parent.name for p in BUNDLED.glob("*/world.json"))) or "none"
    raise ValueError(f"no world at {str(name)!r}: give a folder with a world.json, or a bundled name ({bundled})")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): copy or export it again") from None
