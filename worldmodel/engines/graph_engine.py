"""A step as graphs of fixed shapes, one to step and one to decode, whoever compiles them.

A step of a small model is a thousand short operations, and PyTorch spends as long starting them as doing them. As a
step is a function of tensors alone, it can be recorded once for every shape of them and then run as a whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tokenizer.causal_conv import StreamingCache
from worldmodel.engines.torch_engine import Engine, Sampling, Stepped
from worldmodel.kv_cache import Past
from worldmodel.transformer import KeysValues

if TYPE_CHECKING:
    from worldmodel.world import World

Function = Callable[..., tuple[Tensor, ...]]


class GraphEngine(Engine, ABC):
    """Whatever is not part of a step (beginnings, reading) stays with PyTorch, operation by operation."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.graphs: dict[tuple[Any, ...], Callable[[Sequence[Tensor]], Sequence[Tensor]]] = {}

    @abstractmethod
    def compile(self, name: str, call: Function, given: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
        """A function of tensors shaped like ``given`` that computes what ``call`` does. It may lend its results: they
        need hold no longer than until it is called again."""

    @property
    def setting(self) -> tuple[Any, ...]:
        """What else a graph depends on besides shapes and weights."""
        return ()

    def _state_in_many(self, sampling: Sampling) -> bool:
        dynamics = self.world.dynamics
        return (sampling.state_tokens_per_pass or dynamics.state_modes[0]) < dynamics.layout.num_state

    # -- the step -----------------------------------------------------------------------------------

    def step(  # type: ignore[override]
        self, sampling: Sampling, past: Past, turn: tuple[Tensor, Tensor], *given: Tensor
    ) -> Stepped:
        if sampling.tokens_per_pass != self.world.dynamics.layout.num_video or self._state_in_many(sampling):
            return super().step(sampling, past, turn, *given)  # many passes: a graph for each kind of them

        def stepped(past: Past, cos: Tensor, sin: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
            made = Engine(self.world).step(sampling, past, (cos, sin), *tensors)  # pyright: ignore[reportCallIssue]
            return made.ids, made.state, made.video, made.kept.keys, made.kept.values

        ids, state, video, *kept = self._run(f"step {sampling}", stepped, (*turn, *given), past, lent=2)
        return Stepped(ids, state, video, KeysValues(*kept))

    def simulate(  # type: ignore[override]
        self, sampling: Sampling, past: Past, *given: Tensor
    ) -> tuple[Tensor, Tensor, KeysValues]:
        if self._state_in_many(sampling):  # whose loop writes in place, as no graph may
            return super().simulate(sampling, past, *given)

        def simulated(past: Past, *tensors: Tensor) -> tuple[Tensor, ...]:
            ids, state, kept = Engine.simulate(self, sampling, past, *tensors)
            return ids, state, kept.keys, kept.values

        ids, state, *kept = self._run(f"simulate {sampling}", simulated, given, past)
        return ids, state, KeysValues(*kept)

    def canvas(self, actions: Tensor, previous: Tensor, state: Tensor, shown: Tensor, k: int) -> Tensor:
        def painted(*tensors: Tensor) -> tuple[Tensor]:
            return (Engine.canvas(self, *tensors, k=k),)

        return self._run(f"canvas {k}", painted, (actions, previous, state, shown))[0]

    def video_pass(self, sampling: Sampling, past: Past, *given: Tensor) -> tuple[Tensor, KeysValues]:  # type: ignore[override]
        def drawn(past: Past, *tensors: Tensor) -> tuple[Tensor, ...]:
            ids, new = Engine.video_pass(self, sampling, past, *tensors)
            return ids, new.keys, new.values

        ids, *kept = self._run(f"video {sampling}", drawn, given, past, lent=2)
        return ids, KeysValues(*kept)

    def decode(self, ids: Tensor, cache: StreamingCache, state: Tensor, begun: Tensor) -> Tensor:
        if not cache.past or bool(cache.fresh.any()):  # a stream's first frame, which is not worth a graph of its own
            return super().decode(ids, cache, state, begun)
        modules = list(cache.past)

        def decoded(*tensors: Tensor) -> tuple[Tensor, ...]:
            kept = StreamingCache(len(ids))
            kept.advance()
            kept.past = dict(zip(modules, tensors[3:], strict=True))
            pixels = self.world.tokenizer.decode_step(tensors[0], kept, tensors[1], tensors[2])
            return pixels, *kept.past.values()

        pixels, *past = self._run("decode", decoded, (ids, state, begun, *cache.past.values()))
        cache.past = dict(zip(modules, past, strict=True))
        return pixels

    def _run(
        self, name: str, call: Function, given: Sequence[Tensor], past: Past | None = None, lent: int = 0
    ) -> tuple[Tensor, ...]:
        """What ``call`` makes of the past, if there is one, and of tensors. The last ``lent`` results hold until it is
        called again."""
        if past is not None:
            given, call = _flattened(past, given, call)
        key = (name, *self.setting, *(tuple(tensor.shape) for tensor in given))
        graph = self.graphs.get(key)
        if graph is None:
            graph = self.graphs[key] = self.compile(name, call, given)
        made = graph(given)
        return tuple(tensor if i >= len(made) - lent else tensor.clone() for i, tensor in enumerate(made))


def _flattened(past: Past, given: Sequence[Tensor], call: Function) -> tuple[list[Tensor], Function]:
    """The tensors of a past before the others, and ``call`` as a function of them all. Empty ones are left out, for
    a graph takes none."""
    held = [tensor for piece in past.pieces for tensor in (piece.keys, piece.values)]
    full, split = [tensor for tensor in held if tensor.numel()], len(past.states)
    heard = [] if past.told is None else [past.told]

    def called(seen: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        rest = iter(tensors)
        told = next(rest) if heard else None
        flat = [next(rest) if tensor.numel() else tensor for tensor in held]
        pieces = [KeysValues(keys, values) for keys, values in zip(flat[::2], flat[1::2], strict=True)]
        return call(Past(pieces[:split], pieces[split:], seen, told=told), *rest)

    return [past.seen, *heard, *full, *given], called
