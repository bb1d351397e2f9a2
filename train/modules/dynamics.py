"""Trains the dynamics by teacher forcing: text, scene, state changes and video ids of one stream.

What it feeds back is made slightly wrong on purpose, as its own output will be: states are perturbed and
the target change leads back to the truth (Graph Network Simulators, arXiv:2002.09405); some context ids are
random. Cells whose ids change weigh more, for most of a picture stands still.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenizer.state_codec import ChangeTargets, StateCodec
from tokenizer.state_schema import StateSchema
from tokenizer.stream import Layout
from tokenizer.text_tokenizer import TextTokenizer
from tokenizer.video_tokenizer import VideoTokenizer
from train.data.tokens import TokenStore
from train.modules.schedule import ScheduledModule, load_trained
from worldmodel.outcome import OutcomeLogits
from worldmodel.transformer import Dynamics, DynamicsBatch, DynamicsConfig, Logits
from worldmodel.world import World

NEAR_WEIGHT = 8.0  # how much likelier a cell near a change is asked for


def near_changes(video: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cells (B, T, V) whose id, or a neighbour's, differs from the frame before; everything in the first frame."""
    changed = F.pad(video[:, 1:] != video[:, :-1], (0, 0, 1, 0), value=True).float()
    near = F.max_pool2d(changed.unflatten(-1, grid), 3, stride=1, padding=1)
    return near.flatten(-2)


def asked_cells(near: Tensor, share: float) -> Tensor:
    """This share of the cells of each frame (B, T, V), drawn so that those near a change seldom lack: (B, T, n)."""
    likelier = torch.where(near > 0, NEAR_WEIGHT, 1.0)  # weighted draws without replacement (Efraimidis and Spirakis)
    drawn = torch.rand(near.shape, device=near.device) ** (1 / likelier)
    return drawn.topk(max(1, round(share * near.shape[-1])), -1).indices


def fitting(config: dict[str, Any], store: TokenStore) -> dict[str, Any]:
    """A configuration with what tokens decide, where it is not said: no places for words that are not there, a frame at
    once or row by row, the levels of their codes, which rewards there are, whether what is done is foreseen."""
    rows, columns = store.grid
    derived = {
        "tokens_per_pass": [rows * columns, columns],
        "code_levels": list(store.code_levels),
        "said": list(store.said),
        "rewards": list(store.rewards),
        "predict_end": store.ends,
        "predict_action": bool(store.schema.actions) and not store.schema.num_values,
        "show_values": store.schema.view is None and store.schema.num_values > 0,
    }
    silent = {"max_text": 0, "max_event": 0} if store.text is None else {}
    return derived | config | silent


class DynamicsModule(ScheduledModule):
    """Lightning module around :class:`Dynamics`.

    Args:
        tokens: folder of token shards: its vocabulary and schema shape the network.
        config: fields of ``DynamicsConfig``.
        state_noise: standard deviation of the noise on states, in units of each field's largest change.
        corruption: at most this share of the fed-back video ids is replaced by random ones.
        asked_share: share of a picture's cells whose ids an update asks for, most of them near a change; what is left
            out weighs more elsewhere instead.
        event_weight: how much more a step that is told something counts.
        mode_shares: how often each of ``tokens_per_pass`` is trained.
        state_mode_shares: how often each of ``state_tokens_per_pass`` is.
        caption_dropout: share of scenes shown without their caption.
        action_dropout: share of scenes whose first actions are not known, as in a prompt of frames alone.
        outcome_weight: how much more a reward that is not 0, or an end, counts where they are read from pictures.
        start_from: a checkpoint of this module whose weights to start from.
        only_outcome: trains nothing but the reader of reward and end, which needs no transformer and little time.
        tokenizer_path: folder of the video tokenizer; with it, sample videos can be drawn.
    """

    def __init__(
        self,
        tokens: str,
        config: dict[str, Any] | None = None,
        lr: float = 1e-3,
        weight_decay: float = 0.02,
        warmup_steps: int = 100,
        total_steps: int = 1500,
        state_noise: float = 0.003,
        corruption: float = 0.1,
        change_weight: float = 3.0,
        asked_share: float = 1.0,
        state_weight: float = 1.0,
        header_weight: float = 0.3,
        caption_weight: float = 0.1,
        event_weight: float = 3.0,
        mode_shares: list[float] | None = None,
        state_mode_shares: list[float] | None = None,
        caption_dropout: float = 0.15,
        action_dropout: float = 0.1,
        outcome_weight: float = 5.0,
        start_from: str | None = None,
        only_outcome: bool = False,
        tokenizer_path: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        store = TokenStore(tokens)
        config = self.hparams["config"] = fitting(config or {}, store)  # kept whole: a checkpoint needs no tokens
        dynamics_config = DynamicsConfig(**config)
        self.schema: StateSchema = store.schema
        self.layout: Layout = store.layout(dynamics_config.max_text, dynamics_config.max_event)
        self.dynamics = Dynamics(dynamics_config, self.layout, self.schema)
        self.codec = StateCodec(self.schema)
        self.mode_shares = torch.tensor(mode_shares or [1.0] * len(dynamics_config.tokens_per_pass))
        self.state_mode_shares = torch.tensor(state_mode_shares or [1.0] * len(self.dynamics.state_modes))
        self.state_noise, self.corruption, self.change_weight = state_noise, corruption, change_weight
        self.asked_share = asked_share
        self.state_weight, self.header_weight = state_weight, header_weight
        self.caption_weight, self.event_weight = caption_weight, event_weight
        self.caption_dropout, self.action_dropout, self.outcome_weight = caption_dropout, action_dropout, outcome_weight
        self.tokenizer_path = tokenizer_path
        self.text: TextTokenizer | None = store.text
        if start_from:
            load_trained(self, start_from, "dynamics.")
        self.only_outcome = only_outcome
        if only_outcome:
            if self.dynamics.outcome is None:
                raise ValueError(
                    "there is no outcome to read: set config.read_outcome, for a schema with a reward or an end"
                )
            self.dynamics.requires_grad_(False)
            self.dynamics.outcome.requires_grad_(True)

    # -- what is fed ----------------------------------------------------------------------------------

    def prepare(self, batch: dict[str, Tensor], *, disturb: bool) -> tuple[DynamicsBatch, Any]:
        """What the network is fed and which state ids it should say, from token windows."""
        batch = self.completed(batch)
        states, text, actions = batch["states"], batch["text"], batch["actions"]
        size, steps = states.shape[:2]
        inputs = torch.cat([states[:, :1], states[:, :-1]], 1)
        if disturb:
            level = torch.rand(size, 1, 1, device=states.device) * self.state_noise
            noise = torch.randn(size, steps, len(self.codec.column), device=states.device) * level
            inputs = self.codec.perturb(inputs, noise)
            dropped = torch.rand(size, 1, device=text.device) < self.caption_dropout
            text = torch.where(dropped, -1, text)
            actions = self._with_unknown(actions)
        prepared, targets = self.fed(batch | {"actions": actions}, inputs)
        if disturb and "video" in batch:
            video = prepared.video
            level = torch.rand(size, 1, 1, device=video.device) * self.corruption
            wrong = torch.rand(video.shape, device=video.device) < level
            fed = torch.where(wrong, torch.randint_like(video, self.layout.vocabulary.size("video")), video)
            prepared = replace(prepared, input_video=fed)
        return replace(prepared, text=text), targets

    def completed(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Windows with an empty state where there is none, and -1 for actions that nobody took."""
        some = batch["video"] if "states" not in batch else batch["states"]
        missing: dict[str, Tensor] = {}
        if "states" not in batch:
            missing["states"] = torch.zeros(*some.shape[:2], 0, device=some.device)
        if "actions" not in batch:
            missing["actions"] = torch.full((*some.shape[:2], self.layout.num_action), -1, device=some.device)
        return batch | missing

    def _with_unknown(self, actions: Tensor) -> Tensor:
        """Actions (B, T, A) of which in some scenes the earlier ones are not known, as in a prompt of frames alone."""
        size, steps = actions.shape[:2]
        hidden = torch.rand(size, device=actions.device) < self.action_dropout
        until = torch.randint(steps, (size,), device=actions.device)
        unknown = hidden[:, None] & (torch.arange(steps, device=actions.device) <= until[:, None])
        return actions.masked_fill(unknown[..., None], -1)

    def fed(self, batch: dict[str, Tensor], inputs: Tensor) -> tuple[DynamicsBatch, Any]:
        """Windows whose steps start from ``inputs`` (B, T, F), and the ids that lead from there to the truth."""
        states, places = batch["states"], batch["event"].shape[1]
        if places != self.layout.max_event:
            raise ValueError(
                f"windows with {places} places for an event's ids and a model with {self.layout.max_event}: "
                "give both the same max_event"
            )
        targets = self.codec.targets(states, inputs)
        ids = torch.where(targets.weight > 0.5, targets.high, targets.low)
        first = self.codec.encode(states[:, 0], "absolute")
        ids[:, 0] = targets.low[:, 0] = targets.high[:, 0] = first
        video = batch.get("video", ids.new_zeros(*states.shape[:2], self.layout.num_video))
        prepared = DynamicsBatch(
            text=batch["text"],
            static=self.codec.encode(states[:, 0], "static"),
            actions=batch["actions"],
            state_ids=ids,
            states=states,
            input_states=inputs,
            video=video,
            input_video=video,
            event=batch["event"],
            event_block=batch["event_block"],
        )
        return prepared, targets

    # -- losses ---------------------------------------------------------------------------------------

    def losses(
        self, batch: dict[str, Tensor], k: int, state_k: int | None = None, *, disturb: bool
    ) -> dict[str, Tensor]:
        """Nats an id, by modality, and their weighted sum as ``loss``. What a world does not have, has no key."""
        prepared, targets = self.prepare(batch, disturb=disturb)
        if self.only_outcome:
            return {"loss": self._outcome_loss(prepared)}
        with_video, cells = "video" in batch, None
        near = near_changes(prepared.video, self.layout.grid)
        if self.asked_share < 1:
            near[:, 0] = 0
            cells = asked_cells(near, self.asked_share) if disturb and with_video else None
        logits = self.dynamics(prepared, k, state_k=state_k, with_video=with_video, cells=cells)
        foreseen = ~batch["skipped"][:, 1:]
        total, out = torch.zeros((), device=self.device), {}
        if self.layout.num_state:
            weighted, found = self._state_loss(batch, logits, targets, foreseen, disturb=disturb)
            total, out = total + weighted, out | found
        if self.layout.num_static or self.layout.max_text:
            out["header"] = self._header_loss(prepared, logits)
            total = total + self.header_weight * out["header"]
        if self.layout.num_state and self.layout.max_text:
            some = {name: batch[name][::4] for name in ("opening", "text")} if disturb else batch
            out["caption"] = self._caption_loss(some)
            total = total + self.caption_weight * out["caption"]
        if logits.video is not None:
            weighted, out["video"] = self._video_loss(prepared.video, logits.video, foreseen, near, cells)
            total = total + weighted
        if logits.outcome is not None:
            found = self._frame_outcome_losses(batch, logits.outcome, foreseen)
            total, out = total + sum(found.values()), out | found
        if self.dynamics.action_prior is not None:
            out["action"] = self._action_loss(batch, foreseen)
            total = total + out["action"]
        return {"loss": total} | out

    def _action_loss(self, batch: dict[str, Tensor], foreseen: Tensor) -> Tensor:
        """Nats of what is done next, of the actions that are known."""
        prior, actions = self.dynamics.action_prior, self.completed(batch)["actions"]
        assert prior is not None
        known = foreseen & (actions[:, 1:] >= 0).all(-1)
        video, last, following = (part[known] for part in (batch["video"][:, :-1], actions[:, :-1], actions[:, 1:]))
        return prior.nats(video, last, following).mean() if len(video) else video.sum() * 0.0

    def _state_loss(
        self, batch: dict[str, Tensor], logits: Logits, targets: ChangeTargets, foreseen: Tensor, *, disturb: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        log_p = logits.state.log_softmax(-1)
        low = log_p.gather(-1, targets.low[..., None])[..., 0]
        high = log_p.gather(-1, targets.high[..., None])[..., 0]
        nats = -torch.where(targets.weight > 0, (1 - targets.weight) * low + targets.weight * high, low)
        by_step = nats[:, 1:].mean(-1)[foreseen]
        state = by_step.mean()
        # Most steps roll on; what decides where things go are the few in which something is hit.
        hardness = (by_step / state).detach().clamp(0.3, 5) if disturb else torch.ones_like(by_step)
        eventful = batch["event_block"][:, None] == torch.arange(1, nats.shape[1], device=nats.device)
        eventful = eventful[foreseen]
        hardness = hardness * (1 + (self.event_weight - 1) * eventful)
        out = {"state": state, "first_state": nats[:, 0].mean()}
        if eventful.any():
            out["event"] = by_step[eventful].mean()
        weighted = self.state_weight * (hardness * by_step).mean() + self.header_weight * out["first_state"]
        return weighted, out

    def _header_loss(self, batch: DynamicsBatch, logits: Logits) -> Tensor:
        header_ids = self.layout.pack_header(batch.text, batch.static)  # events are not foreseen
        spoken = (header_ids != self.layout.vocabulary.special("pad")).clone()
        spoken[:, :2] = False
        return F.cross_entropy(logits.header[spoken], header_ids[spoken])

    def _video_loss(
        self, video: Tensor, logits: Tensor, foreseen: Tensor, near: Tensor, cells: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Weighted, and nats an id. What follows a jump in time cannot be foreseen where no state tells of it."""
        count = torch.ones_like(near)
        if cells is not None:  # each kind of cell counts as all of its kind
            video, of, near = video.gather(-1, cells), near, near.gather(-1, cells)
            near_all, near_asked = (kind.sum(-1, keepdim=True) for kind in (of, near))
            quiet_all, quiet_asked = of.shape[-1] - near_all, near.shape[-1] - near_asked
            count = torch.where(near > 0, near_all / near_asked.clamp_min(1), quiet_all / quiet_asked.clamp_min(1))
        nats = F.cross_entropy(logits.flatten(0, -2), video.flatten(), reduction="none").view_as(count)
        weight = count * (1 + (self.change_weight - 1) * near)
        if not self.layout.num_state:
            weight = weight * F.pad(foreseen, (1, 0), value=True)[..., None]
        return (nats * weight).sum() / weight.sum(), (nats * count).sum() / count.sum()

    def _frame_outcome_losses(
        self, batch: dict[str, Tensor], logits: OutcomeLogits, foreseen: Tensor
    ) -> dict[str, Tensor]:
        """Of reward and end as the picture tells them; rare ones weigh more."""
        out: dict[str, Tensor] = {}
        reader = self.dynamics.frame_outcome
        assert reader is not None
        if logits.reward is not None and "rewards" in batch:
            rewards = batch["rewards"][:, 1:][foreseen]
            target = (rewards[:, None] - reader.values).abs().argmin(-1)
            weight = 1 + (self.outcome_weight - 1) * (rewards != 0)
            nats = F.cross_entropy(logits.reward[:, 1:][foreseen], target, reduction="none")
            out["reward"] = (nats * weight).sum() / weight.sum()
        if logits.end is not None and "terminated" in batch:
            ends = batch["terminated"][:, 1:][foreseen].float()
            weight = 1 + (self.outcome_weight - 1) * ends
            nats = F.binary_cross_entropy_with_logits(logits.end[:, 1:][foreseen], ends, reduction="none")
            out["end"] = (nats * weight).sum() / weight.sum()
        return out

    def _outcome_loss(self, batch: DynamicsBatch) -> Tensor:
        outcome = self.dynamics.outcome
        assert outcome is not None
        logits = self.dynamics.outcome_logits(batch.states[:, 1:], batch.input_states[:, 1:])
        ids = batch.state_ids[:, 1:, outcome.slots]
        return F.cross_entropy(logits.flatten(0, 2), ids.flatten())

    def _caption_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Nats an id of the captions, of the scenes that they speak of."""
        scene, v = batch["opening"], self.layout.vocabulary
        ids = self.codec.encode(scene, "static"), self.codec.encode(scene, "absolute")
        caption = self.layout.pack_header(batch["text"], ids[0])[:, 1 : self.layout.header_text.stop + 1]
        logits, target = self.dynamics.caption_logits(*ids, scene, caption[:, :-1]), caption[:, 1:]
        return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=v.special("pad"))

    # -- Lightning ------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        k = self.dynamics.config.tokens_per_pass[int(torch.multinomial(self.mode_shares, 1))]
        state_k = self.dynamics.state_modes[int(torch.multinomial(self.state_mode_shares, 1))]
        beside: Any = batch.pop("beside", None)
        losses = self.losses(batch, k, state_k, disturb=True)
        if beside is not None:
            other = {name: value.flatten(0, 1) for name, value in beside.items()}
            other = self.losses(other, k, state_k, disturb=True)
            losses |= {f"beside/{name}": value for name, value in other.items()}
            losses["loss"] = losses["loss"] + other["loss"]
        self.log_dict({name: value.detach() for name, value in losses.items()}, batch_size=len(batch["skipped"]))
        return losses["loss"]

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        losses = self.losses(batch, self.dynamics.config.tokens_per_pass[0], disturb=False)
        named = {f"val/{name}": value for name, value in losses.items()}
        self.log_dict(named, on_epoch=True, batch_size=len(batch["skipped"]))

    @torch.no_grad()
    def sample_video(self, batch: dict[str, Tensor]) -> Tensor | None:
        """A window's true frames above what is imagined from its beginning under its actions, uint8 (T, 2H, W, 3)."""
        if self.tokenizer_path is None or "video" not in batch:
            return None
        tokenizer = VideoTokenizer.load(self.tokenizer_path).saying(self.dynamics.config.said).to(self.device)
        world = World(schema=self.schema, text=self.text, tokenizer=tokenizer, dynamics=self.dynamics)
        full = self.completed(batch)
        states = None if tokenizer.schema is None else full["states"][:1]
        real = tokenizer.decode(batch["video"][:1].unflatten(-1, self.layout.grid), states)
        stateful = self.schema.num_values > 0
        rollout = world.start(
            frames=None if stateful else real[:, :1], state=full["states"][0, 0] if stateful else None
        )
        ids = full["actions"][0, 1:]
        actions = self.schema.actions.ids_to_values(ids) if self.schema.actions else [None] * len(ids)
        imagined = [rollout.frames]
        for values in actions:
            action = None if values is None else self.schema.actions.unflatten(values.cpu().numpy())
            imagined.append(rollout.step(action).frames)
        return torch.cat([real, torch.cat(imagined, 1)], 2)[0].cpu()

    def hidden_matrices(self) -> list[nn.Parameter]:
        dynamics = self.dynamics
        blocks = [p for p in dynamics.blocks.parameters() if p.dim() == 2]
        matrices = blocks + ([] if dynamics.state_painter is None else dynamics.state_painter.matrices())
        if dynamics.nearby is not None:
            matrices += [p for p in dynamics.nearby.blocks.parameters() if p.dim() == 4]
        return [matrix for matrix in matrices if matrix.requires_grad]
