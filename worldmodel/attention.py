"""One attention call behind one function, and the choice of who computes it.

``sdpa`` is PyTorch's own and runs anywhere. ``flash_attention_2`` needs CUDA, bf16 or fp16 and the flash-attn
package; it takes no bias, so calls with one (a ring that is still filling, padded captions) go to sdpa.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BACKENDS = ("auto", "sdpa", "flash_attention_2")
FEW = 32  # queries times pieces


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


def attend(
    query: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], bias: Tensor | None, backend: str = "sdpa"
) -> Tensor:
    """Softmax attention, (N, heads, Q, d) over pieces (N, heads, K_i, d) that count as one, in this order.

    ``bias`` broadcasts to (N, heads, Q, sum K_i).
    """
    if query.device.type == "cpu" and (query.requires_grad or query.shape[2] * len(keys) <= FEW):
        # In training the fused kernel and its backward pass are the slower way on a CPU; for few queries it is slower
        # to lay the pieces together than to go through them.
        query = query * query.shape[-1] ** -0.5
        scores = [query @ key.transpose(-2, -1) for key in keys]
        whole = scores[0] if len(scores) == 1 else torch.cat(scores, -1)
        if bias is not None:
            whole += bias  # in place: scores are the largest tensors of a training step
        shares = whole.softmax(-1).split([key.shape[2] for key in keys], -1)
        attended = shares[0] @ values[0]
        for share, value in zip(shares[1:], values[1:], strict=True):
            attended = attended + share @ value
        return attended
    key, value = torch.cat(list(keys), 2), torch.cat(list(values), 2)
    if backend == "flash_attention_2" and bias is None:
        function, _ = _flash_attention()
        return function(*(x.transpose(1, 2) for x in (query, key, value))).transpose(1, 2)
    if bias is not None:
        bias = bias.expand(-1, -1, query.shape[2], -1)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
