"""Wrong shapes are found where they are passed."""

from __future__ import annotations

import jaxtyping
import pytest
import torch

from tokenizer.scene import composite
from tokenizer.video_tokenizer import FrameStates


def test_a_function_that_is_given_another_shape_is_caught() -> None:
    assert composite(torch.rand(2, 3, 4, 6), torch.rand(2, 4, 4, 6)).shape == (2, 3, 4, 6)
    with pytest.raises(jaxtyping.TypeCheckError, match="composite"):
        composite(torch.rand(2, 3, 4, 6), torch.rand(2, 4, 6, 4))


def test_a_dataclass_that_is_given_another_shape_is_caught() -> None:
    states = torch.rand(2, 5, 3)
    FrameStates(states, states)
    with pytest.raises(jaxtyping.TypeCheckError, match="FrameStates"):
        FrameStates(states, states[:, 1:])
