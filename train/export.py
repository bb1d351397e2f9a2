"""Turns training checkpoints into what people load: a tokenizer folder, or a whole world.

``python -m train.export --tokenizer runs/tokenizer/last.ckpt --out data/tokenizer``, and later
``python -m train.export --tokenizer data/tokenizer --tokens data/tokens --dynamics runs/video/last.ckpt
[--upsampler runs/upsampler/last.ckpt] [--estimator runs/estimator/last.ckpt] --out worlds/mine``. Averaged weights
are taken where training kept them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizer.state_schema import StateSchema
from tokenizer.video_tokenizer import VideoTokenizer, VideoTokenizerConfig
from train.data.tokens import TokenStore
from train.running.checkpoint import read_checkpoint, take_weights
from train.worlds.registry import of_schema
from train.worlds.registry import recipe as registered
from worldmodel.sampling import Sampling
from worldmodel.state_estimator import StateEstimator, StateEstimatorConfig
from worldmodel.transformer import Dynamics, DynamicsConfig
from worldmodel.upsampler import Upsampler, UpsamplerConfig
from worldmodel.world import World


def _told(saved: Mapping[str, Any], checkpoint: str | Path) -> dict[str, Any]:
    """What a module was made with. Raises ValueError where the checkpoint does not say."""
    if "hyper_parameters" not in saved:
        raise ValueError(f"{checkpoint} is no checkpoint of a run of ours: name the run's last.ckpt")
    return saved["hyper_parameters"]


def _read(checkpoint: str | Path, prefix: str, build: Callable[[dict[str, Any], StateSchema | None], Any]) -> Any:
    """What ``build`` makes of a checkpoint's configuration and schema, with the weights under ``prefix``."""
    saved = read_checkpoint(checkpoint)
    given = _told(saved, checkpoint)
    schema = StateSchema.from_json(given["schema"]) if given.get("schema") else None
    try:
        module = build(given.get("config") or {}, schema)
    except TypeError as error:
        raise ValueError(f"{checkpoint} is of another kind of network ({error}): name the checkpoint of this") from None
    take_weights(module, saved, prefix)
    return module.eval()


def read_tokenizer(checkpoint: str | Path) -> VideoTokenizer:
    """A trained ``TokenizerModule``'s tokenizer."""
    return _read(
        checkpoint, "tokenizer.", lambda config, schema: VideoTokenizer(VideoTokenizerConfig(**config), schema)
    )


def read_upsampler(checkpoint: str | Path) -> Upsampler:
    """A trained ``UpsamplerModule``'s upsampler."""
    return _read(checkpoint, "upsampler.", lambda config, schema: Upsampler(UpsamplerConfig(**config), schema))


def read_estimator(checkpoint: str | Path) -> StateEstimator:
    """A trained ``StateEstimatorModule``'s state estimator."""
    return _read(
        checkpoint,
        "estimator.",
        lambda config, schema: StateEstimator(StateEstimatorConfig(**config), schema or StateSchema(name="unknown")),
    )


_BY_CHANCE = Sampling(video_temperature=1.0, top_p=0.99)


def export_world(
    tokenizer: str | Path,
    tokens: str | Path,
    dynamics: str | Path,
    upsampler: str | Path | None,
    out: str | Path,
    half: bool = False,
    estimator: str | Path | None = None,
    *,
    recipe: str | None = None,
    guidance: float | None = None,
    page: Mapping[str, Any] | None = None,
) -> World:
    """Joins the trained parts and writes a world folder. The tokens' vocabulary must be the dynamics'.

    ``recipe`` names the world that it was learned from, by default the one of this schema: its page and its guidance
    come with the weights, unless another ``guidance`` or ``page`` is given. Where no state is sampled,
    pictures are: the likeliest one always would never serve a ball that may come at any time.
    """
    store, saved = TokenStore(tokens), read_checkpoint(dynamics)
    config = DynamicsConfig(**(_told(saved, dynamics).get("config") or {}))
    network = Dynamics(config, store.layout(config.max_text, config.max_event), store.schema)
    take_weights(network, saved, "dynamics.")
    name = recipe or of_schema(store.schema)
    origin = registered(name) if name else None
    if origin is not None and origin.schema != store.schema:
        raise ValueError(f"the tokens are of {store.schema.name!r} and not of the world {name}: name another recipe")
    if guidance is None:
        guidance = 1.0 if origin is None else origin.guidance
    world = World(
        schema=store.schema,
        text=store.text,
        tokenizer=VideoTokenizer.load(tokenizer).saying(store.said),
        dynamics=network,
        upsampler=None if upsampler is None else read_upsampler(upsampler),
        estimator=None if estimator is None else read_estimator(estimator),
        sampling=replace(Sampling() if store.schema.num_values else _BY_CHANCE, guidance=guidance),
        page=page or ({} if origin is None else origin.page),
        recipe=name or "",
    )
    world.save_pretrained(out, half=half)
    return world


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.export", description=__doc__)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a checkpoint to export, or an exported folder")
    parser.add_argument("--tokens", type=Path, help="token shards that the dynamics was trained on")
    parser.add_argument("--dynamics", type=Path, help="the dynamics' checkpoint: with it, a world is exported")
    parser.add_argument("--upsampler", type=Path, help="the upsampler's checkpoint")
    parser.add_argument("--estimator", type=Path, help="the state estimator's checkpoint")
    parser.add_argument("--world-recipe", help="the world it was learned from: a name, or my_world:RECIPE")
    parser.add_argument("--guidance", type=float, help="how much scenes keep to captions: the recipe's, or 1")
    parser.add_argument("--page", type=Path, help="JSON of what the player shows of it: name, intro, examples, keys")
    parser.add_argument("--half", action="store_true", help="store a world's weights as float16, in half the room")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.dynamics is None:
            read_tokenizer(chosen.tokenizer).save(chosen.out)
        elif chosen.tokens is None or not chosen.tokenizer.is_dir():
            parser.error("a world needs --tokens and --tokenizer as an exported folder")
        else:
            parts = chosen.tokenizer, chosen.tokens, chosen.dynamics, chosen.upsampler
            export_world(
                *parts,
                chosen.out,
                chosen.half,
                chosen.estimator,
                recipe=chosen.world_recipe,
                guidance=chosen.guidance,
                page=None if chosen.page is None else json.loads(chosen.page.read_text(encoding="utf-8")),
            )
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written to {chosen.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
