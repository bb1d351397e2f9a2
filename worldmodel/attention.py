"""One attention call behind one function, and the choice of who computes it.

``sdpa`` is PyTorch's own and runs anywhere. ``flash_attention_2`` needs CUDA, bf16 or fp16 and the flash-attn
package; it takes no bias, so calls with one (a ring that is still filling, padded captions) go to sdpa.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BACKENDS = ("auto", "sdpa", "flash_attention_2")


@cache
def _flash_attention() -> tuple[Any, str]:
    """The package's function, or None and why not."""
    try:
        from flash_attn import flash_attn_func  # pyright: ignore[reportMissingImports]
    except (ImportError, OSError) as error:
        return None, f"flash-attn does not import ({error})"
    return flash_attn_func, "flash-attn imports"


def choose_backend(name: str, device: torch.device | str, dtype: torch.dtype) -> tuple[str, str]:
    """The backend that will compute, and why.

    Raises ValueError for an unknown name, or when flash attention was asked for by name and cannot serve.
    """
    if name not in BACKENDS:
        raise ValueError(f"unknown attention backend {name!r}; choose from {', '.join(BACKENDS)}")
    if name == "sdpa":
        return "sdpa", "asked for"
    device = torch.device(device)
    if device.type != "cuda":
        obstacle = f"flash attention needs CUDA and this is {device.type}"
    elif dtype not in (torch.bfloat16, torch.float16):
        obstacle = f"flash attention needs bf16 or fp16 and this is {dtype}"
    else:
        function, reason = _flash_attention()
        if function is not None:
            return "flash_attention_2", reason
        obstacle = reason
    if name == "flash_attention_2":
        raise ValueError(f"{obstacle}: choose attention backend 'auto' or 'sdpa'")
    return "sdpa", obstacle


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, backend: str = "sdpa") -> Tensor:
    """Softmax attention, (N, heads, Q, d) over (N, heads, K, d); ``bias`` broadcasts to (N, heads, Q, K)."""
    if backend == "flash_attention_2" and bias is None:
        function, _ = _flash_attention()
        return function(*(x.transpose(1, 2) for x in (query, key, value))).transpose(1, 2)
    if query.device.type == "cpu" and query.requires_grad:
        # In training on a CPU the fused kernel and its backward pass are the slower way.
        scores = (query * query.shape[-1] ** -0.5) @ key.mT
        return (scores if bias is None else scores + bias).softmax(-1) @ value
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
