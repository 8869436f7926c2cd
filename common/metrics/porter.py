"""The Porter stemmer, in the variant that ROUGE-L with stemming is defined by in practice.

M. F. Porter, "An algorithm for suffix stripping", Program 14.3 (1980), with the later refinements that the stemmer of the
NLTK library switches on by default: a list of irregular forms, "ies"/"ied" of four-letter words, y -> i after a consonant
only, -alli, -fulli, -bli and -logi in step 2, and condition *o for two-letter stems. The `rouge-score` package stems with
exactly these rules, so scores are comparable only if we do. Checked against that stemmer word for word (tests).

Terms of the paper: a word is a sequence of consonants (c) and vowels (v), y being a vowel after a consonant; its measure m
counts the changes from v to c; condition *o says that a stem ends consonant-vowel-consonant, the last not w, x or y.
"""

import functools

_IRREGULAR = {
    "sky": "sky",
    "skies": "sky",
    "dying": "die",
    "lying": "lie",
    "tying": "tie",
    "news": "news",
    "innings": "inning",
    "inning": "inning",
    "outings": "outing",
    "outing": "outing",
    "cannings": "canning",
    "canning": "canning",
    "howe": "howe",
    "proceed": "proceed",
    "exceed": "exceed",
    "succeed": "succeed",
}

# In each table the first suffix that matches decides; if its condition fails, no later one is tried. Order matters only
# where one suffix ends another (ational/tional, ization/ation, ement/ment/ent).
_STEP_2 = (
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
)
_STEP_3 = (
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
)
_STEP_4 = (
    *("al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment"),
    *("ent", "ion", "ou", "ism", "ate", "iti", "ous", "ive", "ize"),
)


@functools.lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """Reduce a word to its stem.

    Args:
        word: one word; letters are lower-cased, anything but a, e, i, o, u, y counts as a consonant.

    Returns:
        The stem, which need not be a word ("relational" -> "relat"). Words of one or two letters come back unchanged.
    """
    word = word.lower()
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 2:
        return word
    word = _plural(word)
    word = _past_or_gerund(word)
    word = _final_y(word)
    word = _double_suffix(word)
    for suffix, replacement in _STEP_3:
        if word.endswith(suffix):
            base = word.removesuffix(suffix)
            word = base + replacement if _measure(base) > 0 else word
            break
    word = _single_suffix(word)
    return _tidy(word)


def _shape(word: str) -> str:
    """The word as a string of "c" and "v"."""
    kinds: list[str] = []
    for letter in word:
        if letter in "aeiou" or (letter == "y" and kinds and kinds[-1] == "c"):
            kinds.append("v")
        else:
            kinds.append("c")
    return "".join(kinds)


def _measure(word: str) -> int:
    return _shape(word).count("vc")


def _ends_cvc(word: str) -> bool:
    """Condition *o, extended to two-letter stems ("us" + ing -> "use")."""
    shape = _shape(word)
    return shape == "vc" or (shape.endswith("cvc") and word[-1] not in "wxy")


def _plural(word: str) -> str:
    """Step 1a."""
    if word.endswith("ies"):
        return word.removesuffix("s") if len(word) == 4 else word.removesuffix("es")
    if word.endswith("sses"):
        return word.removesuffix("es")
    if word.endswith("s") and not word.endswith("ss"):
        return word.removesuffix("s")
    return word


def _past_or_gerund(word: str) -> str:
    """Step 1b: -ied, -eed, -ed and -ing, and what is put back after the last two."""
    if word.endswith("ied"):
        return word.removesuffix("d") if len(word) == 4 else word.removesuffix("ed")
    if word.endswith("eed"):
        return word.removesuffix("d") if _measure(word.removesuffix("eed")) > 0 else word
    for suffix in ("ed", "ing"):
        base = word.removesuffix(suffix)
        if base != word and "v" in _shape(base):
            break
    else:
        return word
    if base.endswith(("at", "bl", "iz")):
        return base + "e"
    if len(base) >= 2 and base[-1] == base[-2] and _shape(base).endswith("c"):
        return base if base[-1] in "lsz" else base[:-1]
    return base + "e" if _measure(base) == 1 and _ends_cvc(base) else base


def _final_y(word: str) -> str:
    """Step 1c: y -> i after a consonant that is not the word's first letter."""
    base = word.removesuffix("y")
    return base + "i" if base != word and len(base) > 1 and _shape(base).endswith("c") else word


def _double_suffix(word: str) -> str:
    """Step 2."""
    if word.endswith("alli") and _measure(word.removesuffix("alli")) > 0:
        # A second pass, so that "relationalli" becomes "relate" as "relational" does; the published rules stop here.
        return _double_suffix(word.removesuffix("li"))
    if word.endswith("logi"):
        # The l counts to the stem, so that short ones like "theologi" with m("theo") = 0 are covered too.
        return word.removesuffix("i") if _measure(word.removesuffix("ogi")) > 0 else word
    for suffix, replacement in _STEP_2:
        if word.endswith(suffix):
            base = word.removesuffix(suffix)
            return base + replacement if _measure(base) > 0 else word
    return word


def _single_suffix(word: str) -> str:
    """Step 4."""
    for suffix in _STEP_4:
        if word.endswith(suffix):
            base = word.removesuffix(suffix)
            removable = _measure(base) > 1 and (suffix != "ion" or base.endswith(("s", "t")))
            return base if removable else word
    return word


def _tidy(word: str) -> str:
    """Step 5: a final e, then a final double l."""
    base = word.removesuffix("e")
    if base != word and (_measure(base) > 1 or (_measure(base) == 1 and not _ends_cvc(base))):
        word = base
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word
