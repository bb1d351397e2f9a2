"""Token shards and the training of tokenizer and dynamics, on seconds of data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tokenizer.text_tokenizer import TextTokenizer
from tokenizer.video_tokenizer import QuantizerConfig, VideoTokenizerConfig
from train.data.tokens import TokenDataModule, TokenisedEpisode, TokenStore, TokenWindows, TokenWriter
from train.modules.dynamics import DynamicsModule, asked_cells, near_changes
from train.modules.schedule import Muon, MuonAndAdamW, load_trained
from train.modules.tokenizer import TokenizerModule, cut_in

from ...worldmodel.tiny_world import PLANE

CONFIG = {"width": 48, "depth": 2, "heads": 2, "window": 2, "max_text": 24, "tokens_per_pass": [4, 2]}


def states_of(episode: TokenisedEpisode) -> Tensor:
    assert episode.states is not None
    return episode.states


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve short simulated episodes with made-up video ids on a 2x2 grid that follow the player's place."""
    pytest.importorskip("mujoco")
    from train.tokenize import simulate_states
    from train.worlds.tabletop.schema import tabletop_schema

    schema, folder = tabletop_schema(), tmp_path_factory.mktemp("tokens")
    episodes = []
    for i in range(12):
        simulated = simulate_states("tabletop", 5, i, 12)
        place = states_of(simulated)[:, schema.columns("player", "position")]
        corners = [(x, y) for x in (-0.1, 0.1) for y in (0, 0.2)]
        video = torch.stack([(place[:, 0] > x).long() * 2 + (place[:, 1] > y).long() for x, y in corners], 1)
        split = "validation" if i == 0 else "train"
        episodes.append(
            TokenisedEpisode(
                episode=i,
                split=split,
                caption=simulated.caption,
                states=simulated.states,
                actions=simulated.actions,
                video=video,
            )
        )
    text = TextTokenizer.train([e.caption for e in episodes], 400)
    writer = TokenWriter(
        folder, schema=schema, text=text, quantizer=QuantizerConfig(kind="vq", num_codes=4), grid=(2, 2)
    )
    writer.write_shard(episodes[:7])
    writer.write_shard(episodes[7:])
    writer.close()
    return folder


def batch_of(tokens: Path, size: int = 8) -> dict[str, Tensor]:
    windows = TokenWindows(TokenStore(tokens), "train", num_blocks=5, max_text=24, skip_share=0.3)
    items = [windows[i] for i in range(size)]
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def test_token_shards_give_back_what_was_written(tokens: Path) -> None:
    from train.tokenize import simulate_states

    store = TokenStore(tokens)
    train = store.load("train")
    assert [e.episode for e in train] == list(range(1, 12))
    again = simulate_states("tabletop", 5, 3, 12)
    kept = next(e for e in train if e.episode == 3)
    assert torch.equal(states_of(kept), states_of(again))
    assert kept.actions is not None
    assert again.actions is not None
    assert torch.equal(kept.actions, again.actions)
    assert kept.caption == again.caption
    assert kept.video is not None
    assert len(kept.video) == len(states_of(kept))


def test_a_draw_is_the_same_window_whenever_it_is_asked_for(tokens: Path) -> None:
    first = TokenWindows(TokenStore(tokens), "train", num_blocks=5, max_text=24, skip_share=0.5, seed=3)
    second = TokenWindows(TokenStore(tokens), "train", num_blocks=5, max_text=24, skip_share=0.5, seed=3)
    order = [len(first) + 4, 0, 7]
    wanted = {draw: first[draw] for draw in sorted(order)}
    for draw in order:
        assert all(torch.equal(second[draw][name], value) for name, value in wanted[draw].items())


def test_a_jump_in_time_is_marked_and_actions_stay_with_their_states(tokens: Path) -> None:
    windows = TokenWindows(TokenStore(tokens), "train", num_blocks=5, max_text=24, skip_share=1.0)
    jumps = [windows[i] for i in range(40)]
    assert any(item["skipped"].any() for item in jumps)
    for item in jumps:
        assert item["actions"][0] == -1
        assert not item["skipped"][0]


def test_a_window_is_told_one_event_and_cannot_foresee_the_others(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    from train.tokenize import write_simulated

    write_simulated("tabletop", 4, tmp_path, VideoTokenizerConfig(), seed=3, num_steps=20, workers=1, eventful=0.5)
    store = TokenStore(tmp_path)
    episodes = {tuple(states_of(e)[0].tolist()): e for e in store.load("train")}
    assert sum(len(e.events) for e in episodes.values()) > 10
    windows = TokenWindows(store, "train", num_blocks=5, max_text=24, max_event=32)
    told, motion = 0, store.schema.columns("episode", "motion").start
    assert motion == store.schema.num_values - 1
    assert windows.read is not None
    assert store.text is not None
    for draw in range(60):
        item = windows[draw]
        episode, (*begun, said) = episodes[tuple(item["opening"].tolist())], item["states"][0].tolist()
        start = next(t for t in range(len(states_of(episode))) if states_of(episode)[t, :-1].tolist() == begun)
        assert said == pytest.approx(float(windows.read.motion(item["states"][:1]).clamp_max(0.8)))
        assert (item["states"][:, motion] == said).all()
        here = {block: episode.events[start + block] for block in range(1, 5) if start + block in episode.events}
        block, words = int(item["event_block"]), store.text.decode(item["event"][item["event"] >= 0].tolist())
        assert set(item["skipped"].nonzero()[:, 0].tolist()) == set(here) - {block}
        assert words == here.get(block, "")
        assert (block > 0) == bool(here)
        told += block > 0
    assert 20 < told < 60
    unheard = TokenWindows(store, "train", num_blocks=5, max_text=24)
    assert any(bool(unheard[draw]["skipped"].any()) for draw in range(9))


def test_states_beside_the_stream_are_learned_with_it(tokens: Path, tmp_path: Path) -> None:
    from train.tokenize import write_simulated

    def data_of(beside: Path, **changes: int) -> TokenDataModule:
        given = {"num_blocks": 5, "max_text": 24, "max_event": 24, "batch_size": 2, "beside_count": 4} | changes
        return TokenDataModule(str(tokens), beside=str(beside), **given)

    for name, text in (("others", None), ("ours", TokenStore(tokens).text)):
        size = VideoTokenizerConfig()
        write_simulated("tabletop", 6, tmp_path / name, size, seed=3, num_steps=8, workers=1, eventful=0.5, text=text)
    with pytest.raises(ValueError, match="make both kinds with one text tokenizer"):
        data_of(tmp_path / "others").train_dataloader()
    data = data_of(tmp_path / "ours")
    first, again = (next(iter(data.train_dataloader())) for _ in range(2))
    beside = first["beside"]
    assert beside["states"].shape[:3] == (2, 4, 3)
    assert torch.equal(beside["states"], again["beside"]["states"])
    assert len(beside["states"].flatten(0, 1).unique(dim=0)) == 8
    assert (beside["event_block"] > 0).any()
    assert not (first["event_block"] > 0).any()
    assert "video" not in beside

    torch.manual_seed(0)
    module = DynamicsModule(str(tokens), CONFIG | {"max_event": 24, "state_tokens_per_pass": [31, 6]})
    logged: dict[str, Tensor] = {}
    module.log_dict = lambda named, **_: logged.update(named)  # type: ignore[method-assign]
    loss = module.training_step(first, 0)
    torch.testing.assert_close(loss, logged["loss"])
    assert {"video", "beside/event", "beside/state"} <= set(logged)
    assert "beside/video" not in logged
    loss.backward()
    heard = module.dynamics.state_painter.heard  # type: ignore[union-attr]
    assert heard.weight.grad.abs().sum() > 0  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="beside_count 4"):
        data_of(tmp_path / "ours", beside_count=2).load_state_dict(data.state_dict())
    alone = TokenDataModule(str(tokens), num_blocks=5, max_text=24, max_event=24, batch_size=2)
    with pytest.raises(ValueError, match=r"beside_blocks 3 \(now None\)"):
        alone.load_state_dict(data.state_dict())
    with pytest.raises(ValueError, match=r"beside_blocks None \(now 3\)"):
        data.load_state_dict(alone.state_dict())
    alone.load_state_dict({name: value for name, value in alone.state_dict().items() if "beside" not in name})  # older


def test_windows_longer_than_every_episode_are_refused(tokens: Path) -> None:
    with pytest.raises(ValueError, match="lower num_blocks"):
        TokenWindows(TokenStore(tokens), "train", num_blocks=99, max_text=24)


def test_resuming_with_another_batch_size_is_refused(tokens: Path) -> None:
    saved = TokenDataModule(str(tokens), batch_size=8).state_dict()
    with pytest.raises(ValueError, match="batch_size 8"):
        TokenDataModule(str(tokens), batch_size=4).load_state_dict(saved)


def test_dynamics_learn_every_modality(tokens: Path) -> None:
    torch.manual_seed(0)
    module = DynamicsModule(str(tokens), CONFIG, state_noise=0.0, corruption=0.0, caption_dropout=0.0)
    batch = batch_of(tokens)
    with torch.no_grad():  # as validation does
        before = module.losses(batch, 4, disturb=False)
    optimizer = torch.optim.AdamW(module.parameters(), 3e-3)
    for step in range(40):
        loss = module.losses(batch, [4, 2][step % 2], disturb=True)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        after = module.losses(batch, 4, disturb=False)
    assert set(after) == {"loss", "state", "first_state", "header", "caption", "video"}
    for name, value in after.items():
        assert value < 0.8 * before[name], name


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_states_alone_train_without_video(share: float, tokens: Path) -> None:
    module = DynamicsModule(str(tokens), CONFIG, asked_share=share)
    batch = batch_of(tokens)
    with_video = module.losses(batch, 4, disturb=False)
    states = {name: value for name, value in batch.items() if name != "video"}
    alone = module.losses(states, 4, disturb=False)
    torch.testing.assert_close(alone["state"], with_video["state"])
    assert "video" not in alone
    module.losses(states, 4, disturb=True)["loss"].backward()


def test_asking_for_some_cells_says_the_same_on_average(tokens: Path) -> None:
    torch.manual_seed(0)
    module, codes = DynamicsModule(str(tokens), CONFIG), 8
    video, near = torch.randint(codes, (3, 5, 40)), (torch.rand(3, 5, 40) < 0.2).float()
    logits = torch.randn(*video.shape, codes) + 2 * near[..., None] * torch.randn(codes)
    foreseen = torch.rand(3, 4) < 0.9
    whole = torch.stack(module._video_loss(video, logits, foreseen, near, None))
    found, left_out = [], []
    for _ in range(200):
        cells = asked_cells(near, 0.4)
        assert cells.shape == (3, 5, 16)
        asked = logits.gather(2, cells[..., None].expand(-1, -1, -1, codes))
        found.append(torch.stack(module._video_loss(video, asked, foreseen, near, cells)))
        left_out.append(1 - near.gather(-1, cells).sum() / near.sum())
    torch.testing.assert_close(torch.stack(found).mean(0), whole, rtol=0.01, atol=0)
    assert torch.stack(left_out).mean() < 0.1  # few of those near a change


def test_cells_that_are_asked_for_alone_are_told_as_among_all(tokens: Path) -> None:
    module, batch = DynamicsModule(str(tokens), CONFIG), batch_of(tokens)
    prepared, _ = module.prepare(batch, disturb=False)
    cells = torch.rand(prepared.video.shape).topk(2, -1).indices
    for k in (4, 2):
        whole, some = (module.dynamics(prepared, k, cells=one) for one in (None, cells))
        assert whole.video is not None
        assert some.video is not None
        asked = whole.video.gather(2, cells[..., None].expand(-1, -1, -1, whole.video.shape[-1]))
        torch.testing.assert_close(some.video, asked, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(some.state, whole.state, atol=1e-5, rtol=1e-4)


def test_a_jump_carries_no_state_loss(tokens: Path) -> None:
    module = DynamicsModule(str(tokens), CONFIG)
    batch = batch_of(tokens)
    batch["skipped"][:, 1:] = True
    batch["skipped"][:, 1] = False
    whole = module.losses(batch, 4, disturb=False)["state"]
    batch["states"] = batch["states"].clone()
    batch["states"][:, 4, :] = batch["states"][:, 0, :]  # a state that only skipped steps lead to
    torch.testing.assert_close(module.losses(batch, 4, disturb=False)["state"], whole)


def test_cells_near_a_change_are_found() -> None:
    video = torch.zeros(1, 2, 16, dtype=torch.long)
    video[0, 1, 0] = 1
    near = near_changes(video, (4, 4))[0, 1].reshape(4, 4)
    assert near[:2, :2].all()
    assert near.sum() == 4


def test_muon_does_as_torchs_does() -> None:
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((8, 32), (32, 8), (8, 32))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    before = [p.detach().clone() for p in ours]
    both = Muon(ours, 0.01, 0.02), torch.optim.Muon(theirs, lr=0.01, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for optimizer in both:
            optimizer.step()
    for a, b, begun in zip(ours, theirs, before, strict=True):
        moved = (b - begun).norm()
        assert (a - b).norm() < 0.03 * moved  # its iteration is in bfloat16


def test_muon_moves_the_weights_it_is_given_and_its_state_comes_back() -> None:
    torch.manual_seed(0)

    def build() -> tuple[torch.nn.Module, MuonAndAdamW]:
        torch.manual_seed(1)
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 2, 1))
        net = net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return net, MuonAndAdamW(net, [p for p in net.parameters() if p.dim() == 4], 1e-2, 0.0)

    def train(net: torch.nn.Module, optimizer: MuonAndAdamW, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            net(torch.ones(2, 3, 8, 8)).square().mean().backward()
            optimizer.step()

    whole, optimizer = build()
    train(whole, optimizer, 4)
    part, first = build()
    untouched = part[0].weight.clone()  # type: ignore[union-attr, operator]
    train(part, first, 2)
    assert not torch.equal(part[0].weight, untouched)  # type: ignore[arg-type]
    resumed, second = build()
    resumed.load_state_dict(part.state_dict())
    second.load_state_dict(first.state_dict())
    train(resumed, second, 2)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_is_cut_in_is_the_next_clips():
    values, chosen = torch.rand(3, 4, 2, 2), torch.zeros(3, 4, dtype=torch.bool)
    chosen[1, 2] = True
    out = cut_in(values, chosen)
    assert torch.equal(out[1, 2], values[0, 2])
    assert torch.equal(out[~chosen], values[~chosen])


def test_tokenizer_training_lowers_its_loss_with_and_without_states() -> None:
    torch.manual_seed(0)
    config = {"resolution": 16, "encoder_width": 16, "decoder_width": 16, "detail_width": 16}
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (4, 2, 2, 3), dtype=np.uint8))
    frames = frames.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None].expand(-1, 5, -1, -1, -1)
    for schema in (None, PLANE):
        module = TokenizerModule(config, noise_steps=0, schema=schema.to_json() if schema else None)
        batch = {"frames": frames, "states": torch.rand(4, 2, PLANE.num_values)}
        optimizer, losses = torch.optim.AdamW(module.parameters(), 1e-2), []
        for _ in range(40):
            losses.append(module.training_step(batch, 0))
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
        assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
        assert all(p.grad is not None for p in module.parameters())
    with pytest.raises(ValueError, match="decodes with scene states but the batch has none: record them too"):
        module.training_step({"frames": frames}, 0)


def test_a_grown_model_starts_as_the_one_it_grew_from(tmp_path: Path) -> None:
    small, grown = torch.nn.Sequential(torch.nn.Linear(3, 2)), torch.nn.Sequential(torch.nn.Linear(5, 2))
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {f"net.{name}": value for name, value in small.state_dict().items()}}, path)
    load_trained(torch.nn.ModuleDict({"net": grown}), str(path), "net.")
    x = torch.rand(4, 5)
    torch.testing.assert_close(grown(x), small(x[:, :3]))
    taller = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    with pytest.warns(UserWarning, match=r"lacks 1\.bias, 1\.weight: they start untrained"):
        load_trained(torch.nn.ModuleDict({"net": taller}), str(path), "net.")
    with pytest.raises(ValueError, match="holds no weights for this model: start from a run of the same configuration"):
        load_trained(torch.nn.ModuleDict({"net": torch.nn.Sequential(torch.nn.Linear(3, 4))}), str(path), "net.")


def test_further_experts_start_as_the_first(tmp_path: Path) -> None:
    def network(experts: int) -> torch.nn.ModuleDict:
        return torch.nn.ModuleDict({"experts": torch.nn.ModuleList(torch.nn.Linear(3, 2) for _ in range(experts))})

    one, three = network(1), network(3)
    torch.save({"state_dict": one.state_dict()}, tmp_path / "last.ckpt")
    load_trained(three, str(tmp_path / "last.ckpt"), "")
    for expert in three["experts"]:  # type: ignore[attr-defined]
        torch.testing.assert_close(expert.weight, one["experts"][0].weight)  # type: ignore[index]
