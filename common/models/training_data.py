"""Batches for training the bundled models: contexts with many questions each, and random words to copy and to look up.

One row is a context followed by several questions, each with its own answer; questions are drawn with replacement, so that an
answer cannot be found by elimination. The loss is taken on the answers, and more lightly on a sample of the context's tokens.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.data.synthetic import compose, words
from common.data.synthetic.families import Asker, Question
from common.data.synthetic.scenes import Chunk, Draw, Writer, chunk_text, kind_of_person, read
from common.data.synthetic.templates import UNKNOWN
from common.models import prompt_format
from common.rng import for_component

# B rows, T tokens


@dataclasses.dataclass(frozen=True)
class Mix:
    """What the rows of one training stage look like.

    Attributes:
        copy_rate: share of batches that are random sequences stated again and again; the loss starts with the second copy.
        pair_rate: share of batches that are lists of two random words each, asked for the second by the first: matching and
            copying without any language.
        restate_rate: share of batches that are such lists too, but with pairs repeated in another order instead of questions:
            the first word itself is where the second is to be predicted, which is found far sooner.
        roll_rate: share of batches whose contexts state one attribute of several subjects, so that nothing but the subject (or
            the quarter, or the topic) tells the values apart; asked, and stated again in other words.
        copy_period, copy_tokens, num_pairs: their sizes.
        num_words: how many different words these random rows use.
        num_rolls: how many of the attributes rolls may be about.
        gap: fewest and most small words between the two of a pair.
        num_chunks, chunk_sentences: smallest and largest values, drawn uniformly for each batch (one size per batch wastes
            little on padding).
        reference_rate: share of sentences that refer instead of naming.
        disorder_rate: share of rows whose chunks are a random selection in random order, down to a single one, so that chunks
            without their predecessors (as in per-chunk KV caches) are nothing unusual.
        num_questions: questions per row.
        family_weights: relative frequency of the families where a context offers them.
        document_weights: relative frequency of a row's main kind of document.
        distractors: "mixed" or "same"; see `common.data.synthetic.compose`.
        is_distinct: a row asks nothing twice (a question that was answered in the row already is answered by copying).
        lone_rate: share of batches whose rows show a single chunk of a longer text, with half as many questions.
        long_rate, long_chunks: share of batches with so many chunks instead of `num_chunks`, and twice as many questions.
        absent_rate: where a row leaves chunks out, the share of questions about the whole text; what the chunks shown do not say
            is answered with "unknown".
        instruction_rate: share of question rows that open with one of `INSTRUCTIONS`, as a chunk of its own.
        noise_rate: share of question rows in which small words of the text and of the questions are dropped, added and
            swapped, so that an unseen wording is nothing unusual.
        compare_rate: share of batches whose contexts state one number of several subjects and whose questions compare them.
        most_sentences: chunks of long batches are cut shorter where the text would have more sentences than this.
    """

    copy_rate: float
    num_chunks: tuple[int, int]
    chunk_sentences: tuple[int, int]
    reference_rate: float
    disorder_rate: float
    num_questions: int
    family_weights: Mapping[str, float]
    document_weights: Mapping[str, float]
    distractors: str = "mixed"
    copy_period: tuple[int, int] = (4, 40)
    copy_tokens: int = 96
    pair_rate: float = 0.0
    restate_rate: float = 0.0
    roll_rate: float = 0.0
    num_pairs: tuple[int, int] = (2, 4)
    num_words: int = 1_000_000
    gap: tuple[int, int] = (0, 0)
    num_rolls: int = 100
    is_distinct: bool = False
    lone_rate: float = 0.0
    long_rate: float = 0.0
    long_chunks: tuple[int, int] = (9, 24)
    absent_rate: float = 0.0
    instruction_rate: float = 0.0
    noise_rate: float = 0.0
    compare_rate: float = 0.0
    most_sentences: int = 1_000_000


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows padded to one length.

    Attributes:
        ids_BT: token ids, int64.
        answer_BT: 1 where the *next* token is to be predicted as part of an answer (or of a second copy).
        text_BT: 1 where the next token is sampled for the language-model loss.
        families: for each row, the family of each answer in order ("copy" for a copied sequence).
        spans: for each row, (first, past-last) positions in `answer_BT` of each answer, in the order of `families`.
    """

    ids_BT: np.ndarray
    answer_BT: np.ndarray
    text_BT: np.ndarray
    families: list[list[str]]
    spans: list[list[tuple[int, int]]]


INSTRUCTIONS = (
    "Answer the questions about the text below.",
    "Read the text and answer with a few words.",
    "Use only what the following chunks say.",
    "Below are some notes. Answer from them alone.",
    "Reply briefly, and say unknown where the text does not tell.",
    "Here is a text in parts. Give short answers.",
    "Answer each query with the words of the passages.",
    "You are given documents. Respond to what is asked about them.",
)
"""What may stand before the chunks. LLMSteer's two prompts are not among them: they are held out."""

# Words that carry no fact by themselves: neither a name or value, nor a reference, nor a verb that tells attributes apart.
_LOOSE = (
    "is has in a of as for to was at and now by does do did what which who where how called been known main really this these "
    "days have years any on out be it we that"
)
_LOOSE_WORDS = frozenset(_LOOSE.split())
_ADDED = "now really is has been called as known these days of at a in any"
_ADDED_WORDS = _ADDED.split()


def reworded(draw: Draw, text: str) -> str:
    """A text with one loose word in ten dropped, one in twenty swapped with its right neighbour, and as many added."""
    kept: list[str] = []
    for word in text.split(" "):
        is_loose = word.lower() in _LOOSE_WORDS
        if is_loose and draw.chance(0.1):
            continue
        if kept and kept[-1].lower() in _LOOSE_WORDS and word[-1].isalnum() and draw.chance(0.05):
            kept.insert(len(kept) - 1, word)
        else:
            kept.append(word)
        if is_loose and draw.chance(0.05):
            kept.append(draw.one(_ADDED_WORDS))
    return " ".join(kept)


# Words that stand between a subject and a value in many sentences.
_SMALL_WORDS = "is has in a the by of as for to was at and works lives likes makes"


def _open_class_words() -> list[str]:
    """Names, places, things: the words that answers are made of."""
    return [word for name, group in sorted(vars(words).items()) if name.isupper() for word in group] + [
        str(number) for number in range(100)
    ]


class Encoder:
    """Encodes many short texts quickly by remembering the ids of every sentence piece seen."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._raw = tokenizer.backend_tokenizer
        self._words: dict[str, list[int]] = {}
        bos = prompt_format.bos_id(tokenizer)
        assert bos is not None
        self.bos = bos
        self.eos = prompt_format.eos_id(tokenizer)
        self.pad = int(tokenizer.pad_token_id)
        self.sep, self.question, self.answer = (
            int(tokenizer.convert_tokens_to_ids(marker))
            for marker in (prompt_format.SEP, prompt_format.QUESTION, prompt_format.ANSWER)
        )
        word_ids = np.array(sorted({self.text(word)[0] for word in _open_class_words()}))
        # In an order of its own, so that the first few words are of every kind.
        self.word_ids = for_component(0, "word order").permutation(word_ids)

        self.small_word_ids = [self.text(word)[0] for word in _SMALL_WORDS.split()]

    def text(self, text: str) -> list[int]:
        """Ids of " " + text. BPE never merges across a space here, so words can be encoded one by one."""
        ids: list[int] = []
        for word in text.split(" "):
            known = self._words.get(word)
            if known is None:
                known = self._words[word] = self._raw.encode(" " + word, add_special_tokens=False).ids
            ids += known
        return ids


def _weighted(draw: Draw, weights: Mapping[str, float], available: Sequence[str]) -> str:
    usable = [name for name in available if weights.get(name, 0.0) > 0.0]
    point = draw.uniform() * sum(weights[name] for name in usable)
    for name in usable:
        point -= weights[name]
        if point < 0.0:
            return name
    return usable[-1]


def _context(draw: Draw, mix: Mix, split: str, layout: "_Layout") -> tuple[list[Chunk], list[Chunk]]:
    """A text, and the chunks of it that are shown."""
    kind = _weighted(draw, mix.document_weights, list(mix.document_weights))
    chunks = compose(
        draw,
        split,
        (kind,),
        layout.num_chunks,
        layout.chunk_sentences,
        reference_rate=mix.reference_rate,
        distractors=mix.distractors,
    )
    if layout.is_lone:
        return chunks, [draw.one(chunks)]
    if draw.chance(mix.disorder_rate):
        return chunks, draw.some(chunks, draw.integer(1, len(chunks) + 1))
    return chunks, chunks


@dataclasses.dataclass(frozen=True)
class _Layout:
    """What all rows of a batch have in common, so that little is wasted on padding."""

    num_chunks: int
    chunk_sentences: int
    num_questions: int
    is_lone: bool


def _layout(draw: Draw, mix: Mix) -> _Layout:
    is_lone = mix.lone_rate > 0.0 and draw.chance(mix.lone_rate)
    is_long = not is_lone and mix.long_rate > 0.0 and draw.chance(mix.long_rate)
    low, high = mix.long_chunks if is_long else mix.num_chunks
    num_chunks = draw.integer(low, high + 1)
    chunk_sentences = draw.integer(mix.chunk_sentences[0], mix.chunk_sentences[1] + 1)
    return _Layout(
        num_chunks,
        max(1, min(chunk_sentences, mix.most_sentences // num_chunks)),
        mix.num_questions * 2 if is_long else mix.num_questions // 2 if is_lone else mix.num_questions,
        is_lone,
    )


def make_batch(encoder: Encoder, rng: np.random.Generator, mix: Mix, batch_tokens: int, text_rate: float) -> Batch:
    """One batch of about `batch_tokens` tokens, padding included.

    Args:
        encoder: the tokenizer.
        rng: source of all randomness; the same state gives the same batch.
        mix: what the rows look like.
        batch_tokens: rows are added until rows x longest row would exceed this.
        text_rate: share of the context's positions that enter the language-model loss.
    """
    draw = Draw(rng)
    rows: list[list[int]] = []
    spans: list[list[tuple[int, int]]] = []
    families: list[list[str]] = []
    context_lengths: list[int] = []
    longest = 0
    point = draw.uniform()
    layout = _layout(draw, mix)
    while True:
        if point < mix.copy_rate:
            row, row_spans, row_families, context = _copy_row(encoder, draw, rng, mix)
        elif point < mix.copy_rate + mix.pair_rate:
            row, row_spans, row_families, context = _pair_row(encoder, draw, rng, mix, is_restated=False)
        elif point < mix.copy_rate + mix.pair_rate + mix.restate_rate:
            row, row_spans, row_families, context = _pair_row(encoder, draw, rng, mix, is_restated=True)
        elif point < mix.copy_rate + mix.pair_rate + mix.restate_rate + mix.roll_rate:
            row, row_spans, row_families, context = _roll_row(encoder, draw, mix)
        elif point < mix.copy_rate + mix.pair_rate + mix.restate_rate + mix.roll_rate + mix.compare_rate:
            row, row_spans, row_families, context = _compare_row(encoder, draw, mix)
        else:
            row, row_spans, row_families, context = _question_row(encoder, draw, mix, layout)
        if rows and max(longest, len(row)) * (len(rows) + 1) > batch_tokens:
            break
        longest = max(longest, len(row))
        rows.append(row)
        spans.append(row_spans)
        families.append(row_families)
        context_lengths.append(context)
    ids_BT = np.full((len(rows), longest), encoder.pad, dtype=np.int64)
    answer_BT = np.zeros((len(rows), longest), dtype=np.float32)
    text_BT = np.zeros((len(rows), longest), dtype=np.float32)
    for i, row in enumerate(rows):
        ids_BT[i, : len(row)] = row
        for start, end in spans[i]:
            answer_BT[i, start:end] = 1.0
        if context_lengths[i] > 1:
            text_BT[i, : context_lengths[i] - 1] = rng.random(context_lengths[i] - 1) < text_rate
    return Batch(ids_BT, answer_BT, text_BT, families, spans)


_Row = tuple[list[int], list[tuple[int, int]], list[str], int]


def _copy_row(encoder: Encoder, draw: Draw, rng: np.random.Generator, mix: Mix) -> _Row:
    period = draw.integer(*mix.copy_period)
    sequence = rng.choice(encoder.word_ids[: mix.num_words], period).tolist()
    row = [encoder.bos, *(sequence * (mix.copy_tokens // period + 1))[: mix.copy_tokens]]
    # The first token of the second copy cannot be told yet; from its second token on, everything can.
    return row, [(period + 1, len(row) - 1)], ["copy"], 0


def _gap(encoder: Encoder, draw: Draw, mix: Mix) -> list[int]:
    return [draw.one(encoder.small_word_ids) for _ in range(draw.integer(mix.gap[0], mix.gap[1] + 1))]


def _pair_row(encoder: Encoder, draw: Draw, rng: np.random.Generator, mix: Mix, *, is_restated: bool) -> _Row:
    count = draw.integer(mix.num_pairs[0], mix.num_pairs[1] + 1)
    chosen = rng.choice(encoder.word_ids[: mix.num_words], 2 * count, replace=False).tolist()
    row = [encoder.bos]
    for first, second in zip(chosen[::2], chosen[1::2], strict=True):
        row += [first, *_gap(encoder, draw, mix), second, encoder.sep]
    row_spans = []
    for _ in range(max(mix.num_questions, count)):
        i = draw.integer(0, count)
        first, second = chosen[2 * i : 2 * i + 2]
        if is_restated:
            row += [first, *_gap(encoder, draw, mix), second, encoder.sep]
            row_spans.append((len(row) - 3, len(row) - 2))
        else:
            row += [encoder.question, first, *_gap(encoder, draw, mix), encoder.answer, second, encoder.eos]
            row_spans.append((len(row) - 3, len(row) - 1))
    return row, row_spans, ["restated" if is_restated else "pairs"] * len(row_spans), 0


# What a roll may be about: kind of subject and attribute.
_ROLLS = (
    *(("person", name) for name in ("hobby", "home", "employer", "pet", "food", "job", "age", "manager", "said")),
    *(("company", name) for name in ("base", "product", "founder", "field", "sales", "profit")),
    *(("product", name) for name in ("colour", "price", "month")),
    ("town", "country"),
    ("line", "value"),
)


def _roll_row(encoder: Encoder, draw: Draw, mix: Mix) -> _Row:
    writer = Writer(draw, "train", reference_rate=0.0, opener_rate=0.05)
    asker = Asker(draw, "train")
    count = draw.integer(mix.num_pairs[0], mix.num_pairs[1] + 1)
    kind, attribute = draw.one(_ROLLS[: mix.num_rolls])
    details: list[str] = [""] * count
    if attribute == "said":
        details = draw.some(words.TOPICS, count)
    elif attribute in ("sales", "profit"):
        count = min(count, len(words.QUARTERS))
        details = draw.some(words.QUARTERS, count)
    if kind == "line":
        subjects = [
            f"{one} {other}"
            for one, other in zip(draw.some(words.ADJECTIVES, count), draw.some(words.NOUNS, count), strict=True)
        ]
    else:
        subjects = [writer.fresh(kind) for _ in range(count)]
    if details[0]:
        # The subject is the same throughout, or the detail, or all pairings of two and two occur.
        shape = draw.integer(0, 3)
        if shape == 0:
            details = details[:1] * count
        elif shape == 1 or count < 4:
            subjects = subjects[:1] * count
        else:
            pairings = draw.some([(one, other) for one in subjects[:2] for other in details[:2]], 4)
            count, subjects, details = 4, [one for one, _ in pairings], [other for _, other in pairings]
    values: list[str] = []
    # Some attributes have no more than twelve different values; the roll is then shorter.
    for _ in range(20 * count):
        value = writer.value_for(attribute)
        if len(values) < count and value not in values and value not in subjects:
            values.append(value)
    kinds = [kind_of_person(subject) if kind == "person" else kind for subject in subjects]
    stated = list(zip(kinds, subjects, values, details, strict=False))
    for one_kind, subject, value, detail in stated:
        writer.state(one_kind, subject, attribute, value, detail)
    row = [encoder.bos]
    for sentence in writer.take():
        row += encoder.text(sentence.text)
        if draw.chance(0.25):
            row.append(encoder.sep)
    row.append(encoder.sep)
    context = len(row)
    row_spans, families = [], []
    for _ in range(mix.num_questions):
        one_kind, subject, value, detail = draw.one(stated)
        if draw.chance(0.5):
            row += [encoder.question, *encoder.text(asker.about(one_kind, subject, attribute, detail)), encoder.answer]
            start = len(row) - 1
            row += [*encoder.text(value), encoder.eos]
            row_spans.append((start, len(row) - 1))
            families.append("roll")
        else:
            writer.state(one_kind, subject, attribute, value, detail)
            ids = encoder.text(writer.take()[0].text)
            place = len(ids) - 1 - ids[::-1].index(encoder.text(value)[0])
            ends = [i for i, token in enumerate(ids) if token == encoder.text((detail or subject).split(" ")[-1])[0]]
            named = [i for i, token in enumerate(ids) if token == encoder.text(subject.split(" ")[-1])[0]]
            # Only where the value comes after all that identifies it.
            if (not ends or ends[0] < place) and named and named[0] < place:
                row_spans.append((len(row) + place - 1, len(row) + place))
                families.append("roll_stated")
            row += [*ids, encoder.sep]
    return row, row_spans, families, context


def _compare_row(encoder: Encoder, draw: Draw, mix: Mix) -> _Row:
    writer = Writer(draw, "train", reference_rate=0.0, opener_rate=0.05)
    kind, attribute = draw.one((("person", "age"), ("product", "price"), ("company", "sales")))
    quarter = draw.one(words.QUARTERS) if attribute == "sales" else ""
    for _ in range(draw.integer(2, 7)):
        subject = writer.fresh(kind)
        one_kind = kind_of_person(subject) if kind == "person" else kind
        writer.state(one_kind, subject, attribute, writer.value_for(attribute), quarter)
    chunk = tuple(writer.take())
    thunks = Asker(draw, "train").all(read([chunk]))["comparison"]
    if not thunks:  # two subjects with the same number
        return _compare_row(encoder, draw, mix)
    row = [encoder.bos, *encoder.text(chunk_text(chunk)), encoder.sep]
    return _with_questions(encoder, row, [draw.one(thunks)() for _ in range(mix.num_questions)])


def _with_questions(encoder: Encoder, context: list[int], questions: Sequence[Question]) -> _Row:
    row = list(context)
    row_spans: list[tuple[int, int]] = []
    for question in questions:
        row += [encoder.question, *encoder.text(question.text), encoder.answer]
        start = len(row) - 1
        row += [*encoder.text(question.answer), encoder.eos]
        row_spans.append((start, len(row) - 1))
    return row, row_spans, [question.family for question in questions], len(context)


# Families whose questions a reader of some of the chunks can be asked: what the text says elsewhere is unknown to him.
# (Answers of the others change with what is shown: an order, an overview, a sum.)
_ABSENT_FAMILIES = (
    "single_fact",
    "coreference",
    "multi_hop",
    "comparison",
    "quarterly_figures",
    "who_said_what",
    "line_retrieval",
)


def asked_of_a_part(question: Question, known: Mapping[tuple[str, str, str], str]) -> Question | None:
    """A question about a text as asked of a reader who was shown a part of it.

    Args:
        question: asked about the whole text.
        known: value of each (subject, attribute, detail) that the part states.

    Returns:
        The question itself if the part states all that its answer rests on; the same with the answer "unknown", in the family
        "unanswerable", if something is missing; None where the part reads otherwise than the whole (a reference whose antecedent
        is not shown may mean somebody else).
    """
    values = [known.get((fact.subject, fact.attribute, fact.detail)) for fact in question.facts]
    if any(value is not None and value != fact.value for value, fact in zip(values, question.facts, strict=True)):
        return None
    if None not in values:
        return question
    return dataclasses.replace(question, family="unanswerable", answer=UNKNOWN)


class _Questions:
    """Hands out a row's questions, by the weights of the families."""

    def __init__(self, draw: Draw, mix: Mix, offered: Mapping[str, Sequence[Any]]) -> None:
        self._draw = draw
        self._mix = mix
        self._offered = {
            family: draw.some(thunks, len(thunks)) if mix.is_distinct else list(thunks)
            for family, thunks in offered.items()
            if thunks and mix.family_weights.get(family, 0.0) > 0.0
        }

    def next(self) -> Question | None:
        """One more question, or None if there is none left."""
        if not self._offered:
            return None
        family = _weighted(self._draw, self._mix.family_weights, list(self._offered))
        thunks = self._offered[family]
        if not self._mix.is_distinct:
            question: Question = self._draw.one(thunks)()
            return question
        question = thunks.pop()()
        if not thunks:
            del self._offered[family]
        return question


def _question_row(encoder: Encoder, draw: Draw, mix: Mix, layout: _Layout) -> _Row:
    asker = Asker(draw, "train")
    while True:
        whole, chunks = _context(draw, mix, "train", layout)
        facts = read(chunks)
        questions = _Questions(draw, mix, asker.all(facts))
        absent = None
        if mix.absent_rate and len(chunks) < len(whole):
            elsewhere = asker.all(read(whole))
            absent = _Questions(draw, mix, {family: elsewhere[family] for family in _ABSENT_FAMILIES})
        known = {(fact.subject, fact.attribute, fact.detail): fact.value for fact in facts}
        contradicted = {(fact.subject, fact.attribute, fact.detail) for fact in facts if fact.is_contradicted}
        chosen: list[Question] = []
        for _ in range(layout.num_questions):
            question = None
            if absent is not None and draw.chance(mix.absent_rate):
                question = absent.next()
                if question is not None:
                    if any((fact.subject, fact.attribute, fact.detail) in contradicted for fact in question.facts):
                        continue
                    question = asked_of_a_part(question, known)
            else:
                question = questions.next()
            if question is not None:
                chosen.append(question)
        if chosen:
            break
    row = [encoder.bos]
    if mix.instruction_rate and draw.chance(mix.instruction_rate):
        row += [*encoder.text(draw.one(INSTRUCTIONS)), encoder.sep]
    is_noisy = mix.noise_rate > 0.0 and draw.chance(mix.noise_rate)
    for chunk in chunks:
        text = chunk_text(chunk)
        row += encoder.text(reworded(draw, text) if is_noisy else text)
        row.append(encoder.sep)
    if is_noisy:
        chosen = [dataclasses.replace(question, text=reworded(draw, question.text)) for question in chosen]
    return _with_questions(encoder, row, chosen)
