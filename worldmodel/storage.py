"""How a world is kept: finding it, reading it and writing it.

A world folder holds ``world.json`` (schema, sizes, vocabulary, sampling, page), ``text.model`` where the world has
words, ``tokenizer.json`` and safetensors weights; nothing in it can run code. A bundled world is asked for by name.
"""

from __future__ import annotations

import hashlib
import json
import shutil
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
from tokenizer.weights import load_weights, refuse_larger, save_weights
from worldmodel.parts import WorldParts
from worldmodel.sampling import Sampling
from worldmodel.state_estimator import StateEstimator, StateEstimatorConfig
from worldmodel.transformer import Dynamics, DynamicsConfig
from worldmodel.upsampler import Upsampler, UpsamplerConfig

BUNDLED = Path(__file__).parent / "worlds"
_ASIDE = ".writing"
_KNOWN = frozenset(
    ("schema", "vocabulary", "dynamics", "upsampler", "estimator", "sampling", "page", "recipe", "files")
)


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

    All is written aside first, so a full disk or a killed run spoils nothing that was there. ``world.json`` comes last
    and holds a digest of every other file: what was moved in half is not taken for a world.
    """
    folder = Path(folder)
    aside = folder / _ASIDE
    shutil.rmtree(aside, ignore_errors=True)  # what a killed run has left is none of this world's
    aside.mkdir(parents=True)
    try:
        if parts.text is not None:
            parts.text.save(aside / "text.model")
        parts.tokenizer.save(aside, half=half)
        for name, part in parts.networks.items():
            if name != "tokenizer":
                save_weights(part, aside / f"{name}.safetensors", half=half)
        files = sorted(path.name for path in aside.iterdir())
        about = {
            "schema": parts.schema.to_json(),
            "vocabulary": {**asdict(parts.vocabulary), "fingerprint": parts.vocabulary.fingerprint},
            "dynamics": asdict(parts.dynamics.config),
            "upsampler": None if parts.upsampler is None else asdict(parts.upsampler.config),
            "estimator": None if parts.estimator is None else asdict(parts.estimator.config),
            "sampling": asdict(release.sampling),
            "page": dict(release.page),
            "recipe": release.recipe,
            "files": {name: digest(aside / name) for name in files},
        }
        (aside / "world.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
        for name in (*files, "world.json"):
            (aside / name).replace(folder / name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(
    name: str | Path | None, *, device: torch.device | str | None = None, attention: str = "auto"
) -> tuple[WorldParts, Release]:
    """Reads a bundled world by name (None: the default one), a world folder, or one from the Hugging Face hub.

    Raises ValueError when there is no such world, or when its files do not belong together.
    """
    device = usable(device)
    folder = find(name)
    about = _read_json(folder / "world.json")
    if not isinstance(about, dict):
        raise ValueError(f"{folder / 'world.json'} describes no world: export it again, with this version")
    if unknown := sorted(about.keys() - _KNOWN):
        said = f"{folder / 'world.json'} describes no world (it has an unknown {unknown[0]!r})"
        raise ValueError(f"{said}: export it again, with this version")
    tokenizer = VideoTokenizer.load(folder)
    try:
        schema = StateSchema.from_json(about["schema"])
        vocabulary = Vocabulary(**{k: v for k, v in about["vocabulary"].items() if k != "fingerprint"})
        config = DynamicsConfig(**about["dynamics"])
        refuse_larger(asdict(config) | {"codes": len(vocabulary)}, folder / "dynamics.safetensors")
        layout = Layout.of(vocabulary, schema, tokenizer.grid, config.max_text, config.max_event)
        dynamics = Dynamics(config, layout, schema)
        for part_name in ("upsampler", "estimator"):
            if about.get(part_name):
                refuse_larger(about[part_name], folder / f"{part_name}.safetensors")
        upsampler = Upsampler(UpsamplerConfig(**about["upsampler"]), schema) if about.get("upsampler") else None
        size = about.get("estimator")
        estimator = StateEstimator(StateEstimatorConfig(**size), schema) if size else None
        sampling = Sampling(**about.get("sampling", {}))
        files = dict(about.get("files") or {})
        release = Release(sampling=sampling, page=dict(about.get("page") or {}), recipe=about.get("recipe") or "")
    except (KeyError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:  # of whoever is made of it
        raise ValueError(
            f"{folder / 'world.json'} describes no world ({error}): export it again, with this version"
        ) from None
    text = TextTokenizer.load(folder / "text.model") if vocabulary.text else None
    for part_name, part in (("dynamics", dynamics), ("upsampler", upsampler), ("estimator", estimator)):
        if part is not None:
            load_weights(part, folder / f"{part_name}.safetensors")
            part.to(device)
    _refuse_strangers(folder, files)
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


def usable(device: torch.device | str | None) -> torch.device:
    """A device; by default CUDA, where there is one. Raises ValueError for one that this machine does not have."""
    try:
        found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"this machine has no device {str(device)!r} ({said}): choose cpu, or say nothing") from None
    return found


def _refuse_strangers(folder: Path, files: Mapping[str, str]) -> None:
    """Raises ValueError for files that are not those that were written together."""
    for name, known in files.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{name} is missing from {folder}: copy or export it again")
        if digest(path) != known:
            raise ValueError(f"{path} is not the file that world.json was written with: copy or export all again")


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
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): copy or export it again") from None
