"""The state estimator's training: what it aims at, what it leaves out, and what becomes of its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tokenizer.state_schema import Entity, Field, StateSchema
from train.export import read_estimator
from train.modules.state_estimator import StateEstimatorModule
from train.worlds.breakout.schema import breakout_schema
from train.worlds.doom.schema import doom_schema

pytestmark = pytest.mark.filterwarnings("ignore:.*`self.trainer` reference is not registered.*")
TINY: dict[str, Any] = {"resolution": 16, "width": 24, "depth": 1, "heads": 2, "stem_width": 16, "stem_depth": 1}
DISC = StateSchema(
    name="disc",
    frames_per_step=2,
    entities=(
        Entity(
            name="disc",
            fields=(
                Field(name="present", kind="flag", role="present", static=True),
                Field(name="position", kind="continuous", role="position", size=2, bins=32),
                Field(name="yaw", kind="continuous", role="orientation", periodic=True, bins=32),
            ),
        ),
    ),
)


def _batch(seed: int, rows: int = 32) -> dict[str, Tensor]:
    """Bright discs on a dark floor, three of four there, that move by nothing."""
    chance = torch.Generator().manual_seed(seed)
    at = 0.2 + 0.6 * torch.rand(rows, 2, generator=chance)
    there = torch.rand(rows, 1, generator=chance) < 0.75
    y, x = torch.meshgrid((torch.arange(16) + 0.5) / 16, (torch.arange(16) + 0.5) / 16, indexing="ij")
    near = (x - at[:, :1, None]).square() + (y - at[:, 1:, None]).square()
    light = (200 * (-near / 0.02).exp() * there[..., None]).byte()
    return {
        "frames": light[:, None, :, :, None].repeat(1, 3, 1, 1, 3),
        "states": torch.cat([there, at * there, torch.zeros(rows, 1)], 1)[:, None].repeat(1, 2, 1),
        "segmentation": (light > 50).byte()[:, None].repeat(1, 3, 1, 1),
    }


class _Batches(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __init__(self, first: int, count: int) -> None:
        self.first, self.count = first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return _batch(self.first + index)


def _loader(first: int, count: int) -> DataLoader[dict[str, Tensor]]:
    return DataLoader(_Batches(first, count), batch_size=None)


def _module(**changes: Any) -> StateEstimatorModule:
    torch.manual_seed(0)
    settings = {"config": TINY, "schema": DISC.to_json(), "total_steps": 150, "warmup_steps": 5, "lr": 1e-2}
    return StateEstimatorModule(**(settings | changes))


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_training_reads_discs_that_it_has_not_seen_and_exports_what_it_learned(tmp_path: Path) -> None:
    trainer = L.Trainer(
        max_steps=150, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    module = _module()
    untrained = trainer.validate(module, _loader(1000, 1), verbose=False)[0]
    trainer.fit(module, _loader(0, 150))
    scores = trainer.validate(module, _loader(1000, 1), verbose=False)[0]
    assert untrained["val/position"] > 0.1
    assert scores["val/position"] < 0.04
    assert scores["val/present"] == 0
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    frames = _batch(1000)["frames"]
    assert read_estimator(tmp_path / "last.ckpt").estimate(frames).equal(module.estimator.eval().estimate(frames))


def test_targets_are_bumps_over_neighbours_that_wrap_where_the_field_does() -> None:
    module = _module(spread=1 / 32)
    torch.testing.assert_close(module.targets.sum(1), torch.ones(len(module.targets)))
    flag, position, yaw = (slot.offset for slot in (module.estimator.slots[i] for i in (0, 1, 3)))
    assert module.targets[flag, flag] == 1
    for first, last in ((position, 0.0), (yaw, module.targets[yaw, yaw + 1].item())):
        row = module.targets[first]
        assert row[first] > row[first + 1] > row[first + 2] > 0
        assert row[first + 31].item() == pytest.approx(last, abs=1e-6)
    assert module.targets[position, yaw : yaw + 32].sum() == 0


def test_what_is_recorded_of_an_absent_body_does_not_count() -> None:
    batch, module = _batch(0), _module(still_share=0.0)
    other = {**batch, "states": torch.where(batch["states"][..., :1] == 0, 0.7, batch["states"])}
    other["states"][..., 0] = batch["states"][..., 0]
    moved = {**batch, "states": batch["states"].clone()}
    moved["states"][..., 1] += 0.1
    assert not other["states"].equal(batch["states"])
    loss = module.training_step(batch, 0)
    assert module.training_step(other, 0) == loss
    assert module.training_step(moved, 0) != loss


def test_a_recording_without_an_entity_map_trains_too() -> None:
    batch, module = _batch(0), _module()
    whole = module.training_step(batch, 0)
    del batch["segmentation"]
    alone = module.training_step(batch, 0)
    assert alone < whole
    alone.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.estimator.parameters())


@pytest.mark.parametrize("schema", [breakout_schema(), doom_schema()], ids=lambda schema: schema.name)
def test_states_of_bits_and_of_no_bodies_are_read_within_their_ranges(schema: StateSchema) -> None:
    module = _module(schema=schema.to_json())
    chance = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 1 + schema.frames_per_step, 16, 16, 3), generator=chance).byte()
    states = torch.rand(2, 2, schema.num_values, generator=chance)
    module.training_step({"frames": frames, "states": states}, 0).backward()
    read = module.estimator.eval().estimate(frames)
    for slot in module.estimator.slots:
        here = read[:, slot.columns]
        if slot.field.kind == "continuous":
            assert here.equal(slot.field.legal(here))
        else:
            assert here.equal(here.round())
            assert here.min() >= 0
            assert here.max() < (len(slot.field.names) or 2)


def test_a_schema_is_needed() -> None:
    with pytest.raises(ValueError, match="needs a schema: name the folder of a recording with states"):
        _module(schema=None)
