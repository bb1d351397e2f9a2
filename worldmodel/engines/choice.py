"""Which engine computes steps, by name; packages that one needs are imported only when it is asked for."""

from __future__ import annotations

from worldmodel.engines.torch_engine import Engine
from worldmodel.parts import WorldParts

ENGINES = ("torch", "openvino", "cuda_graph")


def make_engine(name: str, parts: WorldParts) -> Engine:
    """Raises ValueError for an unknown name, or for an engine that this machine or world cannot have."""
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}; choose from {', '.join(ENGINES)}")
    if name == "openvino":
        from worldmodel.engines.openvino_engine import OpenVINOEngine

        return OpenVINOEngine(parts)
    if name == "cuda_graph":
        from worldmodel.engines.cuda_engine import CUDAGraphEngine

        return CUDAGraphEngine(parts)
    return Engine(parts)
