"""Text metrics: exact match, word-level F1, ROUGE-L, and the variants that particular benchmarks ask for.

The functions are pure; the registered classes below them give each a versioned name, a unit and a direction. All scores are
fractions in [0, 1], never percentages, and count against the best of several gold answers.

    prediction --cut (first line | final answer)--> normalise --> words | token ids --> overlap --> max over golds
"""

import dataclasses
import re
import string
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import ClassVar

from common.metrics import METRICS
from common.metrics.porter import stem

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NOT_ALPHANUMERIC = re.compile(r"[^a-z0-9]+")
# A minus sign counts only where nothing stands before it: "10-12" is a range.
_NUMBER = re.compile(r"(?:(?<![\w)])-)?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_WHOLE_NUMBER_WORD = re.compile(r"[$€£]?[(]?(-?)[$€£]?(-?)((?:\d[\d,]*(?:\.\d+)?|\.\d+))%?[)]?%?")
_FINAL_ANSWER = re.compile(r"(?:####|\bthe final answer is:?|\bthe answer is:?)", re.IGNORECASE)


# --- normalisation -----------------------------------------------------------------------------------------------------


def normalise(text: str) -> str:
    """SQuAD normalisation: lower case, no ASCII punctuation, no articles (a, an, the), single spaces.

    Punctuation goes before the articles, as in the SQuAD evaluation: "a-b" is the word "ab".
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def normalised_words(text: str) -> list[str]:
    """The words that `normalise` leaves."""
    return normalise(text).split()


def numeric_words(text: str) -> list[str]:
    """Like `normalised_words`, but a word that is a number keeps its sign and fraction and loses its format.

    "$1,496.50" and "1496.5" give the same word, "-12.6" and "12.6" do not; an accountant's "(12.6)" is -12.6. A percent sign
    is dropped. SQuAD's own normalisation would read "12.6" as "126".
    """
    words: list[str] = []
    for word in text.lower().split():
        match = _WHOLE_NUMBER_WORD.fullmatch(word.rstrip(".,;:!?"))
        if match is None:
            words.extend(normalised_words(word))
            continue
        in_brackets = "(" in word and ")" in word
        negative = in_brackets or "-" in (match[1], match[2])
        digits = match[3].replace(",", "")
        whole, _, fraction = digits.partition(".")
        value = (whole.lstrip("0") or "0") + ("." + fraction.rstrip("0") if fraction.rstrip("0") else "")
        words.append("-" + value if negative and value != "0" else value)
    return words


def first_line(prediction: str) -> str:
    """The first line that is not blank, stripped; "" where there is none."""
    return prediction.strip().partition("\n")[0].strip()


def official_answer(prediction: str) -> str:
    """What CacheBlend's released evaluation scores of a generation: leading newlines stripped, cut at the next newline,
    and an answer that starts with the word yes or no reduced to that word.

    (inferred) "Starts with" is read as whole words: "Norway" stays "Norway".
    """
    line = prediction.lstrip("\n").partition("\n")[0]
    first = normalised_words(line)[:1]
    return first[0] if first in (["yes"], ["no"]) else line


def final_answer(prediction: str) -> str:
    """The answer at the end of a worked solution.

    What follows the last "####" or "the (final) answer is", up to the end of its line and without a final full stop;
    otherwise the last number; otherwise the whole text, stripped.
    """
    lead_ins = list(_FINAL_ANSWER.finditer(prediction))
    if lead_ins:
        tail = prediction[lead_ins[-1].end() :].strip()
        return tail.partition("\n")[0].strip().removesuffix(".")
    numbers = _NUMBER.findall(prediction)
    return numbers[-1].rstrip(",") if numbers else prediction.strip()


# --- overlap -----------------------------------------------------------------------------------------------------------


def bag_f1(predicted: Sequence[Hashable], gold: Sequence[Hashable]) -> float:
    """F1 of two bags of tokens: 2PR / (P + R) of their multiset overlap; 1 if both are empty, 0 if one is."""
    if not predicted or not gold:
        return float(not predicted and not gold)
    common = sum((Counter(predicted) & Counter(gold)).values())
    # 2PR / (P + R) with P = common/|predicted| and R = common/|gold|
    return 2 * common / (len(predicted) + len(gold))


def longest_common_subsequence(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence.

    One column of the dynamic programme at a time, its steps held as the bits of one integer (Hyyrö 2004), so that summaries
    of a few hundred words cost microseconds per word instead of a Python loop per cell.
    """
    positions: dict[Hashable, int] = {}
    for index, token in enumerate(first):
        positions[token] = positions.get(token, 0) | 1 << index
    ones = (1 << len(first)) - 1
    column = ones
    for token in second:
        matches = column & positions.get(token, 0)
        column = (column + matches | column - matches) & ones
    return len(first) - column.bit_count()


def rouge_words(text: str) -> list[str]:
    """ROUGE's words: lower case, runs of a-z and 0-9, stemmed if longer than three letters."""
    return [stem(word) if len(word) > 3 else word for word in _NOT_ALPHANUMERIC.sub(" ", text.lower()).split()]


# --- scores of one prediction ------------------------------------------------------------------------------------------


def exact_match(prediction: str, golds: tuple[str, ...]) -> float:
    """1 if the prediction equals a gold answer after `normalise`, else 0 (SQuAD)."""
    return _best(lambda gold: float(normalise(prediction) == normalise(gold)), golds)


def token_f1(prediction: str, golds: tuple[str, ...]) -> float:
    """Word-level F1 after `normalise` (SQuAD)."""
    return _best(lambda gold: bag_f1(normalised_words(prediction), normalised_words(gold)), golds)


def numeric_f1(prediction: str, golds: tuple[str, ...]) -> float:
    """Word-level F1 in which numbers are compared by value, for answers that are figures."""
    return _best(lambda gold: bag_f1(numeric_words(prediction), numeric_words(gold)), golds)


def contains(prediction: str, golds: tuple[str, ...]) -> float:
    """1 if a gold answer's normalised words occur in the prediction side by side, else 0.

    The accuracy of retrieval tasks whose models answer in a sentence. A gold answer with no word left is never contained.
    """
    words = f" {normalise(prediction)} "

    def holds(gold: str) -> float:
        wanted = normalise(gold)
        return float(bool(wanted) and f" {wanted} " in words)

    return _best(holds, golds)


def token_id_f1(prediction: str, golds: tuple[str, ...], encode: Callable[[str], Sequence[int]]) -> float:
    """F1 over a tokenizer's ids instead of words, as CacheBlend's released evaluation computes it.

    Args:
        prediction: the whole generation; `official_answer` is applied to it.
        golds: the gold answers.
        encode: text to token ids, without special tokens (a common BOS would count as agreement).

    (inferred) Prediction and gold are normalised before they are tokenised.
    """
    predicted = encode(normalise(official_answer(prediction)))
    return _best(lambda gold: bag_f1(predicted, encode(normalise(gold))), golds)


def rouge_l(prediction: str, golds: tuple[str, ...]) -> float:
    """ROUGE-L: F-measure of the longest common subsequence of stemmed words; 0 if either side has no word."""
    predicted = rouge_words(prediction)

    def score(gold: str) -> float:
        wanted = rouge_words(gold)
        if not predicted or not wanted:
            return 0.0
        return 2 * longest_common_subsequence(predicted, wanted) / (len(predicted) + len(wanted))

    return _best(score, golds)


def _best(score: Callable[[str], float], golds: tuple[str, ...]) -> float:
    if isinstance(golds, str):
        # A string is a sequence of strings; scoring against its letters would look plausible.
        raise ValueError(f"the gold answers must be a tuple of strings, not the string {golds!r}; pass ({golds!r},).")
    if not golds:
        raise ValueError("an item without gold answers cannot be scored; leave it out of the quality rows.")
    return max(score(gold) for gold in golds)


# --- registered names --------------------------------------------------------------------------------------------------


@METRICS.add("exact_match@1", label="Exact match")
@dataclasses.dataclass(frozen=True)
class ExactMatch:
    """Equality after SQuAD normalisation."""

    unit: ClassVar[str] = "1"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, prediction: str, golds: tuple[str, ...]) -> float:
        return exact_match(prediction, golds)


@METRICS.add("f1@1", label="F1")
@dataclasses.dataclass(frozen=True)
class F1:
    """Word-level F1 after SQuAD normalisation; the default for short answers."""

    unit: ClassVar[str] = "1"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, prediction: str, golds: tuple[str, ...]) -> float:
        return token_f1(prediction, golds)


@METRICS.add("rouge_l@1", label="ROUGE-L")
@dataclasses.dataclass(frozen=True)
class RougeL:
    """ROUGE-L F-measure with Porter stemming; the default for summaries."""

    unit: ClassVar[str] = "1"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, prediction: str, golds: tuple[str, ...]) -> float:
        return rouge_l(prediction, golds)


@METRICS.add("contains@1", label="Accuracy")
@dataclasses.dataclass(frozen=True)
class Contains:
    """A gold answer's words occur in the prediction; accuracy of line, key and topic retrieval."""

    unit: ClassVar[str] = "1"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, prediction: str, golds: tuple[str, ...]) -> float:
        return contains(prediction, golds)


@METRICS.add("first_line_f1@1", label="F1 (first line)")
@dataclasses.dataclass(frozen=True)
class FirstLineF1:
    """F1 of the prediction's first line, for few-shot prompts after which a model writes the next example."""

    unit: ClassVar[str] = "1"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, prediction: str, golds: tuple[str, ...]) -> float:
        return token_f1(first_line(prediction), golds)


@METRICS.add("first_line_rouge_l@1", label="ROUGE-L (first line)")
@dataclasses.dataclass(frozen=True)
class FirstLineRougeL:
    """ROUGE-L of the prediction's first line, for few-shot summarisation prompts."""

    unit: ClassVar[str] = "1"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, prediction: str, golds: tuple[str, ...]) -> float:
        return rouge_l(first_line(prediction), golds)


@METRICS.add("final_answer_f1@1", label="F1 (final answer)")
@dataclasses.dataclass(frozen=True)
class FinalAnswerF1:
    """F1 of the answer at the end of a worked solution, numbers compared by value."""

    unit: ClassVar[str] = "1"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, prediction: str, golds: tuple[str, ...]) -> float:
        return numeric_f1(final_answer(prediction), golds)


@METRICS.add("numeric_f1@1", label="F1 (numbers by value)")
@dataclasses.dataclass(frozen=True)
class NumericF1:
    """F1 in which "$1,496.50" equals "1496.5" and differs from "-1496.5"; for questions about figures."""

    unit: ClassVar[str] = "1"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, prediction: str, golds: tuple[str, ...]) -> float:
        return numeric_f1(prediction, golds)


@METRICS.add("token_id_f1@1", label="F1 (token ids)")
@dataclasses.dataclass(frozen=True)
class TokenIdF1:
    """F1 over tokenizer ids of the generation's first line, as CacheBlend's released evaluation computes it."""

    encode: Callable[[str], Sequence[int]]  # text to token ids, without special tokens

    unit: ClassVar[str] = "1"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, prediction: str, golds: tuple[str, ...]) -> float:
        return token_id_f1(prediction, golds, self.encode)
