"""A step exported to OpenVINO, for CPUs: the same functions as graphs of fixed shapes, one to step and one to decode.

A step of a small model is a thousand short operations, and PyTorch spends as long starting them as doing them. Graphs
are traced and compiled when they are first needed (some seconds), and kept in the user's cache for the next time.
"""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tokenizer.causal_conv import StreamingCache
from worldmodel.engine import Engine, Sampling, Stepped
from worldmodel.kv_cache import Past
from worldmodel.transformer import KeysValues

if TYPE_CHECKING:
    from worldmodel.world import World

PACKAGES = (Path(__file__).parent, Path(__file__).parent.parent / "tokenizer")
Function = Callable[..., tuple[Tensor, ...]]


class OpenVINOEngine(Engine):
    """Needs the extra ``fast``. Whatever is not part of a step (beginnings, reading) stays with PyTorch."""

    name = "openvino"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        if world.device.type != "cpu":
            raise ValueError(f"the engine 'openvino' runs on CPUs and this world is on {world.device}: choose 'torch'")
        try:
            import openvino
        except (ImportError, OSError) as error:
            raise ValueError(
                f"the engine 'openvino' needs a package that does not import ({error}): "
                "pip install 'worldmodel-stream[fast]', or choose 'torch'"
            ) from None
        self.openvino, self.runtime = openvino, openvino.Core()
        self.requests: dict[tuple[Any, ...], Any] = {}
        self.threads, self.alone = torch.get_num_threads(), Lock()
        self._fingerprint: str | None = None

    @contextmanager
    def computing(self) -> Iterator[None]:
        """One step at a time. All of PyTorch's threads become OpenVINO's, for two pools wait for work by keeping each
        other's cores busy."""
        with self.alone:
            self.threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                yield
            finally:
                torch.set_num_threads(self.threads)

    # -- the step -----------------------------------------------------------------------------------

    def step(  # type: ignore[override]
        self, sampling: Sampling, past: Past, turn: tuple[Tensor, Tensor], *given: Tensor
    ) -> Stepped:
        layout = self.world.dynamics.layout
        if sampling.tokens_per_pass != layout.num_video:  # many passes: a graph for each kind of them
            return super().step(sampling, past, turn, *given)

        def stepped(past: Past, cos: Tensor, sin: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
            made = Engine(self.world).step(sampling, past, (cos, sin), *tensors)  # pyright: ignore[reportCallIssue]
            return made.ids, made.state, made.video, made.kept.keys, made.kept.values

        ids, state, video, *kept = self._run(f"step {sampling}", stepped, (*turn, *given), past, lent=2)
        return Stepped(ids, state, video, KeysValues(*kept))

    def simulate(  # type: ignore[override]
        self, sampling: Sampling, past: Past, *given: Tensor
    ) -> tuple[Tensor, Tensor, KeysValues]:
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

    # -- the runtime --------------------------------------------------------------------------------

    def _run(
        self, name: str, call: Function, given: Sequence[Tensor], past: Past | None = None, lent: int = 0
    ) -> tuple[Tensor, ...]:
        """What ``call`` makes of the past, if there is one, and of tensors. The last ``lent`` results hold until it is
        called again."""
        if past is not None:
            given, call = _flattened(past, given, call)
        key = (name, self.threads, *(tuple(tensor.shape) for tensor in given))
        request = self.requests.get(key)
        if request is None:
            request = self.requests[key] = self._compile(name, call, given)
        arrays = [tensor.contiguous().numpy() for tensor in given]
        for i, array in enumerate(arrays):
            request.set_input_tensor(i, self.openvino.Tensor(array, shared_memory=True))
        request.infer()
        made = [torch.from_numpy(out.data) for out in request.output_tensors]
        return tuple(tensor if i >= len(made) - lent else tensor.clone() for i, tensor in enumerate(made))

    def _compile(self, name: str, call: Function, given: Sequence[Tensor]) -> Any:
        """An inference request of its own for a function with inputs of these shapes."""
        shapes = " ".join("x".join(map(str, tensor.shape)) for tensor in given)
        from worldmodel.world import cache_folder

        label = hashlib.sha256(f"{self.fingerprint} {name} {shapes}".encode()).hexdigest()[:20]
        graph_file = cache_folder() / "openvino" / f"{name.split()[0]}-{label}.xml"
        if graph_file.is_file():
            graph = self.runtime.read_model(graph_file)
        else:
            graph = self._export(call, given)
            self._store(graph, graph_file)
        options = {"INFERENCE_NUM_THREADS": self.threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        options |= {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
        return self.runtime.compile_model(graph, "CPU", options).create_infer_request()

    def _export(self, call: Function, given: Sequence[Tensor]) -> Any:
        # Traced outside of inference mode, with inputs that were made there.
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that what the trace takes to be constant is, is what the shapes are for
            example = tuple(tensor.clone() for tensor in given)
            graph = self.openvino.convert_model(_Traced(self.world, call).eval(), example_input=example)
        for entry, tensor in zip(graph.inputs, example, strict=True):
            entry.get_node().set_partial_shape(self.openvino.PartialShape(list(tensor.shape)))
        graph.validate_nodes_and_infer_types()
        return graph

    def _store(self, graph: Any, path: Path) -> None:
        """Keeps a graph for the next time; a full disk costs only that."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                self.openvino.save_model(graph, Path(folder) / path.name, compress_to_fp16=False)
                for part in (path.with_suffix(".bin"), path):
                    (Path(folder) / part.name).replace(part)
        except (OSError, RuntimeError) as error:
            warnings.warn(f"OpenVINO's graph cannot be kept ({error}): it is made again next time", stacklevel=2)

    @property
    def fingerprint(self) -> str:
        """Of everything a graph depends on but its shapes: weights, sources, versions."""
        if self._fingerprint is None:
            sha = hashlib.sha256(f"{torch.__version__} {self.openvino.__version__}".encode())
            for source in sorted(path for folder in PACKAGES for path in folder.glob("*.py")):
                sha.update(source.read_bytes())
            for part in (self.world.tokenizer, self.world.dynamics):
                for weights in part.state_dict().values():
                    sha.update(weights.detach().contiguous().numpy().tobytes())
            self._fingerprint = sha.hexdigest()
        return self._fingerprint


def _flattened(past: Past, given: Sequence[Tensor], call: Function) -> tuple[list[Tensor], Function]:
    """The tensors of a past before the others, and ``call`` as a function of them all. Empty ones are left out, for
    a graph takes none."""
    held = [tensor for piece in past.pieces for tensor in (piece.keys, piece.values)]
    full, split = [tensor for tensor in held if tensor.numel()], len(past.states)

    def called(seen: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        rest = iter(tensors)
        flat = [next(rest) if tensor.numel() else tensor for tensor in held]
        pieces = [KeysValues(keys, values) for keys, values in zip(flat[::2], flat[1::2], strict=True)]
        return call(Past(pieces[:split], pieces[split:], seen), *rest)

    return [past.seen, *full, *given], called


class _Traced(nn.Module):
    """A function as the module that a tracer wants, with the weights it uses."""

    def __init__(self, world: World, call: Function) -> None:
        super().__init__()
        self.tokenizer, self.dynamics, self.call = world.tokenizer, world.dynamics, call

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return self.call(*tensors)
