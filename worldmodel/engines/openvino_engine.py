"""A step exported to OpenVINO, for CPUs.

Graphs are traced and compiled when they are first needed (some seconds), and kept in the user's cache for the next
time.
"""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from worldmodel.cache_folder import cache_folder
from worldmodel.engines.graph_engine import Function, Graph, GraphEngine
from worldmodel.parts import WorldParts

PACKAGES = (Path(__file__).parents[1], Path(__file__).parents[2] / "tokenizer")


class OpenVINOEngine(GraphEngine):
    """Needs the extra ``fast``."""

    name = "openvino"

    def __init__(self, parts: WorldParts) -> None:
        super().__init__(parts)
        if parts.device.type != "cpu":
            raise ValueError(f"the engine 'openvino' runs on CPUs and this world is on {parts.device}: choose 'torch'")
        try:
            import openvino
        except (ImportError, OSError) as error:
            raise ValueError(
                f"the engine 'openvino' needs a package that does not import ({error}): "
                "pip install 'worldmodel-stream[fast]', or choose 'torch'"
            ) from None
        self.openvino, self.runtime = openvino, openvino.Core()
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

    @property
    def setting(self) -> tuple[int]:
        return (self.threads,)

    def compile(self, name: str, call: Function, given: Sequence[Tensor]) -> Graph:
        shapes = " ".join("x".join(map(str, tensor.shape)) for tensor in given)
        label = hashlib.sha256(f"{self.fingerprint} {name} {shapes}".encode()).hexdigest()[:20]
        graph_file = cache_folder() / "openvino" / f"{name.split()[0]}-{label}.xml"
        if graph_file.is_file():
            graph = self.runtime.read_model(graph_file)
        else:
            graph = self._export(call, given)
            self._store(graph, graph_file)
        options = {"INFERENCE_NUM_THREADS": self.threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        options |= {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
        request = self.runtime.compile_model(graph, "CPU", options).create_infer_request()

        def run(given: Sequence[Tensor]) -> list[Tensor]:
            arrays = [tensor.contiguous().numpy() for tensor in given]
            for i, array in enumerate(arrays):
                request.set_input_tensor(i, self.openvino.Tensor(array, shared_memory=True))
            request.infer()
            return [torch.from_numpy(out.data) for out in request.output_tensors]

        return run

    def _export(self, call: Function, given: Sequence[Tensor]) -> Any:
        # Traced outside of inference mode, with inputs that were made there.
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a trace takes for constant: shapes are fixed, so it is
            example = tuple(tensor.clone() for tensor in given)
            graph = self.openvino.convert_model(_Traced(self.parts, call).eval(), example_input=example)
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
            for source in sorted(path for folder in PACKAGES for path in folder.rglob("*.py")):
                sha.update(source.read_bytes())
            for part in (self.parts.tokenizer, self.parts.dynamics):
                for weights in part.state_dict().values():
                    sha.update(weights.detach().contiguous().numpy().tobytes())
            self._fingerprint = sha.hexdigest()
        return self._fingerprint


class _Traced(nn.Module):
    """A function as the module that a tracer wants, with the weights it uses."""

    def __init__(self, parts: WorldParts, call: Function) -> None:
        super().__init__()
        self.tokenizer, self.dynamics, self.call = parts.tokenizer, parts.dynamics, call

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return self.call(*tensors)
