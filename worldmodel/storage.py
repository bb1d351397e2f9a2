"""How a world is kept: finding it, reading it and writing it.

A world folder holds ``world.json`` (schema, sizes, vocabulary, sampling, page), ``text.model`` where the world has
words, ``tokenizer.json`` and safetensors weights; nothing in it can run code. A bundled world is asked for by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from tokenizer.state_schema import StateSchema
from tokenizer.stream import Layout
from tokenizer.text_tokenizer import TextTokenizer
from tokenizer.video_tokenizer import VideoTokenizer
from tokenizer.vocabulary import Vocabulary
from tokenizer.weights import load_weights, save_weights
from worldmodel.parts import WorldParts
from worldmodel.sampling import Sampling
from worldmodel.state_estimator import StateEstimator, StateEstimatorConfig
from worldmodel.transformer import Dynamics, DynamicsConfig
from worldmodel.upsampler import Upsampler, UpsamplerConfig

BUNDLED = Path(__file__).parent / "worlds"


@dataclass(frozen=True, kw_only=True)
class Release:
    """What goes with a world's parts.

    sampling: how ids are drawn unless a rollout says otherwise. page: what a page shows of it (name, intro, examples,
    keys). recipe: the name of what it was learned from, as ``train.worlds`` takes it; empty where nobody said.
    """

    sampling: Sampling = field(default_factory=Sampling)
    page: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""


def bundled_worlds() -> list[str]:
    """Names of the worlds that come with the package."""
    return sorted(path.parent.name for path in BUNDLED.glob("*/world.json"))


def default_world() -> str:
    """The bundled world that is meant where nobody names one."""
    return json.loads((BUNDLED / "index.json").read_text(encoding="utf-8"))["default"]


def page_of(name: str) -> dict[str, Any]:
    """What a bundled world's page says, without loading the world."""
    return _read_json(BUNDLED / name / "world.json").get("page") or {}


def save(parts: WorldParts, release: Release, folder: str | Path, *, half: bool = False) -> None:
    """Writes a world folder; with ``half``, weights as float16, in half the room.

    A file is complete or absent, so a full disk spoils nothing that was there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if parts.text is not None:
        parts.text.save(folder / "text.model")
    parts.tokenizer.save(folder, half=half)
    for name, part in parts.networks.items():
        if name != "tokenizer":
            save_weights(part, folder / f"{name}.safetensors", half=half)
    about = {
        "schema": parts.schema.to_json(),
        "vocabulary": {**asdict(parts.vocabulary), "fingerprint": parts.vocabulary.fingerprint},
        "dynamics": asdict(parts.dynamics.config),
        "upsampler": None if parts.upsampler is None else asdict(parts.upsampler.config),
        "estimator": None if parts.estimator is None else asdict(parts.estimator.config),
        "sampling": asdict(release.sampling),
        "page": dict(release.page),
        "recipe": release.recipe,
    }
    partial = folder / "world.part"
    partial.write_text(json.dumps(about, indent=1), encoding="utf-8")
    partial.replace(folder / "world.json")


def load(
    name: str | Path | None, *, device: torch.device | str | None = None, attention: str = "auto"
) -> tuple[WorldParts, Release]:
    """Reads a bundled world by name (None: the default one), a world folder, or one from the Hugging Face hub.

    Raises ValueError when there is no such world, or when its files do not belong together.
    """
    folder = find(name)
    about = _read_json(folder / "world.json")
    tokenizer = VideoTokenizer.load(folder)
    try:
        schema = StateSchema.from_json(about["schema"])
        vocabulary = Vocabulary(**{k: v for k, v in about["vocabulary"].items() if k != "fingerprint"})
        config = DynamicsConfig(**about["dynamics"])
        layout = Layout.of(vocabulary, schema, tokenizer.grid, config.max_text, config.max_event)
        dynamics = Dynamics(config, layout, schema)
        upsampler = Upsampler(UpsamplerConfig(**about["upsampler"]), schema) if about.get("upsampler") else None
        size = about.get("estimator")
        estimator = StateEstimator(StateEstimatorConfig(**size), schema) if size else None
        sampling = Sampling(**about.get("sampling", {}))
        release = Release(sampling=sampling, page=about.get("page") or {}, recipe=about.get("recipe") or "")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder / 'world.json'} describes no world ({error}): export it again, with this version"
        ) from None
    text = TextTokenizer.load(folder / "text.model") if vocabulary.text else None
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    for part_name, part in (("dynamics", dynamics), ("upsampler", upsampler), ("estimator", estimator)):
        if part is not None:
            load_weights(part, folder / f"{part_name}.safetensors")
            part.to(device)
    parts = WorldParts(
        schema=schema,
        text=text,
        tokenizer=tokenizer.to(device),
        dynamics=dynamics,
        upsampler=upsampler,
        estimator=estimator,
        attention=attention,
    )
    return parts, release


def find(name: str | Path | None) -> Path:
    """The folder of a world. Raises ValueError when there is none."""
    name = default_world() if name is None else name
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
    bundled = ", ".join(bundled_worlds()) or "none"
    raise ValueError(f"no world at {str(name)!r}: give a folder with a world.json, or a bundled name ({bundled})")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): copy or export it again") from None
