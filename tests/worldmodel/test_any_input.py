"""Whatever goes in, it either works, or is refused by a ValueError or TypeError that changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worldmodel.rollout import Rollout
from worldmodel.sampling import Sampling
from worldmodel.world import World

from .tiny_world import tiny_world

WORLD = tiny_world()
BEGUN = WORLD.start("a blue player", seed=[1, 2])
REFUSED = (ValueError, TypeError)
NAMES = ("player", "ball", "episode", "position", "colour", "yaw", "doors", "reward", "red", "left", "two bodies")
EXAMPLES = 500
ANY = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 4), st.sampled_from([10**400, 2**63, -(2**70)]),
    st.floats(), st.floats(-1, 1), st.sampled_from(NAMES), st.text(max_size=8), st.sampled_from(["\ud800", "長" * 90]),
    st.binary(max_size=4),
    st.builds(torch.full, st.lists(st.integers(0, 3), max_size=3), st.sampled_from([0, 0.5, float("nan"), 1e9, -1])),
    st.builds(np.full, st.lists(st.integers(0, 3), max_size=3), st.sampled_from([0, 0.5, np.inf, 300])),
)  # fmt: skip
odd: st.SearchStrategy[Any] = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES), inner, max_size=3), st.tuples(inner, inner)
    ),
    max_leaves=6,
)
fields = st.dictionaries(st.sampled_from(NAMES), st.dictionaries(st.sampled_from(NAMES), odd, max_size=2), max_size=2)
DONE = {
    "step": lambda rollout, a, b: rollout.step(a),
    "edit": lambda rollout, a, b: rollout.edit(a, b),
    "tell": lambda rollout, a, b: rollout.tell(a, b),
    "hold": lambda rollout, a, b: rollout.hold(a, b),
    "limit": lambda rollout, a, b: rollout.limit(a, b),
    "release": lambda rollout, a, b: rollout.release(a, b),
    "lock": lambda rollout, a, b: rollout.lock(a, b),
    "unlock": lambda rollout, a, b: rollout.unlock(b),
    "reset_rows": lambda rollout, a, b: rollout.reset_rows(a, b),
    "restore": lambda rollout, a, b: rollout.restore(a, b),
    "fork": lambda rollout, a, b: rollout.fork(a, seed=b),
    "describe": lambda rollout, a, b: rollout.describe(a),
}


NEXT = BEGUN.fork().step("left")


def goes_on_alike(rollout: Rollout) -> bool:
    ours = rollout.step("left")
    return torch.equal(ours.state, NEXT.state) and torch.equal(ours.frames, NEXT.frames)


@ANY
@given(st.sampled_from(sorted(DONE)), odd | fields, st.none() | odd)
def test_what_a_rollout_refuses_leaves_it_as_it_was(name: str, first: Any, second: Any):
    rollout = BEGUN.fork()
    try:
        DONE[name](rollout, first, second)
    except REFUSED:
        assert goes_on_alike(rollout)


@ANY
@given(
    st.dictionaries(
        st.sampled_from(["caption", "frames", "actions", "state", "seed", "batch"]), odd | fields, min_size=1
    )
)
def test_a_world_begins_or_refuses(given: dict[str, Any]):
    with suppress(*REFUSED):
        assert torch.isfinite(WORLD.start(**given, draw=True).state).all()


@ANY
@given(st.dictionaries(st.sampled_from(sorted(Sampling.__dataclass_fields__)), odd, min_size=1, max_size=3))
def test_sampling_is_possible_or_refused(given: dict[str, Any]):
    with suppress(*REFUSED):
        WORLD.start(seed=1, sampling=Sampling(**given)).step("left")


@ANY
@given(odd, odd)
def test_a_tokenizer_takes_or_refuses(frames: Any, ids: Any):
    for call, value in ((WORLD.tokenizer.encode, frames), (WORLD.tokenizer.decode, ids)):
        if isinstance(value, torch.Tensor):
            with suppress(*REFUSED):
                call(value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world") / "tiny"
    WORLD.save_pretrained(path)
    return path


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a JSON value anything stands."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from([10**12, 10**400])
    | st.floats()
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=2),
    max_leaves=3,
)


@ANY
@given(st.data())
def test_a_world_folder_with_anything_in_its_words_loads_or_is_refused(folder: Path, data: st.DataObject):
    file = folder / "world.json"
    before = file.read_text(encoding="utf-8")
    words = json.loads(before)
    path = data.draw(st.sampled_from(list(places(words))[1:]))
    parent = words
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = data.draw(json_values)
    try:
        file.write_text(json.dumps(words), encoding="utf-8")
        with suppress(*REFUSED):
            World.from_pretrained(folder)
    finally:
        file.write_text(before, encoding="utf-8")
