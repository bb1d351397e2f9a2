import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenizer.action_space import ActionSpace
from tokenizer.state_schema import Entity, Field, StateSchema
from tokenizer.text_tokenizer import TextTokenizer
from tokenizer.vocabulary import RANGES, SPECIALS, Vocabulary

sizes = st.integers(0, 50)
vocabularies = st.builds(Vocabulary, text=sizes, action=sizes, state=sizes, video=sizes)


@given(vocabularies)
def test_ranges_are_disjoint_and_cover_the_vocabulary(vocabulary: Vocabulary):
    ids = [i for name in RANGES for i in range(len(vocabulary))[vocabulary.span(name)]]
    assert ids == list(range(len(vocabulary)))


@given(vocabularies, st.sampled_from(RANGES))
def test_local_ids_come_back(vocabulary: Vocabulary, name):
    local = torch.arange(vocabulary.size(name))
    ids = vocabulary.to_global(name, local)
    assert torch.equal(vocabulary.to_local(name, ids), local)


@given(vocabularies, st.sampled_from(RANGES), st.integers(-3, 300))
def test_ids_outside_their_range_are_refused(vocabulary: Vocabulary, name, number: int):
    span = vocabulary.span(name)
    if not 0 <= number < vocabulary.size(name):
        with pytest.raises(ValueError, match=f"id {number} is outside the local {name} range"):
            vocabulary.to_global(name, torch.tensor([[number]]))
    if not span.start <= number < span.stop:
        with pytest.raises(ValueError, match=f"id {number} is outside the .* {name} range"):
            vocabulary.to_local(name, torch.tensor([number]))


def test_special_tokens_are_named():
    vocabulary = Vocabulary(text=4)
    assert sorted(vocabulary.special(name) for name in SPECIALS) == list(range(len(SPECIALS)))
    with pytest.raises(ValueError, match="no special token 'eos'; there are pad, bos"):
        vocabulary.special("eos")


def test_ids_that_are_no_whole_numbers_are_refused():
    with pytest.raises(ValueError, match="whole numbers"):
        Vocabulary(text=4).to_global("text", torch.tensor([0.5]))
    with pytest.raises(ValueError, match="no range 'audio'"):
        Vocabulary().span("audio")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="cannot hold -1 ids"):
        Vocabulary(video=-1)


def test_anything_that_changes_an_ids_meaning_changes_the_fingerprint():
    schema = StateSchema(name="a", entities=(Entity(name="e", fields=(Field(name="f", kind="flag", role="value"),)),))
    text = TextTokenizer.train(["a red ball"], 400)
    base = Vocabulary.of(text=text, actions=ActionSpace.named("none", "go"), schema=schema, num_codes=7)
    assert base.to_json() | {"text": len(text), "action": 2, "state": 2, "video": 7} == base.to_json()
    others = [
        Vocabulary.of(
            text=TextTokenizer.train(["a blue box"], 400), actions=ActionSpace.named("none", "go"), num_codes=7
        ),
        replace(base, video=8),
        replace(base, action=3),
        replace(base, schema="another"),
        replace(base, specials=(*SPECIALS, "shot")),
    ]
    assert len({v.fingerprint for v in (base, *others)}) == 1 + len(others)
    assert Vocabulary.from_json(json.loads(json.dumps(base.to_json()))) == base


def test_a_mismatch_names_what_differs_and_the_mend():
    ours, theirs = Vocabulary(video=7), Vocabulary(video=8, schema="x")
    ours.check(Vocabulary(video=7))
    with pytest.raises(ValueError, match=r"shards speaks another .*: video ids, scene schema differ; make it"):
        ours.check(theirs, "the token shards")
