"""What is no checkpoint of ours is named in a sentence, and nothing in it runs."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from train.export import main, read_tokenizer, read_upsampler


class Runs:
    """What a pickle may do to whoever opens it."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("it-ran"),)


def test_a_foreign_or_broken_checkpoint_is_named_with_the_mend(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for name, write in {
        "pickled.ckpt": lambda path: path.write_bytes(pickle.dumps(Runs())),
        "tensor.ckpt": lambda path: torch.save(torch.zeros(3), path),
        "state.ckpt": lambda path: torch.save({"state_dict": {}}, path),
        "text.ckpt": lambda path: path.write_text("weights", encoding="utf-8"),
        "empty.ckpt": lambda path: path.touch(),
    }.items():
        write(Path(name))
        assert main(["--tokenizer", name, "--out", "out"]) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"error: {name} is")
        assert said.count("\n") == 1
    assert not Path("it-ran").exists()
    assert not Path("out").exists()


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": {"config": {"depth": 2, "heads": 4, "window": 2}}}, path)
    with pytest.raises(ValueError, match="of another kind of network"):
        read_tokenizer(path)
    with pytest.raises(ValueError, match="of another kind of network"):
        read_upsampler(path)
