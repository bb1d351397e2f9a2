"""A step as CUDA graphs: thousands of kernels started at once, and nothing waited for in between.

Everything a step computes lies on the device; positions, uniform numbers and actions are copied there before. CUDA
graphs: pytorch.org/docs/stable/notes/cuda.html. Kept memory is as large as one step's of every shape that was played.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from worldmodel.engines.graph_engine import Function, Graph, GraphEngine
from worldmodel.parts import WorldParts

WARM_UP = 3  # runs, in which whatever is made once is made and kernels are chosen


class CUDAGraphEngine(GraphEngine):
    """For worlds on a CUDA device. The ids are the same as PyTorch's own."""

    name = "cuda_graph"

    def __init__(self, parts: WorldParts) -> None:
        super().__init__(parts)
        if parts.device.type != "cuda":
            raise ValueError(
                f"the engine 'cuda_graph' runs on CUDA devices and this world is on {parts.device}: choose 'torch'"
            )

    def compile(self, name: str, call: Function, given: Sequence[Tensor]) -> Graph:
        held, device = [tensor.clone() for tensor in given], self.parts.device
        aside = torch.cuda.Stream(device)
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                call(*held)
        torch.cuda.current_stream(device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made = call(*held)

        def run(given: Sequence[Tensor]) -> Sequence[Tensor]:
            for mine, new in zip(held, given, strict=True):
                mine.copy_(new, non_blocking=True)
            graph.replay()
            return made

        return run
