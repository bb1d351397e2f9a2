"""A world of a few thousand weights, all of them random: nothing stays still in it and everything can be computed."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from gymnasium import spaces
from torch import nn

from tokenizer.action_space import ActionSpace
from tokenizer.state_schema import Entity, Field, StateSchema
from tokenizer.stream import Layout
from tokenizer.text_tokenizer import TextTokenizer
from tokenizer.video_tokenizer import QuantizerConfig, VideoTokenizer, VideoTokenizerConfig
from tokenizer.view import Plane
from tokenizer.vocabulary import Vocabulary
from worldmodel.sampling import Sampling
from worldmodel.state_estimator import StateEstimator, StateEstimatorConfig
from worldmodel.transformer import Dynamics, DynamicsConfig
from worldmodel.world import World

BODY = (
    Field(name="colour", kind="categorical", role="colour", static=True, names=("red", "green", "blue")),
    Field(name="size", kind="continuous", role="size", static=True, low=0.05, high=0.1, bins=4),
    Field(
        name="position", kind="continuous", role="position", unit="m", size=2, low=-0.5, high=0.5, bins=32,
        change=0.2, change_bins=17,
    ),
    Field(
        name="yaw", kind="continuous", role="orientation", unit="rad", low=0, high=1.5, bins=8, periodic=True,
        change=0.4, change_bins=9,
    ),
)  # fmt: skip
PLANE = StateSchema(
    name="plane",
    frames_per_step=2,
    actions=("none", "left", "right"),
    view=Plane(low=(-0.5, 0.5), high=(0.5, -0.5)),
    entities=(
        Entity(name="player", fields=BODY),
        Entity(name="ball", fields=BODY),
        Entity(
            name="episode",
            fields=(
                Field(name="reward", kind="flag", role="reward"),
                Field(name="terminated", kind="flag", role="terminated"),
                Field(name="doors", kind="bits", role="value", size=3),
            ),
        ),
    ),
)
VALUES = replace(PLANE, name="values", view=None)  # that stand nowhere in the picture
STATELESS = StateSchema(name="film", frames_per_step=2, actions=PLANE.actions)
UNSTEERED = StateSchema(name="plain film", frames_per_step=2)
STEERED_TWICE = StateSchema(
    name="two sticks",
    frames_per_step=2,
    actions=ActionSpace(spaces.Dict(turn=spaces.Box(-1, 1, (1,)), jump=spaces.Discrete(2)), bins=3),
)
TOKENIZER = VideoTokenizerConfig(
    resolution=16,
    frames_per_step=2,
    patch=2,
    encoder_width=12,
    encoder_blocks=1,
    decoder_width=12,
    decoder_blocks=3,
    detail_width=8,
    detail_blocks=1,
    quantizer=QuantizerConfig(levels=(4, 4, 3)),
)
DYNAMICS = DynamicsConfig(
    width=48,
    depth=2,
    heads=2,
    window=3,
    anchor_frames=2,
    max_text=6,
    max_event=4,
    tokens_per_pass=(16, 4, 1),
    read_outcome=True,
)
ESTIMATOR = StateEstimatorConfig(resolution=16, width=24, depth=2, heads=2, stem_width=8, stem_depth=1)
LIVELY = Sampling(state_temperature=1.0, video_temperature=1.0)  # every id is a dice throw, not only the likeliest


@cache
def text_tokenizer() -> TextTokenizer:
    return TextTokenizer.train(["a red ball rolls left", "two bodies", "a blue player"], 300)


def shaken(module: nn.Module, strength: float, seed: int = 0) -> Any:
    """Random numbers added to every weight, also where training starts from zeros."""
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += strength * torch.randn(parameter.shape, generator=chance)
    return module


def with_parts(world: World, **changes: Any) -> World:
    """The same world with other parts: ``upsampler=…``, ``estimator=None``."""
    kept = {
        name: getattr(world, name) for name in ("schema", "text", "tokenizer", "dynamics", "upsampler", "estimator")
    }
    return World(**(kept | changes), sampling=world.sampling, engine=world.engine.name)


def tiny_world(
    schema: StateSchema = PLANE, *, sampling: Sampling = LIVELY, end: float = 0.0, words: bool = True, **changes: Any
) -> World:
    """The same weights every time. A step ends the episode with probability ``end``; without ``words`` there is no
    text. ``changes`` go to ``DYNAMICS``."""
    torch.manual_seed(0)
    text = text_tokenizer() if words else None
    changes = changes if words else {"max_text": 0, "max_event": 0} | changes
    tokenizer = shaken(VideoTokenizer(TOKENIZER, schema), 0.1)
    vocabulary = Vocabulary.of(text=text, actions=schema.actions, schema=schema, num_codes=tokenizer.num_codes)
    config = replace(DYNAMICS, **changes)
    layout = Layout.of(vocabulary, schema, tokenizer.grid, config.max_text, config.max_event)
    dynamics = shaken(Dynamics(config, layout, schema), 0.15)
    with torch.no_grad():
        dynamics.copy.bias.zero_()
        for slot in schema.slots:
            if slot.field.role == "terminated":
                odds = torch.tensor([1 - end, end]).clamp_min(1e-30)
                for head in (dynamics.state_head, dynamics.outcome.head):
                    head.weight[slot.offset : slot.offset + 2] = 0
                    head.bias[slot.offset : slot.offset + 2] = odds.log()
    estimator = shaken(StateEstimator(ESTIMATOR, schema), 0.15) if schema.num_values else None
    return World(
        schema=schema, text=text, tokenizer=tokenizer, dynamics=dynamics, estimator=estimator, sampling=sampling
    )
