"""Chunking: nothing lost, nothing over the limit, evidence kept; with a toy tokenizer and with GPT-2's."""

import dataclasses
import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import chunking as c
from common.data.items import QAItem
from common.errors import ConfigError


def by_words_and_letters(text):
    """A toy tokenizer whose counts are not additive: runs of white space and up to 3 letters are one token, and "x y" is
    one token across a word boundary, as merges across units might be."""
    return [sum(map(ord, piece)) for piece in re.findall(r"x y|\s+|\w{1,3}|.", text, flags=re.DOTALL)]


def by_bytes(text):
    return list(text.encode())


def by_words_and_seams(text):
    """A toy tokenizer that takes more for a whole than for its parts: one token per word and one per seam between words."""
    return [0] * max(2 * len(text.split()) - 1, len(text.split()), 0)


texts = st.one_of(
    st.text(alphabet="abx y.!?\n\té€😀", max_size=80),
    st.lists(
        st.sampled_from(["One. ", "Two two, ", "x y", " longishword", "\n\n", "He said: 'No!' "]), max_size=20
    ).map("".join),
)
tokenizers = st.sampled_from([by_words_and_letters, by_words_and_seams, by_bytes])
lengths = st.integers(4, 30).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1)))
boundaries = st.sampled_from(["word", "sentence"])


# --- token windows -----------------------------------------------------------------------------------------------------


def test_windows_by_hand():
    assert c.chunk_ids(range(7), 3) == [(0, 1, 2), (3, 4, 5), (6,)]
    assert c.chunk_ids(range(7), 3, 1) == [(0, 1, 2), (2, 3, 4), (4, 5, 6)]  # no fourth window (6,) inside the third
    assert c.chunk_ids(range(2), 3, 2) == [(0, 1)]
    assert c.chunk_ids([], 3) == []


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 9), max_size=60),
    st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))),
)
def test_windows_give_the_sequence_back(ids, chunk_and_overlap):
    size, overlap = chunk_and_overlap
    windows = c.chunk_ids(ids, size, overlap)
    assert all(0 < len(window) <= size for window in windows)
    assert all(len(window) == size for window in windows[:-1])
    assert all(len(window) > overlap for window in windows[1:])
    assert [t for i, window in enumerate(windows) for t in window[overlap if i else 0 :]] == ids
    assert all(before[-overlap:] == after[:overlap] for before, after in itertools.pairwise(windows) if overlap)


# --- text --------------------------------------------------------------------------------------------------------------


@settings(max_examples=400, deadline=None)
@given(texts, tokenizers, lengths, boundaries)
def test_chunks_fit_and_cover_the_text(text, encode, chunk_and_overlap, boundary):
    size, overlap = chunk_and_overlap
    chunks = c.chunk_text(text, encode, size, overlap, boundary)
    for chunk in chunks:
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.text
        assert chunk.ids == tuple(encode(chunk.text))
        assert len(chunk.ids) <= size
    assert (
        "".join(text[max(a.end, b.start) : b.end] for a, b in itertools.pairwise(chunks))
        == text[chunks[0].end if chunks else 0 :]
    )
    assert (chunks[0].start if chunks else 0) == 0
    for before, after in itertools.pairwise(chunks):
        assert before.start < after.start <= before.end < after.end
        assert len(encode(text[after.start : before.end])) <= overlap
    if overlap == 0:
        assert "".join(chunk.text for chunk in chunks) == text


def test_chunks_are_full():
    # ten two-token units (" ab" is a space and a run): chunks of 7 hold three units and not two
    text = " ab" * 10
    assert [len(chunk.ids) for chunk in c.chunk_text(text, by_words_and_letters, 7)] == [6, 6, 6, 2]
    # a merge across units makes room: "x y" counts 1, the units "x" and " y" alone 1 + 2
    assert [chunk.text for chunk in c.chunk_text("x y", by_words_and_letters, 2)] == ["x y"]


def test_the_count_of_the_whole_chunk_is_what_binds():
    # six one-token words; three of them take 3 + 2 tokens together
    chunks = c.chunk_text("a b c d e f", by_words_and_seams, 5)
    assert [(chunk.text, len(chunk.ids)) for chunk in chunks] == [("a b c", 5), (" d e f", 5)]


def test_sentences_are_kept_whole_where_they_fit():
    text = 'He came. "Why?" she asked. It was late.\nNobody knew.'
    encode = by_bytes
    assert [chunk.text for chunk in c.chunk_text(text, encode, 20, boundary="sentence")] == [
        "He came.",
        ' "Why?" she asked.',
        " It was late.",
        "\nNobody knew.",
    ]
    # cut between words and, for the long word, between characters
    assert [chunk.text for chunk in c.chunk_text("Abc defghijkl.", encode, 5, boundary="sentence")] == [
        "Abc d",
        "efghi",
        "jkl.",
    ]


def test_overlap_repeats_the_last_words():
    chunks = c.chunk_text("aa bb cc dd ee", by_bytes, 9, 6)
    assert [chunk.text for chunk in chunks] == ["aa bb cc", " bb cc dd", " cc dd ee"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"chunk_tokens": 0}, "chunk_tokens=0 must be at least 1"),
        ({"chunk_tokens": 4, "overlap_tokens": 4}, "overlap_tokens=4 must be at least 0 and less than chunk_tokens=4"),
        ({"chunk_tokens": 4, "overlap_tokens": -1}, "overlap_tokens=-1"),
        ({"chunk_tokens": 4, "boundary": "page"}, "boundary='page' is not one of word, sentence"),
        ({"chunk_tokens": 3}, "chunk_tokens=3 is too small: the character '😀' alone takes 4 tokens"),
    ],
)
def test_bad_arguments_are_one_clear_line(arguments, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        c.chunk_text("ab 😀", by_bytes, **arguments)


def gpt2(text_root):
    from tokenizers import ByteLevelBPETokenizer

    folder = text_root / "tokenizer_gpt2"
    tokenizer = ByteLevelBPETokenizer(str(folder / "encoder.json"), str(folder / "vocab.bpe"))
    return lambda text: tokenizer.encode(text).ids


@pytest.mark.parametrize("name", ["lm/moby_dick.txt", "kg_rag_finsec/2022 Q3 AAPL.txt"])
@pytest.mark.parametrize("boundary", ["word", "sentence"])
def test_gpt2_chunks_concatenate_to_the_documents_own_tokens(text_root, name, boundary):
    encode = gpt2(text_root)
    text = (text_root / name).read_text(encoding="utf-8-sig")[:60_000]
    chunks = c.chunk_text(text, encode, 512, boundary=boundary)
    assert [token for chunk in chunks for token in chunk.ids] == list(encode(text))
    # filled: a chunk and the next one's first unit do not fit together, so chunks are far from half empty
    sizes = [len(chunk.ids) for chunk in chunks[:-1]]
    assert max(sizes) <= 512
    assert sum(sizes) / len(sizes) > (505 if boundary == "word" else 400)


# --- items -------------------------------------------------------------------------------------------------------------

ITEM = QAItem("q", "single_fact", ("aa bb cc dd", "ee", "ff gg"), "?", ("cc",), evidence=(0, 2))


def test_rechunk_each_passage():
    new = c.rechunk(ITEM, by_bytes, 5)
    assert new.chunks == ("aa bb", " cc", " dd", "ee", "ff gg")  # " cc dd" would take 6
    assert new.evidence == (0, 1, 2, 4)
    assert dataclasses.replace(new, chunks=ITEM.chunks, evidence=ITEM.evidence) == ITEM


def test_rechunk_across_passages():
    new = c.rechunk(ITEM, by_bytes, 8, across_passages=True, separator="\n")
    # "aa bb cc dd\nee\nff gg" in units of up to 8 bytes
    assert new.chunks == ("aa bb cc", " dd\nee", "\nff gg")
    assert new.evidence == (0, 1, 2)
    only_second = c.rechunk(dataclasses.replace(ITEM, evidence=(1,)), by_bytes, 8, across_passages=True, separator="\n")
    assert only_second.evidence == (1,)


@settings(max_examples=200, deadline=None)
@given(st.lists(texts.filter(str.strip), min_size=1, max_size=5), st.data(), lengths, st.booleans())
def test_every_evidence_character_stays_in_an_evidence_chunk(passages, data, chunk_and_overlap, across):
    evidence = tuple(sorted(data.draw(st.sets(st.integers(0, len(passages) - 1)))))
    item = QAItem("q", "f", tuple(passages), "?", (), evidence=evidence)
    new = c.rechunk(item, by_bytes, *chunk_and_overlap, across_passages=across)
    assert all(len(by_bytes(chunk)) <= chunk_and_overlap[0] and chunk.strip() for chunk in new.chunks)
    assert bool(new.evidence) == bool(evidence)
    assert new.evidence == tuple(sorted(set(new.evidence)))
    if not across:
        kept = "".join("".join(new.chunks[i] for i in new.evidence).split())
        for i in evidence:
            assert set("".join(passages[i].split())) <= set(kept)


def test_white_space_alone_is_no_evidence():
    item = QAItem("q", "f", ("aa  ", "bb"), "?", (), evidence=(0,))
    new = c.rechunk(item, by_bytes, 5, across_passages=True, separator="\n")
    assert (new.chunks, new.evidence) == (("aa", "  \nbb"), (0,))


def test_limit_context():
    item = QAItem("q", "f", ("aaaa", "bbb", "cc", "d"), "?", (), evidence=(1, 3))
    assert c.limit_context(item, by_bytes, 10) == item
    # 10 bytes; the middle of 4 is index 2 (cc): 8 left; the middle of 3 is index 1 (bbb): 5 left
    middle = c.limit_context(item, by_bytes, 7)
    assert (middle.chunks, middle.evidence) == (("aaaa", "d"), (1,))
    end = c.limit_context(item, by_bytes, 7, drop="end")
    assert (end.chunks, end.evidence) == (("aaaa", "bbb"), (1,))
    with pytest.raises(ConfigError, match="a chunk of 4 tokens does not fit max_context_tokens=3"):
        c.limit_context(item, by_bytes, 3)
    with pytest.raises(ConfigError, match="drop='start'"):
        c.limit_context(item, by_bytes, 3, drop="start")


def test_truncate_middle():
    assert c.truncate_middle(range(10), 5) == (0, 1, 7, 8, 9)
    assert c.truncate_middle(range(3), 5) == (0, 1, 2)
    assert c.truncate_middle(range(3), 0) == ()
    with pytest.raises(ConfigError, match="max_tokens=-1"):
        c.truncate_middle(range(3), -1)
