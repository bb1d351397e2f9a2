"""What is likely to be done next: so a world goes on by itself when nobody acts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tokenizer.action_space import ActionSpace
from worldmodel.nearby_cells import PictureSummary
from worldmodel.sampling import sample


class ActionPrior(nn.Module):
    """The next action's ids from the last picture's and the last action's, one distribution for each part."""

    def __init__(self, actions: ActionSpace, picture: PictureSummary, hidden: int = 48) -> None:
        super().__init__()
        self.picture = picture
        self.sizes, self.offsets = [part.size for part in actions.parts], actions.offsets
        self.last = nn.Embedding(actions.num_ids + 1, hidden)
        self.join = nn.Linear(picture.size + hidden, 2 * hidden)
        self.head = nn.Linear(2 * hidden, actions.num_ids)

    def forward(self, ids: Int[Tensor, "*b V"], last: Int[Tensor, "*b A"]) -> list[Float[Tensor, "*b size"]]:
        """Logits of each part, from a picture's ids (..., V) and the local ids (..., A) of what led to it, -1 for
        unknown."""
        logits = self.head(F.gelu(self.join(torch.cat([self.picture(ids), self.last(last + 1).mean(-2)], -1)))).float()
        return [logits[..., begin : begin + size] for begin, size in zip(self.offsets, self.sizes)]

    def draw(
        self, ids: Int[Tensor, "B V"], last: Int[Tensor, "B A"], uniform: Float[Tensor, "B A"]
    ) -> Int[Tensor, "B A"]:
        """Local ids of an action for each row, by uniform numbers."""
        drawn = [
            begin + sample(logits[:, None], 1.0, uniform[:, i : i + 1])[0]
            for i, (begin, logits) in enumerate(zip(self.offsets, self(ids, last)))
        ]
        return torch.cat(drawn, 1)

    def nats(self, ids: Tensor, last: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy (...,) of local ids (..., A), averaged over the parts."""
        parts = [
            F.cross_entropy(logits.flatten(0, -2), (target[..., i] - begin).flatten(), reduction="none")
            for i, (begin, logits) in enumerate(zip(self.offsets, self(ids, last)))
        ]
        return torch.stack(parts, -1).mean(-1).view(target.shape[:-1])
