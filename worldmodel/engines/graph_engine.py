"""A step as graphs of fixed shapes, one to step and one to decode, whoever compiles them.

A step of a small model is a thousand short operations, and PyTorch spends as long starting them as doing them. As a
step is a function of tensors alone, it can be recorded once for every shape of them and then run as a whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tokenizer.causal_conv import StreamingCache
from worldmodel.engines.step import PICTURE, Simulated, StepQuery, StepResult, StepStart, Wanted
from worldmodel.engines.torch_engine import Engine
from worldmodel.kv_cache import Past
from worldmodel.parts import WorldParts
from worldmodel.sampling import Sampling
from worldmodel.transformer import KeysValues

Graph = Callable[[Sequence[Tensor]], Sequence[Tensor]]
Function = Callable[..., tuple[Tensor, ...]]


class GraphEngine(Engine, ABC):
    """Whatever is not part of a step (beginnings, reading) stays with PyTorch, operation by operation."""

    def __init__(self, parts: WorldParts) -> None:
        super().__init__(parts)
        self.graphs: dict[tuple[Any, ...], tuple[Graph, Any]] = {}

    @abstractmethod
    def compile(self, name: str, call: Function, given: Sequence[Tensor]) -> Graph:
        """A function of tensors shaped like ``given`` that computes what ``call`` does.

        Its results need hold only until it is called again: it may reuse their memory.
        """

    @property
    def setting(self) -> tuple[Any, ...]:
        """What else a graph depends on besides shapes and weights."""
        return ()

    def _state_in_many(self, sampling: Sampling) -> bool:
        dynamics = self.parts.dynamics
        return (sampling.state_tokens_per_pass or dynamics.state_modes[0]) < dynamics.layout.num_state

    # -- the step -----------------------------------------------------------------------------------

    def step(self, sampling: Sampling, start: StepStart, query: StepQuery, wanted: Wanted = PICTURE) -> StepResult:
        k = sampling.tokens_per_pass or self.parts.dynamics.config.tokens_per_pass[0]
        in_one = k == self.parts.dynamics.layout.num_video or not wanted.picture
        if not in_one or self._state_in_many(sampling):
            return super().step(sampling, start, query, wanted)  # many passes: a graph for each kind of them

        def stepped(start: StepStart, query: StepQuery) -> StepResult:
            return Engine(self.parts).step(sampling, start, query, wanted)

        return self._run(f"step {sampling} {wanted}", stepped, (_plain(start), query), lent=("kept",))

    def simulate(self, sampling: Sampling, start: StepStart, query: StepQuery, *, doubt: bool = False) -> Simulated:
        if self._state_in_many(sampling):  # whose loop writes in place, as no graph may
            return super().simulate(sampling, start, query, doubt=doubt)

        def simulated(start: StepStart, query: StepQuery) -> Simulated:
            return Engine.simulate(self, sampling, start, query, doubt=doubt)

        return self._run(f"simulate {sampling} {doubt}", simulated, (_plain(start), query))

    def condition_frame(self, actions: Tensor, previous: Tensor, state: Tensor, shown: Tensor, k: int) -> Tensor:
        def painted(*tensors: Tensor) -> Tensor:
            return Engine.condition_frame(self, *tensors, k=k)

        return self._run(f"canvas {k}", painted, (actions, previous, state, shown))

    def video_pass(
        self, sampling: Sampling, past: Past, *given: Tensor, doubt: bool = False
    ) -> tuple[Tensor, KeysValues, Tensor]:
        def drawn(past: Past, *tensors: Tensor) -> tuple[Tensor, KeysValues, Tensor]:
            return Engine.video_pass(self, sampling, past, *tensors, doubt=doubt)

        return self._run(f"video {sampling} {doubt}", drawn, (replace(past, whole=False), *given), lent=(1,))

    def decode(self, ids: Tensor, cache: StreamingCache, state: Tensor, begun: Tensor) -> Tensor:
        if not cache.past or bool(cache.fresh.any()):  # a stream's first frame, which is not worth a graph of its own
            return super().decode(ids, cache, state, begun)
        modules = list(cache.past)

        def decoded(ids: Tensor, state: Tensor, begun: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
            kept = StreamingCache(len(ids))
            kept.advance()
            kept.past = dict(zip(modules, past, strict=True))
            pixels = self.parts.tokenizer.decode_step(ids, kept, state, begun)
            return pixels, *kept.past.values()

        pixels, *past = self._run("decode", decoded, (ids, state, begun, *cache.past.values()))
        cache.past = dict(zip(modules, past, strict=True))
        return pixels

    def _run(
        self, name: str, call: Callable[..., Any], given: tuple[Any, ...], lent: tuple[str | int, ...] = ()
    ) -> Any:
        """What ``call`` makes of ``given``, trees of tensors (see :func:`leaves`), like its result.

        Parts of the result that are ``lent``, by name or place, hold only until it is called again.
        """
        inputs = list(leaves(given))
        key = (name, *self.setting, *(tuple(tensor.shape) for tensor in inputs))
        if key not in self.graphs:
            shape = _skeleton(given)
            made: list[Any] = []  # the result without its tensors, as the trace leaves it

            def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
                result = call(*rebuilt(shape, iter(tensors)))
                made[:] = [_skeleton(result)]
                return tuple(leaves(result))

            graph = self.compile(name, flat, inputs)
            if not made:  # a graph that was kept from another time: PyTorch is asked once
                flat(*inputs)
            self.graphs[key] = graph, made[0]
        graph, skeleton = self.graphs[key]
        result = rebuilt(skeleton, iter(graph(inputs)))
        return _owned(result, lent)


def _plain(start: StepStart) -> StepStart:
    """Without what the host knows of it, so that one graph serves all."""
    return replace(start, past=replace(start.past, whole=False))


def leaves(tree: Any) -> Iterator[Tensor]:
    """The tensors of a tree of dataclasses, tuples and lists, in order. Empty ones are left out: graphs take none."""
    if isinstance(tree, Tensor):
        if tree.numel():
            yield tree
    elif is_dataclass(tree):
        for part in fields(tree):
            yield from leaves(getattr(tree, part.name))
    elif isinstance(tree, tuple | list):
        for part in tree:
            yield from leaves(part)


def rebuilt(tree: Any, tensors: Iterator[Tensor]) -> Any:
    """The same tree with other tensors at its leaves."""
    if isinstance(tree, Tensor) and tree.numel():
        return next(tensors)
    if is_dataclass(tree) and not isinstance(tree, type):
        return replace(tree, **{part.name: rebuilt(getattr(tree, part.name), tensors) for part in fields(tree)})
    if isinstance(tree, tuple | list):
        return type(tree)(rebuilt(part, tensors) for part in tree)
    return tree


def _skeleton(tree: Any) -> Any:
    """A tree whose tensors have shapes and types, but no numbers."""
    return rebuilt(tree, (torch.empty(tuple(x.shape), dtype=x.dtype, device="meta") for x in leaves(tree)))


def _owned(result: Any, lent: tuple[str | int, ...]) -> Any:
    """A result whose tensors are copies, but for the parts that are lent."""
    if is_dataclass(result) and not isinstance(result, type):
        own = [part.name for part in fields(result) if part.name not in lent]
        return replace(result, **{name: _copied(getattr(result, name)) for name in own})
    if isinstance(result, tuple):
        return tuple(part if i in lent else _copied(part) for i, part in enumerate(result))
    return _copied(result)


def _copied(tree: Any) -> Any:
    return rebuilt(tree, (tensor.clone() for tensor in leaves(tree)))
