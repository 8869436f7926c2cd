"""Text metrics: goldens worked out by hand, properties, and rouge-score as the oracle of ROUGE-L."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from common.errors import ConfigError, UnknownName
from common.metrics import METRICS, metric, versioned
from common.metrics import text as m

ORACLE = RougeScorer(["rougeL"], use_stemmer=True)
NEEDS_AN_ENCODER = {"token_id_f1@1"}

# A small vocabulary with inflected forms, so that overlaps, repetitions and stemming all occur often.
VOCABULARY = "the a cat cats sat sitting running runs run relational related 12 3.5 No, (yes) state-of-art Été İx"
words = st.sampled_from(VOCABULARY.split())
sentences = st.lists(words, max_size=25).map(" ".join)
any_text = st.one_of(sentences, st.text(max_size=60))


def instance(name):
    return metric(name, encode=lambda text: [ord(c) for c in text]) if name in NEEDS_AN_ENCODER else metric(name)


# --- goldens -----------------------------------------------------------------------------------------------------------


def test_normalise():
    assert m.normalise("  The U.S.A.'s, an  \t apple!\nA-b ") == "usas apple ab"
    assert m.normalise("theatre") == "theatre"  # the article must be a word of its own
    assert m.normalise("the") == ""


@pytest.mark.parametrize(
    ("prediction", "gold", "expected"),
    [
        # "The" is an article: {cat, sat} against {cat, sat, down}: P = 1, R = 2/3, F1 = 2 * 2/3 / (5/3) = 0.8
        ("The cat sat", "cat sat down", 0.8),
        ("cat sat down", "The cat sat", 0.8),
        # bags, not sets: {new, new, york} against {new, york, york}: 2 in common, P = R = 2/3
        ("new new york", "new york york", 2 / 3),
        ("", "", 1.0),
        ("the", "!", 1.0),  # both empty after normalisation
        ("", "cat", 0.0),
        ("cat", "", 0.0),
        ("dog", "cat", 0.0),
        ("Exeter College.", "exeter college", 1.0),
    ],
)
def test_f1_goldens(prediction, gold, expected):
    assert metric("f1")(prediction, (gold,)) == pytest.approx(expected, abs=1e-12)


def test_the_best_gold_answer_counts():
    golds = ("dog", "cat sat down", "cat")
    assert m.token_f1("The cat sat", golds) == pytest.approx(0.8)
    assert m.exact_match("A dog!", golds) == 1.0
    assert m.exact_match("dogs", golds) == 0.0


def test_rouge_l_goldens():
    # police killed the gunman / police kill the gunman: "killed" stems to "kill", so all 4 agree
    assert m.rouge_l("police killed the gunman", ("police kill the gunman",)) == 1.0
    # "the gunman kill police": longest common subsequence "the gunman" (2 of 4 and 4): P = R = 1/2
    assert m.rouge_l("the gunman kill police", ("police kill the gunman",)) == pytest.approx(0.5)
    # articles count, unlike in F1: the cat sat (3) against cat sat down (3), LCS 2: P = R = 2/3
    assert m.rouge_l("The cat sat", ("cat sat down",)) == pytest.approx(2 / 3)
    assert m.rouge_l("...", ("cat",)) == 0.0
    assert m.rouge_l("", ("",)) == 0.0  # no word on either side: 0, as rouge-score has it


def test_contains():
    assert m.contains("The first topic was the psychology of creativity.", ("The psychology of creativity",)) == 1.0
    assert m.contains("It is <2416>.", ("2416",)) == 1.0
    assert m.contains("It is 12416", ("2416",)) == 0.0  # whole words only
    assert m.contains("creativity and psychology", ("psychology of creativity",)) == 0.0
    assert m.contains("anything", ("the",)) == 0.0  # nothing left to find


def test_numbers_by_value():
    assert m.numeric_words("$1,496.50 million") == ["1496.5", "million"]
    assert m.numeric_words("(12.6) and -12.60%, 007.") == ["-12.6", "and", "-12.6", "7"]
    assert m.numeric_words("-0.0 .5 -$3") == ["0", "0.5", "-3"]
    assert m.numeric_words("$(1,234) (5)% ($7)") == ["-1234", "-5", "-7"]
    assert m.numeric_words("Q3 2022's") == ["q3", "2022s"]
    assert m.numeric_f1("12.6 million", ("-12.6 million",)) == pytest.approx(
        0.5
    )  # "million" agrees, the number does not
    assert m.numeric_f1("$1,496.50 million", ("1496.5 million",)) == 1.0
    assert m.token_f1("12.6", ("126",)) == 1.0  # why the numeric variant exists


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        ("She sells 16 - 3 - 4 = 9.\nShe makes 18.\n#### 18\n", "18"),
        ("Thus, they are not. So the answer is: no.", "no"),
        ("The answer is 5. Wait. The final answer is: 7 eggs.\nNext", "7 eggs"),
        ("It costs 3 dollars, then $1,234.50.", "1,234.50"),
        ("It was -3.", "-3"),
        ("between 10-12", "12"),
        ("no number here ", "no number here"),
        ("", ""),
    ],
)
def test_final_answer(prediction, answer):
    assert m.final_answer(prediction) == answer


def test_final_answer_f1_reads_the_value():
    assert metric("final_answer_f1")("… so 2,125.0 in all", ("2125",)) == 1.0
    assert metric("final_answer_f1")("16 eggs at 2 dollars: 32", ("18",)) == 0.0


def test_first_line():
    assert m.first_line("\n\n Paris \nQuestion: next") == "Paris"
    assert metric("first_line_f1")("Paris\nQuestion: what", ("paris",)) == 1.0
    assert metric("f1")("Paris\nQuestion: what", ("paris",)) == pytest.approx(0.5)
    assert metric("first_line_rouge_l")("A cat.\nDialogue: x", ("a cat",)) == 1.0


def test_official_variant():
    letters = {}

    def encode(text):  # one id per letter: partial words overlap, as they may between sub-word ids
        return [letters.setdefault(c, len(letters)) for c in text]

    assert m.official_answer("\n\nYes, because it rains.\nPassages:") == "yes"
    assert m.official_answer("No.") == "no"
    assert m.official_answer("Norway\nNo") == "Norway"
    assert m.official_answer("\n") == ""
    # "cats" against "cat": letters {c,a,t,s} and {c,a,t}: P = 3/4, R = 1, F1 = 6/7; at word level 0
    assert m.token_id_f1("Cats\nmore", ("the cat",), encode) == pytest.approx(6 / 7)
    assert m.token_f1("Cats", ("the cat",)) == 0.0
    assert metric("token_id_f1", encode=encode)("", ("",)) == 1.0
    assert metric("token_id_f1", encode=encode)("", ("x",)) == 0.0


# --- properties --------------------------------------------------------------------------------------------------------


@settings(max_examples=400, deadline=None)
@given(any_text, any_text)
def test_rouge_l_equals_rouge_score(prediction, gold):
    expected = ORACLE.score(gold, prediction)["rougeL"].fmeasure
    assert m.rouge_l(prediction, (gold,)) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(any_text, st.lists(any_text, min_size=1, max_size=4))
def test_rouge_l_of_several_golds_equals_rouge_score(prediction, golds):
    expected = ORACLE.score_multi(golds, prediction)["rougeL"].fmeasure
    assert m.rouge_l(prediction, tuple(golds)) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=9), st.lists(st.integers(0, 4), max_size=9))
def test_longest_common_subsequence_equals_brute_force(first, second):
    def subsequences(sequence):
        return {picked for n in range(len(sequence) + 1) for picked in itertools.combinations(sequence, n)}

    assert m.longest_common_subsequence(first, second) == max(map(len, subsequences(first) & subsequences(second)))


@pytest.mark.parametrize("name", METRICS.names())
@settings(max_examples=60, deadline=None)
@given(prediction=any_text, golds=st.lists(any_text, min_size=1, max_size=3))
def test_every_metric_is_a_fraction_and_never_falls_with_more_golds(name, prediction, golds):
    score = instance(name)
    alone = [score(prediction, (gold,)) for gold in golds]
    assert all(0.0 <= value <= 1.0 for value in alone)
    assert score(prediction, tuple(golds)) == max(alone)


@pytest.mark.parametrize("name", METRICS.names())
def test_every_metric_gives_the_gold_answer_full_marks(name):
    assert (
        instance(name)("The answer is 12", ("nothing", "12" if name == "final_answer_f1@1" else "The answer is 12"))
        == 1.0
    )


@settings(max_examples=100, deadline=None)
@given(any_text, any_text)
def test_f1_is_symmetric_and_at_least_exact_match(first, second):
    assert m.token_f1(first, (second,)) == m.token_f1(second, (first,)) >= m.exact_match(first, (second,))


# --- registry ----------------------------------------------------------------------------------------------------------


def test_names_units_and_directions():
    for name in ("exact_match", "f1", "rouge_l"):  # the names that items carry
        assert versioned(name) == f"{name}@1"
    for name in METRICS:
        assert METRICS.get(name).unit == "1"
        assert METRICS.get(name).higher_is_better is True
        assert METRICS.summary(name)


def test_the_newest_version_answers_to_the_bare_name(monkeypatch):
    monkeypatch.setattr(METRICS, "_entries", dict(METRICS._entries))
    monkeypatch.setattr(METRICS, "_styles", dict(METRICS._styles))
    METRICS.add("f1@9")(m.ExactMatch)
    METRICS.add("f1@10")(m.RougeL)
    assert versioned("f1") == "f1@10"
    assert metric("f1@1")("cat sat", ("cat",)) == pytest.approx(2 / 3)
    METRICS.add("plain")(m.F1)
    with pytest.raises(ConfigError, match="no whole version number; register it as 'plain@1'"):
        versioned("plain")


def test_unknown_names_are_one_clear_line():
    with pytest.raises(UnknownName, match=r"unknown metric 'rogue_l'.*Did you mean 'rouge_l@1'"):
        metric("rogue_l")
    with pytest.raises(UnknownName, match="unknown metric 'f1@99'"):
        metric("f1@99")


@pytest.mark.parametrize("name", METRICS.names())
def test_no_gold_and_a_bare_string_are_refused(name):
    with pytest.raises(ValueError, match="without gold answers"):
        instance(name)("x", ())
    with pytest.raises(ValueError, match="must be a tuple of strings"):
        instance(name)("x", "cat")
