import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_run import NumberedStore, TinyClips

from tokenizer.clip import Clip
from train.data.clips import ClipDataset, clip_to_tensors
from train.data.draws import Draws


def dataset(**changes) -> ClipDataset:
    return ClipDataset(**{"store": NumberedStore(), "num_steps": 4, "resolution": 4, "seed": 3, **changes})


def test_frames_actions_and_states_of_a_window_belong_together():
    for draw in range(20):
        item = dataset()[draw]
        start = int(item["states"][0, 1])
        assert item["frames"].shape == (9, 4, 4, 3)
        assert item["frames"][:, 0, 0, 1].tolist() == list(range(2 * start, 2 * start + 9))
        assert item["states"][:, 1].tolist() == list(range(start, start + 5))
        assert item["actions"].tolist() == [[t % 3] for t in range(start, start + 4)]
        assert item["caption"] == f"episode {int(item['frames'][0, 0, 0, 0])}"
        assert item["frames"].dtype == torch.uint8
        assert item["states"].dtype == torch.float32


def test_a_window_tells_what_its_episode_mostly_shows_if_it_is_asked():
    item = dataset(background=True)[3]
    frames = NumberedStore().read(int(item["frames"][0, 0, 0, 0])).frames
    assert item["background"].shape == (4, 4, 3)
    assert torch.equal(item["background"], torch.from_numpy(frames).median(0).values)
    assert "background" not in dataset()[3]


def test_a_draw_means_the_same_window_whoever_asks_and_whenever():
    one, other = dataset(), dataset(cache_in_memory=False)
    draws = [31, 2, 17, 2, 100]
    for draw in draws:
        assert torch.equal(one[draw]["frames"], other[draw]["frames"])
    different = [not torch.equal(one[d]["frames"], dataset(seed=4)[d]["frames"]) for d in range(8)]
    assert sum(different) >= 6


def test_every_round_visits_every_long_enough_episode_once():
    clips = dataset()
    assert len(clips) == 10
    for number in range(3):
        seen = sorted(int(clips[10 * number + i]["states"][0, 0]) for i in range(10))
        assert seen == [0, 1, 2, 3, 6, 7, 8, 9, 10, 11]


def test_all_windows_of_an_episode_are_reached():
    starts = {int(dataset(num_steps=11)[draw]["states"][0, 1]) for draw in range(30)}
    assert starts == {0, 1}


def test_decoded_episodes_are_kept_on_disk_for_the_next_run(tmp_path, monkeypatch):
    wanted = {"segmentation": True, "cache_folder": tmp_path, "cache_in_memory": False}
    first = [dataset(**wanted)[draw] for draw in range(10)]

    def unread(*_, **__):
        raise AssertionError("a kept episode is not decoded again")

    monkeypatch.setattr(NumberedStore, "read", unread)
    again = dataset(**wanted)
    for draw, item in enumerate(first):
        kept = again[draw]
        assert kept.keys() == item.keys()
        assert kept["caption"] == item["caption"]
        assert all(torch.equal(kept[name], item[name]) for name in ("frames", "actions", "states", "segmentation"))


def test_a_full_disk_is_said_in_one_sentence_and_leaves_no_rest(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match=r"No space left on device\): free some space or set cache_folder to null"):
        dataset(cache_folder=tmp_path)[0]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_segmentation_comes_at_the_frames_resolution():
    item = dataset(segmentation=True)[0]
    assert item["segmentation"].shape == (9, 4, 4)
    assert (item["segmentation"] == item["frames"][..., 0]).all()


def test_a_plain_video_gives_frames_alone():
    assert set(clip_to_tensors(Clip(frames=np.zeros((5, 4, 4, 3), np.uint8)))) == {"frames", "caption"}


def test_a_split_that_cannot_serve_is_told_in_a_sentence():
    with pytest.raises(ValueError, match="no test episodes: record more"):
        dataset(split="test")
    with pytest.raises(ValueError, match="is 13 steps long, the longest has 12: lower num_steps"):
        dataset(num_steps=13)
    with pytest.raises(ValueError, match="must be positive"):
        dataset(num_steps=0)
    with pytest.raises(ValueError, match="an epoch has 24 windows and a batch 32: record more"):
        TinyClips(batch_size=32).train_dataloader()


def test_batches_are_dictionaries_of_stacked_tensors_and_captions():
    batch = next(iter(TinyClips().train_dataloader()))
    assert batch["frames"].shape == (4, 5, 4, 4, 3)
    assert batch["actions"].shape == (4, 2, 1)
    assert batch["states"].shape == (4, 3, 2)
    assert len(batch["caption"]) == 4


def test_a_loader_resumes_where_it_was_saved_also_in_a_later_epoch():
    def captions(loader) -> list[list[str]]:
        return [batch["caption"] for batch in loader]

    loader = TinyClips().train_dataloader()
    first, second = captions(loader), captions(loader)
    assert first != second

    loader = TinyClips().train_dataloader()
    captions(loader)
    batches = iter(loader)
    for _ in range(2):
        next(batches)
    resumed = TinyClips().train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    assert captions(resumed) == second[2:]
    assert captions(resumed) not in (first, second)


def test_ranks_share_an_epoch_without_overlap():
    shares = [list(Draws(10, rank, 2)) for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == list(range(10))
