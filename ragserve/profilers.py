"""Query profilers: five implementations of one protocol (sheet 2.2 and 8.2).

    chat        an OpenAI-compatible chat endpoint, confidence from its log-probabilities (GPT-4o in the paper)
    local       any causal LM here, the same prompt and parser
    embedded    TF-IDF and logistic heads trained on the training wordings; the default, needs nothing
    oracle      the gold profile of the query
    noisy       the gold profile with a controllable error (Fig. 17)

All see the query and one line about the corpus, never its chunks. An unparsable reply has confidence 0.
"""

import collections
import dataclasses
import functools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from common.errors import ConfigError, DataUnavailable
from common.rng import for_component
from ragserve.api import PROFILERS, Corpus, Profile, Query

Statistic = Literal["geometric_mean", "min"]
NUM_FEEDBACK = 4
"""How many feedback examples a profiler keeps: the last ones."""
_UNSURE = (True, True, 3, (30, 200))

# ----------------------------------------------------------------------------------------------------- prompt and parser

_INSTRUCTION = """You plan how a question will be answered from a database of text chunks. You see the question and a description
of the database, not its content. Study the wording and the structure of the question and decide four things:
1. "complexity": "High" if the answer must be worked out from what the chunks say (why, how, comparisons, several
steps), else "Low".
2. "joint_reasoning": "Yes" if several chunks must be read together, "No" if each chunk can be judged by itself.
3. "pieces": how many separate pieces of information the answer needs, a whole number from 1 to 10.
4. "summary_words": if chunks were summarised first, how many words a summary needs: two whole numbers from 30 to
200, low and high.
Reply with one line of JSON and nothing else, for example
{"complexity": "Low", "joint_reasoning": "Yes", "pieces": 2, "summary_words": [30, 60]}"""
_FIELDS = ("complexity", "joint_reasoning", "pieces", "summary_words")


@dataclasses.dataclass(frozen=True)
class Example:
    """A feedback example: a query and the profile that it should have got."""

    query: str
    profile: Profile


def render_prompt(query: str, corpus: Corpus, examples: Sequence[Example] = ()) -> str:
    """The profiler's prompt: instruction, feedback examples, database line, question."""
    parts = [_INSTRUCTION]
    for example in examples:
        parts.append(f"Question: {example.query}\nReply: {render_reply(example.profile)}")
    parts.append(f"Database: {corpus.metadata}; chunk size {corpus.chunk_tokens} tokens.\nQuestion: {query}\nReply:")
    return "\n\n".join(parts)


def render_reply(profile: Profile) -> str:
    """A profile as the reply that would be parsed to it."""
    return json.dumps(
        {
            "complexity": "High" if profile.is_complex else "Low",
            "joint_reasoning": "Yes" if profile.needs_joint else "No",
            "pieces": profile.pieces,
            "summary_words": list(profile.summary_range),
        }
    )


def parse_reply(text: str) -> Profile | None:
    """A profile from a reply, or None: one JSON object with exactly the four fields; nothing is repaired or guessed.

    `summary_words` may be one number or two rising ones, within 1..200.
    """
    try:
        found = json.loads(text.strip())
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or set(found) != set(_FIELDS):
        return None
    complexity, joint, pieces, words = (found[name] for name in _FIELDS)
    if complexity not in ("High", "Low") or joint not in ("Yes", "No"):
        return None
    lengths = words if isinstance(words, list) else [words]
    numbers = [pieces, *lengths]
    if len(lengths) not in (1, 2) or not all(isinstance(n, int) and not isinstance(n, bool) for n in numbers):
        return None
    low, high = lengths[0], lengths[-1]
    if not 1 <= pieces <= 10 or not 1 <= low <= high <= 200:
        return None
    return Profile(complexity == "High", joint == "Yes", pieces, (low, high))


def reply_confidence(
    pieces: Sequence[str], logprobs: Sequence[float], statistic: Statistic = "geometric_mean"
) -> float:
    """Confidence of a parsed reply from the log-probabilities of its *decision* tokens: those of the values, not of the
    JSON around them (the paper does not say which; inferred).

    Args:
        pieces: text of each generated token, in order.
        logprobs: their log-probabilities.
        statistic: "geometric_mean" of the decision tokens' probabilities, or the "min" over the four fields of each field's
            geometric mean.

    Returns:
        A probability; 0 where no value is found or the lengths differ.
    """
    if len(pieces) != len(logprobs) or not pieces:
        return 0.0
    ends = np.cumsum([len(piece) for piece in pieces])
    text = "".join(pieces)
    means: list[float] = []
    every: list[float] = []
    for field in _FIELDS:
        match = re.search(rf'"{field}"\s*:\s*("[^"]*"|\[[^\]]*\]|[^,}}\s]+)', text)
        if match is None:
            return 0.0
        # Brackets, quotes and blanks carry no decision; a token counts if it holds a letter or digit of the value.
        decisive = {at for at in range(match.start(1), match.end(1)) if re.match(r"\w", text[at])}
        own = [
            logprob
            for end, piece, logprob in zip(ends, pieces, logprobs, strict=True)
            if not decisive.isdisjoint(range(int(end) - len(piece), int(end)))
        ]
        if not own:
            return 0.0
        means.append(float(np.mean(own)))
        every += own
    value = math.exp(min(means)) if statistic == "min" else math.exp(float(np.mean(every)))
    return min(1.0, value)


def unsure(latency_s: float = 0.0, tokens: int = 0) -> Profile:
    """What stands in for an unparsable reply: confidence 0, so that its fields are never used."""
    is_complex, joint, pieces, lengths = _UNSURE
    return Profile(is_complex, joint, pieces, lengths, 0.0, latency_s, tokens)


def _from_reply(
    text: str, pieces: Sequence[str], logprobs: Sequence[float], statistic: Statistic, latency_s: float, tokens: int
) -> Profile:
    parsed = parse_reply(text)
    if parsed is None:
        return unsure(latency_s, tokens)
    confidence = reply_confidence(pieces, logprobs, statistic)
    return dataclasses.replace(parsed, confidence=confidence, latency_s=latency_s, tokens=tokens)


def _check_statistic(statistic: str) -> None:
    if statistic not in ("geometric_mean", "min"):
        raise ConfigError(f"statistic={statistic!r} is not one of geometric_mean, min.")


def _memory() -> collections.deque[Example]:
    return collections.deque(maxlen=NUM_FEEDBACK)


# ---------------------------------------------------------------------------------------------------------- LLM profilers


@PROFILERS.add("chat")
@dataclasses.dataclass
class ChatProfiler:
    """A chat model behind an OpenAI-compatible endpoint.

    Attributes:
        base_url: e.g. "https://api.openai.com/v1" or that of a local vLLM.
        model: e.g. "gpt-4o".
        api_key: sent as a bearer token; take it from the environment, never from a file in the repository.
        statistic: see `reply_confidence`.
        timeout_s: a reply that takes longer counts as unparsable.
        clock: seconds, for the latency; the caller's, e.g. `time.monotonic`. None: latency 0.
    """

    base_url: str = "https://api.openai.com/v1"
    model: str = "gpt-4o"
    api_key: str = dataclasses.field(default="", repr=False)
    statistic: Statistic = "geometric_mean"
    timeout_s: float = 20.0
    clock: Callable[[], float] | None = None
    _examples: collections.deque[Example] = dataclasses.field(default_factory=_memory, init=False, repr=False)

    def __post_init__(self) -> None:
        _check_statistic(self.statistic)
        if not self.base_url.startswith(("http://", "https://")) or not self.timeout_s > 0:
            raise ConfigError(
                f"base_url={self.base_url!r} must begin with http:// or https:// and timeout_s={self.timeout_s} be above 0."
            )

    def profile(self, query: Query, corpus: Corpus) -> Profile:
        """See `Profiler.profile`. A slow, failed or garbled reply has confidence 0.

        Raises:
            DataUnavailable: the endpoint refuses the key or does not know the model.
        """
        start_s = self.clock() if self.clock else 0.0
        reply = self._ask(render_prompt(query.text, corpus, tuple(self._examples)))
        latency_s = self.clock() - start_s if self.clock else 0.0
        try:
            choice = reply["choices"][0]
            text = str(choice["message"]["content"])
            entries = (choice.get("logprobs") or {}).get("content") or []
            pieces = [str(entry["token"]) for entry in entries]
            logprobs = [float(entry["logprob"]) for entry in entries]
            tokens = int((reply.get("usage") or {}).get("total_tokens", 0))
        except (KeyError, IndexError, TypeError, ValueError):
            return unsure(latency_s)
        return _from_reply(text, pieces, logprobs, self.statistic, latency_s, tokens)

    def _ask(self, prompt: str) -> Mapping[str, Any]:
        import urllib.error
        import urllib.request

        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": 80,
            "logprobs": True,
        }
        headers = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        )
        request = urllib.request.Request(
            self.base_url.rstrip("/") + "/chat/completions", json.dumps(body).encode(), headers
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
                found = json.loads(response.read())
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (401, 403, 404):
                raise DataUnavailable(
                    f"{self.base_url} answered {error.code} to model {self.model!r}: check the key (environment "
                    f"variable) and the "
                    "model's name, or use profiler=embedded."
                ) from None
            return {}
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def learn(self, query: Query, corpus: Corpus, golden: Profile) -> None:
        """Keep the example; the last four stand in the prompt."""
        self._examples.append(Example(query.text, golden))


@PROFILERS.add("local")
@dataclasses.dataclass
class LocalProfiler:
    """A causal LM on this machine, asked the same prompt.

    Attributes:
        model: settings of `common.models.loading.ModelSpec`, e.g. {"name": "llama", "source": "hf", "path": "..."}.
        statistic: see `reply_confidence`.
        clock: seconds, for the latency; None: latency 0.
    """

    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    statistic: Statistic = "geometric_mean"
    clock: Callable[[], float] | None = None
    loaded: Any = dataclasses.field(default=None, repr=False)
    _examples: collections.deque[Example] = dataclasses.field(default_factory=_memory, init=False, repr=False)

    def __post_init__(self) -> None:
        _check_statistic(self.statistic)

    def _model(self) -> Any:
        from common.models.loading import ModelSpec, load

        if self.loaded is None:
            self.loaded = load(ModelSpec.from_settings(self.model))
        if self.loaded.tokenizer is None:
            raise ConfigError("the profiler's model has no tokenizer; use a trained one.")
        return self.loaded

    def profile(self, query: Query, corpus: Corpus) -> Profile:
        """See `Profiler.profile`."""
        from common.models import prompt_format
        from common.serving.api import Call
        from ragserve.generation import generate

        loaded = self._model()
        start_s = self.clock() if self.clock else 0.0
        opening = prompt_format.bos_id(loaded.tokenizer)
        ids = loaded.tokenizer.encode(
            render_prompt(query.text, corpus, tuple(self._examples)), add_special_tokens=False
        )
        prompt = tuple(ids if opening is None else [opening, *ids])
        if len(prompt) + 80 > int(loaded.config.max_position_embeddings):
            return unsure()
        call = Call(prompt, 80, tag="profile", stop_ids=(prompt_format.eos_id(loaded.tokenizer),))
        (answer,) = generate(loaded, [call])
        kept = [(t, p) for t, p in zip(answer.tokens, answer.logprobs, strict=True) if t not in call.stop_ids]
        pieces = [str(loaded.tokenizer.decode([token])) for token, _ in kept]
        text = str(loaded.tokenizer.decode([token for token, _ in kept]))
        latency_s = self.clock() - start_s if self.clock else 0.0
        return _from_reply(
            text, pieces, [p for _, p in kept], self.statistic, latency_s, len(prompt) + len(answer.tokens)
        )

    def learn(self, query: Query, corpus: Corpus, golden: Profile) -> None:
        """Keep the example; the last four stand in the prompt."""
        self._examples.append(Example(query.text, golden))


# --------------------------------------------------------------------------------------------------------------- embedded


@dataclasses.dataclass(frozen=True, eq=False)
class _Heads:
    """Trained classifiers over hashed words and character n-grams of "question | metadata".

    Attributes:
        vectorise: texts to a sparse matrix.
        heads: by field: (classes, fitted logistic regression or None for a single class, temperature).
    """

    vectorise: Callable[[Sequence[str]], Any]
    heads: Mapping[str, tuple[list[Any], Any, float]]

    def probabilities(self, features: Any, field: str) -> np.ndarray:
        classes, model, temperature = self.heads[field]
        if model is None:
            return np.ones((features.shape[0], 1))
        logits = model.decision_function(features)
        if logits.ndim == 1:
            logits = np.stack([np.zeros_like(logits), logits], 1)
        scaled = logits / temperature
        scaled -= scaled.max(1, keepdims=True)
        weights = np.exp(scaled)
        assert weights.shape[1] == len(classes)
        return weights / weights.sum(1, keepdims=True)


_HEADS = ("is_complex", "needs_joint", "pieces", "summary_range")


@functools.lru_cache(maxsize=4)
def trained_heads(num_questions: int, seed: int, temperature_questions: int = 1200) -> _Heads:
    """The embedded profiler's classifiers; deterministic, about two seconds.

    Trained on questions in the training wordings; the temperatures on texts of other entities whose names are hidden from
    the features: each fifth of the question *templates* would be better still, but wordings are few.
    """
    from scipy import sparse
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import normalize

    from ragserve.workloads import training_questions

    words = HashingVectorizer(
        n_features=1 << 13, ngram_range=(1, 2), alternate_sign=False, norm=None, token_pattern=r"(?u)\b\w+\b"
    )
    grams = HashingVectorizer(
        n_features=1 << 13, analyzer="char_wb", ngram_range=(3, 5), alternate_sign=False, norm=None
    )

    def counts(texts: Sequence[str]) -> Any:
        return sparse.hstack([words.transform(texts), grams.transform(texts)], format="csr")

    def rows(num: int, own_seed: int, split: str) -> tuple[list[str], dict[str, list[Any]]]:
        texts: list[str] = []
        gold: dict[str, list[Any]] = {field: [] for field in _HEADS}
        for text, metadata, profile in training_questions(num, own_seed, split):
            texts.append(f"{mask_names(text)} | {metadata}")
            gold["is_complex"].append(profile.is_complex)
            gold["needs_joint"].append(profile.needs_joint_reasoning)
            gold["pieces"].append(min(10, profile.num_pieces))
            gold["summary_range"].append(f"{profile.summary_tokens[0]},{profile.summary_tokens[1]}")
        return texts, gold

    texts, gold = rows(num_questions, seed, "train")
    weigh = TfidfTransformer(sublinear_tf=True, norm=None).fit(counts(texts))

    def vectorise(batch: Sequence[str]) -> Any:
        return normalize(weigh.transform(counts(batch)))

    features = vectorise(texts)
    held_texts, held_gold = rows(temperature_questions, seed + 1, "dev")
    held = vectorise(held_texts)
    heads: dict[str, tuple[list[Any], Any, float]] = {}
    for field in _HEADS:
        target = np.array(gold[field])
        if len(set(gold[field])) == 1:
            heads[field] = (list(set(gold[field])), None, 1.0)
            continue
        model = LogisticRegression(C=30.0, max_iter=400, random_state=seed).fit(features, target)
        classes = list(model.classes_)
        heads[field] = (classes, model, _temperature(model, held, held_gold[field], classes))
    return _Heads(vectorise, heads)


def _covers(field: str, said: Any, true: Any) -> bool:
    """Whether a profile with `said` still leads to a right space if `true` is right.

    The mapping allows [n, 3n] chunks, so that a number of pieces which is a little off does no harm: it counts as
    right where neither is
    more than twice the other and [said, 3 said] holds the true number or more. Summary ranges count as right where
    they overlap.
    """
    if field == "pieces":
        return bool(said <= 2 * true and true <= 2 * said)
    if field == "summary_range":
        (low, high), (other_low, other_high) = (tuple(map(int, value.split(","))) for value in (said, true))
        return bool(low <= other_high and other_low <= high)
    return bool(said == true)


_NAME = re.compile(r"(?<![.?!]\s)(?<!^)\b[A-Z][a-z]+(?:'s)?\b")


def mask_names(text: str) -> str:
    """The question with names replaced: who is asked about says nothing of what is needed. The first word is kept."""
    return _NAME.sub("NAME", text)


def _temperature(model: Any, features: Any, gold: Sequence[Any], classes: Sequence[Any]) -> float:
    """The temperature of least negative log-likelihood on held-out questions, from a grid."""
    logits = model.decision_function(features)
    if logits.ndim == 1:
        logits = np.stack([np.zeros_like(logits), logits], 1)
    known = {value: place for place, value in enumerate(classes)}
    kept = [place for place, value in enumerate(gold) if value in known]
    target = np.array([known[gold[place]] for place in kept])
    best, best_loss = 1.0, math.inf
    for temperature in np.geomspace(0.25, 8.0, 31):
        scaled = logits[kept] / temperature
        scaled = scaled - scaled.max(1, keepdims=True)
        loss = float(np.mean(np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(kept)), target]))
        if loss < best_loss:
            best, best_loss = float(temperature), loss
    return best


def _features(num_questions: int, seed: int, text: str, metadata: str) -> Any:
    return trained_heads(num_questions, seed).vectorise([f"{mask_names(text)} | {metadata}"])


@functools.lru_cache(maxsize=1 << 14)
def _from_heads(num_questions: int, seed: int, text: str, metadata: str) -> Profile:
    """What the heads say of a question: asked once, however many methods and rates serve it."""
    heads = trained_heads(num_questions, seed)
    features = _features(num_questions, seed, text, metadata)
    picked: dict[str, Any] = {}
    confidence = 1.0
    for field in _HEADS:
        probability = heads.probabilities(features, field)[0]
        place = int(probability.argmax())
        picked[field] = heads.heads[field][0][place]
        covered = [_covers(field, picked[field], other) for other in heads.heads[field][0]]
        confidence = min(confidence, float(probability[covered].sum()))
    low, high = (int(part) for part in str(picked["summary_range"]).split(","))
    # Tokens that an LLM would have been sent: instruction, database line, question; about 1.3 a word.
    tokens = int(1.3 * (len(_INSTRUCTION.split()) + len(text.split()) + 12)) + 30
    return Profile(
        bool(picked["is_complex"]),
        bool(picked["needs_joint"]),
        int(picked["pieces"]),
        (low, high),
        confidence,
        tokens=tokens,
    )


# DEVIATION ragserve-4: the default profiler is a classifier, not GPT-4o; its latency is an assumption.
@PROFILERS.add("embedded")
@dataclasses.dataclass
class EmbeddedProfiler:
    """TF-IDF and multinomial logistic heads, trained on the training wordings, probabilities calibrated by a temperature.

    Confidence is the smallest of the four fields' probabilities of being right or near enough (`_covers`). Feedback:
    the last four examples are kept, and one whose wording is
    nearly the query's own decides instead of the heads.

    Attributes:
        num_questions: training questions.
        seed: of training.
        latency_s: what a profile takes (an API call stands behind it in the paper).
        similarity: cosine similarity from which a feedback example decides.
    """

    num_questions: int = 2400
    seed: int = 0
    latency_s: float = 0.0
    similarity: float = 0.8
    _examples: collections.deque[tuple[Any, Profile]] = dataclasses.field(
        default_factory=lambda: collections.deque(maxlen=NUM_FEEDBACK), init=False, repr=False
    )

    def __post_init__(self) -> None:
        if self.num_questions < 40 or self.latency_s < 0 or not 0 < self.similarity <= 1:
            raise ConfigError(
                f"num_questions={self.num_questions} must be at least 40, latency_s={self.latency_s} at least 0 and similarity="
                f"{self.similarity} within 0..1."
            )

    def profile(self, query: Query, corpus: Corpus) -> Profile:
        """See `Profiler.profile`."""
        if self._examples:
            features = self._features(query, corpus)
            scored = [(float((features @ other.T).sum()), profile) for other, profile in self._examples]
            nearest, golden = max(scored, key=lambda pair: pair[0])
            if nearest >= self.similarity:
                return dataclasses.replace(golden, confidence=min(1.0, nearest), latency_s=self.latency_s)
        said = _from_heads(self.num_questions, self.seed, query.text, corpus.metadata)
        return dataclasses.replace(said, latency_s=self.latency_s)

    def _features(self, query: Query, corpus: Corpus) -> Any:
        return _features(self.num_questions, self.seed, query.text, corpus.metadata)

    def learn(self, query: Query, corpus: Corpus, golden: Profile) -> None:
        """Keep the example; see the class."""
        self._examples.append((self._features(query, corpus), golden))


# ---------------------------------------------------------------------------------------------------------------- oracles


def gold_profile(query: Query, latency_s: float = 0.0) -> Profile:
    """The gold profile of a query.

    Raises:
        ConfigError: the query has none (its source does not know it).
    """
    gold = query.gold_profile
    if gold is None:
        raise ConfigError(f"query {query.query_id!r} has no gold profile; oracle profilers need generated queries.")
    return Profile(
        gold.is_complex, gold.needs_joint_reasoning, min(10, gold.num_pieces), gold.summary_tokens, 1.0, latency_s
    )


@PROFILERS.add("oracle")
@dataclasses.dataclass
class OracleProfiler:
    """The gold profile, with confidence 1: an upper bound, never a result of ours.

    Attributes:
        latency_s: what a profile takes.
    """

    latency_s: float = 0.0

    def profile(self, query: Query, corpus: Corpus) -> Profile:
        """See `Profiler.profile`."""
        return gold_profile(query, self.latency_s)

    def learn(self, query: Query, corpus: Corpus, golden: Profile) -> None:
        """There is nothing to learn."""


@PROFILERS.add("noisy")
@dataclasses.dataclass
class NoisyProfiler:
    """The gold profile with errors: each of the four fields is wrong with a given probability, independently.

    A wrong flag is turned round; wrong pieces are drawn from the other values of 1..6; a wrong range belongs to
    other pieces. The
    confidence of a profile with an error is uniform in [0, 1] with probability `awareness`, else as if it were right
    (0.9 to 1).

    Attributes:
        error_rate: probability of an error per field.
        awareness: how often an error shows in the confidence.
        seed: of the errors; the same query always gets the same ones.
        latency_s: what a profile takes.
    """

    error_rate: float = 0.1
    awareness: float = 0.5
    seed: int = 0
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.error_rate <= 1.0 or not 0.0 <= self.awareness <= 1.0:
            raise ConfigError(f"error_rate={self.error_rate} and awareness={self.awareness} must be within 0..1.")

    def profile(self, query: Query, corpus: Corpus) -> Profile:
        """See `Profiler.profile`."""
        gold = gold_profile(query, self.latency_s)
        rng = for_component(self.seed, "noisy profiler", query.query_id)
        wrong = rng.random(4) < self.error_rate
        pieces = int(rng.choice([n for n in range(1, 7) if n != gold.pieces])) if wrong[2] else gold.pieces
        other = int(rng.integers(1, 7))
        lengths = (4 * other, 12 * other) if wrong[3] else gold.summary_range
        is_shown = bool(wrong.any()) and rng.random() < self.awareness
        confidence = float(rng.random()) if is_shown else float(rng.uniform(0.9, 1.0))
        return Profile(
            gold.is_complex != bool(wrong[0]),
            gold.needs_joint != bool(wrong[1]),
            pieces,
            lengths,
            confidence,
            self.latency_s,
        )

    def learn(self, query: Query, corpus: Corpus, golden: Profile) -> None:
        """There is nothing to learn."""
