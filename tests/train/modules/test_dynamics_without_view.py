"""The dynamics of a state without places learn from tokens as any other's do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tokenizer.quantizer import QuantizerConfig
from tokenizer.state_schema import StateSchema
from train.data.tokens import TokenisedEpisode, TokenStore, TokenWindows, TokenWriter
from train.modules.dynamics import DynamicsModule

from ...worldmodel.test_without_view import ARM, HAND


@pytest.mark.parametrize("schema", [ARM, HAND], ids=["joints", "places in space"])
def test_a_training_step_lowers_the_loss_and_reaches_every_part(schema: StateSchema, tmp_path: Path) -> None:
    torch.manual_seed(0)
    writer = TokenWriter(
        tmp_path, schema=schema, text=None, quantizer=QuantizerConfig(kind="vq", num_codes=4), grid=(2, 2)
    )
    episodes = []
    for i in range(4):
        states = torch.zeros(13, schema.num_values)
        start = schema.columns("arm", "angles").start
        states[:, start] = torch.arange(13) * 0.1 * (i + 1)
        states[:, schema.columns("episode", "reward")] = (states[:, start, None] > 1).float()
        for body in [e.name for e in schema.entities if e.has("size")]:
            states[:, schema.columns(body, "size")] = 0.05
        episodes.append(
            TokenisedEpisode(
                episode=i,
                split="validation" if i == 0 else "train",
                caption="",
                states=states,
                actions=torch.randint(2, (12, 1)),
                video=torch.randint(4, (13, 4)),
            )
        )
    writer.write_shard(episodes)
    writer.close()

    config = {"width": 48, "depth": 1, "heads": 2, "window": 2, "tokens_per_pass": [4], "read_outcome": True}
    module = DynamicsModule(str(tmp_path), config)
    windows = TokenWindows(TokenStore(tmp_path), "train", num_blocks=5, max_text=0)
    items = [windows[i] for i in range(6)]
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    optimizer = torch.optim.AdamW(module.parameters(), 3e-3)
    losses = []
    for _ in range(20):
        parts = module.losses(batch, 4, disturb=False)
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
        losses.append(parts["loss"].item())
    assert losses[-1] < 0.7 * losses[0]
    for name, weight in module.dynamics.named_parameters():
        if name.startswith(("state_painter.own", "outcome.")):
            assert weight.grad is not None, name
            assert weight.grad.abs().sum() > 0, name
