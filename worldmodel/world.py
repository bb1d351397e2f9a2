"""A trained world, as people take it in hand: load it, start it, ask what it sees and says, save it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenizer.action_space import ActionSpace
from tokenizer.state_schema import StateSchema
from tokenizer.text_tokenizer import TextTokenizer
from tokenizer.video_tokenizer import VideoTokenizer
from tokenizer.vocabulary import Vocabulary
from worldmodel import storage
from worldmodel.beginning import Beginning
from worldmodel.engines.choice import make_engine
from worldmodel.kv_cache import join
from worldmodel.parts import WorldParts
from worldmodel.rollout import Rollout
from worldmodel.sampling import Sampling, sample, tensor_of, uniforms, whole
from worldmodel.state_estimator import StateEstimator
from worldmodel.storage import Release
from worldmodel.threads import keep_memory
from worldmodel.transformer import Dynamics
from worldmodel.upsampler import Upsampler


class World:
    """A trained world model, ready to start rollouts.

    Args:
        text: None for a world that was learned without captions.
        upsampler: None for a world that is seen at the tokenizer's resolution only.
        estimator: reads states from frames; None for a world that has none, or no state.
        sampling: how ids are drawn unless a rollout says otherwise.
        attention: backend name, see ``worldmodel.attention``.
        engine: who computes steps: ``torch``, ``openvino`` (CPUs only, with the extra ``fast``) or ``cuda_graph``.
        page: what a page shows of it: name, intro, examples, keys.
        recipe: the name of what it was learned from, as ``train.worlds`` takes it.

    Raises ValueError when the parts do not belong together.
    """

    source: Path | None = None  # the folder that it was loaded from

    def __init__(
        self,
        *,
        schema: StateSchema,
        tokenizer: VideoTokenizer,
        dynamics: Dynamics,
        text: TextTokenizer | None = None,
        upsampler: Upsampler | None = None,
        estimator: StateEstimator | None = None,
        sampling: Sampling | None = None,
        attention: str = "auto",
        engine: str = "torch",
        page: Mapping[str, Any] | None = None,
        recipe: str = "",
    ) -> None:
        parts = WorldParts(
            schema=schema,
            text=text,
            tokenizer=tokenizer,
            dynamics=dynamics,
            upsampler=upsampler,
            estimator=estimator,
            attention=attention,
        )
        self._hold(parts, Release(sampling=sampling or Sampling(), page=page or {}, recipe=recipe), engine)

    def _hold(self, parts: WorldParts, release: Release, engine: str) -> None:
        self.parts, self.release = parts, release
        self.engine = make_engine(engine, parts)

    # -- what it is made of ---------------------------------------------------------------------------

    @property
    def schema(self) -> StateSchema:
        return self.parts.schema

    @property
    def actions(self) -> ActionSpace:
        return self.parts.actions

    @property
    def vocabulary(self) -> Vocabulary:
        return self.parts.vocabulary

    @property
    def text(self) -> TextTokenizer | None:
        return self.parts.text

    @property
    def tokenizer(self) -> VideoTokenizer:
        return self.parts.tokenizer

    @property
    def dynamics(self) -> Dynamics:
        return self.parts.dynamics

    @property
    def upsampler(self) -> Upsampler | None:
        return self.parts.upsampler

    @property
    def estimator(self) -> StateEstimator | None:
        return self.parts.estimator

    @property
    def sampling(self) -> Sampling:
        return self.release.sampling

    @property
    def page(self) -> Mapping[str, Any]:
        return self.release.page

    @property
    def recipe(self) -> str:
        return self.release.recipe

    @property
    def device(self) -> torch.device:
        return self.parts.device

    @property
    def plays_itself(self) -> bool:
        """Whether a step without an action does what is likely to be done."""
        return self.dynamics.action_prior is not None

    @property
    def max_event(self) -> int:
        """How many tokens long what is told in mid-stream may be; 0 where nothing can be told."""
        return self.dynamics.layout.max_event

    def to(self, device: torch.device | str) -> World:
        """Moves every part, in place, and returns the world."""
        for part in self.parts.networks.values():
            part.to(device)
        self._hold(replace(self.parts, attention="auto"), self.release, self.engine.name)
        return self

    # -- playing --------------------------------------------------------------------------------------

    def start(
        self,
        caption: str | Sequence[str] | None = None,
        *,
        frames: Tensor | None = None,
        actions: Sequence[Any] | None = None,
        state: Tensor | Mapping[str, Mapping[str, Any]] | None = None,
        seed: int | Sequence[int] = 0,
        batch: int | None = None,
        sampling: Sampling | None = None,
        upsample: bool = False,
        draw: bool = True,
        doubt: bool = False,
    ) -> Rollout:
        """Starts a batch of worlds from captions, from frames or from states; what is not given is sampled.

        Args:
            caption: one for all rows or one for each.
            frames: uint8 (B, 1 + r * n, H, W, 3) or without B. All of them are taken in: the world goes on where they
                end, with what they showed in its memory. The state is read from them.
            actions: what was done between the frames, n of them, the same in all rows; left out where it is not known.
            state: float32 (B, num_values) or (num_values,), or ``{entity: {field: value}}``: a part of it, around
                which the rest of every row is sampled.
            seed: of row 0, row i taking ``seed + i``; or one for each row. Same seeds, same rollouts.
            batch: number of rows; by default as many as captions, frames, states or seeds say.
            upsample: whether steps also give upsampled frames.
            draw: whether steps give frames. The state goes the same way without, in less time.
            doubt: whether steps say how sure they were.

        Raises ValueError for wrong shapes, unknown names, an upsampler that is not there, and where nothing is to be
        drawn though the state, reward or end is read from pictures.
        """
        if frames is not None:
            frames = tensor_of("frames", frames)
            frames = frames[None] if frames.dim() == 4 else frames
        elif actions is not None:
            raise ValueError("actions are those that were taken between frames: give the frames too")
        if state is not None and not isinstance(state, Mapping):
            state = tensor_of("state", state)
            state = state[None] if state.dim() == 1 else state
        said = caption if isinstance(caption, list | tuple) else [caption]
        if not all(one is None or isinstance(one, str) for one in said):
            raise ValueError(f"a caption is a text, or a list of one for each row, got {caption!r}")
        first = whole("seed", seed, 0) if np.ndim(seed) == 0 else None  # type: ignore[arg-type]
        sizes = {
            "captions": None if caption is None or isinstance(caption, str) else len(caption),
            "frames": None if frames is None else len(frames),
            "states": len(state) if isinstance(state, Tensor) else None,
            "seeds": None if first is not None else len(seed),  # type: ignore[arg-type]
        }
        rows = max((n for n in sizes.values() if n is not None), default=1)
        rows = whole("batch", rows if batch is None else batch, 0)
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
                caption=caption if isinstance(caption, str) else of(caption, i) or "" if caption else "",
                seed=seed[i] if first is None else first + i,  # type: ignore[index]
                state=of(state, i) if isinstance(state, Tensor) else state,
                frames=None if frames is None else of(frames, i),
                actions=actions,
            )
            for i in range(rows)
        ]
        asked = {"upsample": upsample, "draw": draw, "doubt": doubt}
        return Rollout(self.parts, self.engine, beginnings, sampling or self.sampling, **asked)

    def estimate(self, frames: Tensor) -> Tensor:
        """The state that frames show at their end, the likeliest: float32 (B, num_values) in the schema's units.

        Args:
            frames: uint8 (B, T, H, W, 3) or without B. The last ``1 + r`` count; fewer tell less of what moves.

        Raises ValueError for frames of another size or type, and for a world without a state estimator.
        """
        frames = torch.as_tensor(frames)
        return self.parts.estimate(frames[None] if frames.dim() == 4 else frames)

    @torch.inference_mode()
    def caption(self, state: Tensor, *, seed: int | None = None) -> list[str]:
        """What the model says of scene states, (B, num_values) or (num_values,): a caption for each row.

        The transformer that draws a scene from a caption, read the other way. Word by word the likeliest; with a
        ``seed``, sampled. Raises ValueError for a state of another size, and in a world without words or state.
        """
        text_tokenizer = self.text
        if text_tokenizer is None or not self.schema.num_values:
            missing = "words" if text_tokenizer is None else "state"
            raise ValueError(f"this world has no {missing}, so it cannot put a scene into words")
        rows = torch.as_tensor(state).reshape(-1, state.shape[-1])
        states = torch.stack([self.parts.checked_state(row) for row in rows])
        dynamics, layout, v = self.dynamics, self.dynamics.layout, self.vocabulary
        ids = self.parts.codec.encode(states, "static"), self.parts.codec.encode(states, "absolute")
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
            said = torch.cat([said, torch.where(local < len(text_tokenizer), local + text.start, end)], 1)
        spoken = [row[1 : row.index(end)] if end in row else row[1:] for row in said.tolist()]
        return [text_tokenizer.decode([i - text.start for i in row]) for row in spoken]

    # -- on disk --------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path, *, half: bool = False) -> None:
        """Writes the world folder (see ``storage.py``); with ``half``, weights as float16, in half the room."""
        storage.save(self.parts, self.release, folder, half=half)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path | None = None,
        *,
        device: torch.device | str | None = None,
        attention: str = "auto",
        engine: str = "torch",
    ) -> World:
        """Loads a bundled world by name (None: the default one), a world folder, or a world from the Hugging Face hub
        (``owner/name``).

        Raises ValueError when there is no such world, or when its files do not belong together.
        """
        keep_memory()
        world, folder = cls.__new__(cls), storage.find(name).resolve()
        world._hold(*storage.load(folder, device=device, attention=attention), engine)
        world.source = folder
        return world

    # -- copies ---------------------------------------------------------------------------------------

    def __deepcopy__(self, memo: Any) -> World:
        return self  # its weights are never written into

    def __getstate__(self) -> dict[str, Any]:
        """A world that was loaded is its folder; another is its parts."""
        how = {"engine": self.engine.name, "device": str(self.device)}
        if self.source is not None:
            return how | {"source": self.source}
        return how | {"parts": self.parts, "release": self.release}

    def __setstate__(self, state: dict[str, Any]) -> None:
        source = state.get("source")
        if source is not None:
            loaded = World.from_pretrained(source, device=state["device"], engine=state["engine"])
            self.__dict__.update(loaded.__dict__)
        else:
            self._hold(state["parts"], state["release"], state["engine"])
