import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenizer.text_tokenizer import TextTokenizer

CAPTIONS = [
    f"a {size} {colour} {material} {shape} rolls {way} while the light moves"
    for size in ("small", "large")
    for colour in ("red", "green", "blue")
    for material in ("rubber", "glass")
    for shape in ("ball", "box")
    for way in ("north", "slowly west")
]
TEXT = TextTokenizer.train(CAPTIONS, vocab_size=400)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_unicode_comes_back(text: str):
    assert TEXT.decode(TEXT.encode(text)) == text


@pytest.mark.parametrize("text", ["", " ", "  a  ", "\u2581", "a\u2581 b", "\0", "<unk>", "<0x41>", "🎱\n\t"])
def test_strings_that_sentencepiece_alone_would_change_come_back(text: str):
    assert TEXT.decode(TEXT.encode(text)) == text


@given(st.lists(st.integers(0, len(TEXT) - 1)))
def test_any_sampled_ids_decode_to_a_string(ids: list[int]):
    assert isinstance(TEXT.decode(ids), str)


def test_captions_take_an_id_a_word_and_the_vocabulary_keeps_its_limit():
    assert len(TEXT) <= 400
    assert len(TEXT.encode(CAPTIONS[0])) == len(CAPTIONS[0].split())


def test_training_repeats_whatever_the_order_of_captions():
    again = TextTokenizer.train(reversed(CAPTIONS), vocab_size=400)
    assert again.fingerprint == TEXT.fingerprint


def test_a_saved_model_loads_as_the_same_model(tmp_path):
    TEXT.save(tmp_path / "text.model")
    loaded = TextTokenizer.load(tmp_path / "text.model")
    assert loaded.fingerprint == TEXT.fingerprint
    assert loaded.encode(CAPTIONS[3]) == TEXT.encode(CAPTIONS[3])


def test_mistakes_are_told_in_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="at least one caption"):
        TextTokenizer.train(["", " "])
    with pytest.raises(ValueError, match=r"vocab_size 100 is too small .* use \d+ or more"):
        TextTokenizer.train(CAPTIONS, vocab_size=100)
    with pytest.raises(ValueError, match="no text model at"):
        TextTokenizer.load(tmp_path / "missing.model")
    with pytest.raises(ValueError, match="no SentencePiece model"):
        TextTokenizer(b"not a model")
    with pytest.raises(ValueError, match=r"text id 9999 is outside \[0, "):
        TEXT.decode([9999])


def test_a_vocabulary_of_exactly_the_needed_size_can_be_trained():
    with pytest.raises(ValueError, match="too small") as told:
        TextTokenizer.train(CAPTIONS, vocab_size=1)
    needed = int(str(told.value).split("use ")[1].split()[0])
    assert len(TextTokenizer.train(CAPTIONS, vocab_size=needed)) <= needed


def test_a_single_short_caption_is_enough():
    text = TextTokenizer.train(["ab"], vocab_size=512)
    assert text.decode(text.encode("ab")) == "ab"


def test_as_many_letters_as_captions_have_are_learned_unasked():
    captions = ["".join(chr(0x4E00 + 10 * row + i) for i in range(10)) for row in range(30)]
    text = TextTokenizer.train(captions)
    assert all(text.decode(text.encode(caption)) == caption for caption in captions)
    assert len(text.encode(captions[0])) <= 10
