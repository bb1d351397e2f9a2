"""Text on disk is UTF-8, whatever the machine's own encoding is."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
SCRIPT = """
import sys
import warnings
from pathlib import Path

# Other people's packages may do as they like.
warnings.filterwarnings("error", category=EncodingWarning, module=r"(__main__|tokenizer|worldmodel|train)(\\.|$)")

import numpy as np
import torch
from tokenizer.clip import Episode
from tokenizer.quantizer import QuantizerConfig
from tokenizer.state_schema import Entity, Field, StateSchema
from tokenizer.text_tokenizer import TextTokenizer
from train.data.clips import ClipDataset
from train.data.episode_store import EpisodeStore
from train.data.episode_writer import EpisodeWriter, RecordingConfig
from train.data.tokens import TokenisedEpisode, TokenStore, TokenWriter

folder, caption = Path(sys.argv[1]), "\\u65b9\\u5757, ein W\\u00fcrfel"
field = Field(name="\\u03b8", kind="continuous", role="value", unit="\\u00b0")
schema = StateSchema(name="W\\u00fcrfel", frames_per_step=1, entities=(Entity(name="arm", fields=(field,)),))
writer = EpisodeWriter(folder / "recording", RecordingConfig(schema=schema, size=16, settings={"by": caption}))
with writer.shard(0) as shard:
    for i in range(2):
        states = np.zeros((3, 1), np.float32)
        frames = np.zeros((3, 16, 16, 3), np.uint8)
        episode = Episode(frames=frames, states=states, caption=caption, frames_per_step=1)
        shard.add(i, episode, ("train", "validation")[i])
writer.consolidate()
EpisodeWriter(folder / "recording", writer.config)
store = EpisodeStore(folder / "recording")
assert store.schema == schema and store.read(1).caption == caption
assert ClipDataset(store, num_steps=1, resolution=16)[0]["caption"] == caption
text = TextTokenizer.train([caption], 300)
codes = QuantizerConfig(kind="vq", num_codes=4)
tokens = TokenWriter(folder / "tokens", schema=schema, text=text, quantizer=codes, grid=(1, 1))
tokens.write_shard([TokenisedEpisode(episode=0, split="train", caption=caption, states=torch.zeros(3, 1))])
tokens.close()
read = TokenStore(folder / "tokens")
assert read.schema == schema and read.load("train")[0].caption == caption
print("written and read")
"""


def test_recordings_and_tokens_name_the_encoding_of_every_text_file(tmp_path: Path) -> None:
    """A machine whose own encoding holds no Chinese gets the same files, and nothing relies on it."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-X", "warn_default_encoding", str(script), str(tmp_path)]
    ended = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False, timeout=120)
    assert ended.stdout.strip() == "written and read", ended.stderr


def test_every_text_file_of_the_four_packages_and_the_tests_is_opened_as_utf8() -> None:
    found = []
    for folder in ("tokenizer", "worldmodel", "train", "demo", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
            found += [f"{path.relative_to(ROOT)}:{call.lineno}" for call in calls if _leaves_it_to_the_machine(call)]
    assert not found


def _leaves_it_to_the_machine(call: ast.Call) -> bool:
    """Whether a call opens text without naming its encoding, as far as one can tell without running it."""
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    match call.func:
        case ast.Attribute(attr="read_text"):
            return not call.args
        case ast.Attribute(attr="write_text"):
            return len(call.args) < 2
        case ast.Name(id="open"):
            return not (
                len(call.args) > 1 and isinstance(call.args[1], ast.Constant) and "b" in str(call.args[1].value)
            )
        case ast.Attribute(attr="run" | "Popen" | "check_output", value=ast.Name(id="subprocess")):
            return any(keyword.arg in ("text", "universal_newlines") for keyword in call.keywords)
    return False
