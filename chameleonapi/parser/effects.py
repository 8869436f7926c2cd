"""What an evaluation leaves behind, in a form in which two evaluations can be compared.

An effect is taken apart into atoms, so that "returned a list with dog and beach" is two atoms at one place and the effects of
two labels can be recognised in the effects of both together. Each atom is written twice: as `pattern`, with everything that came
from the API replaced by a mark (labels that the application treats alike have equal patterns), and as `text`, with the label's
text kept and numbers of the API masked (so that one can tell *which* label was passed on).
"""

import re
from typing import Any, NamedTuple

from chameleonapi.parser.values import (
    NUMBER_MARK,
    TEXT_MARK,
    ApiDict,
    ClassValue,
    EnumMember,
    FunctionValue,
    Instance,
    Opaque,
    Record,
    TaintedFloat,
    TaintedInt,
    TaintedStr,
    collapse,
    is_row_of_flags,
    is_tainted,
    pattern_of,
    text_of,
)

_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?%?")
_SCORED_MARK = re.compile(f"{TEXT_MARK}[\\s:(\\[=,-]*{NUMBER_MARK}%?[)\\]]*")
_WORD = re.compile(r"\w")
_MAX_TEXT = 400
_MAX_ATOMS = 400

# Calls that only show or record what happens; they decide nothing when something else does.
DISPLAY_ROOTS = (
    "cv2.",
    "plt.",
    "matplotlib",
    "PIL.ImageDraw",
    "ImageDraw",
    "draw.",
    "logging",
    "logger",
    "log.",
    "tqdm",
    "pprint",
    "streamlit.",
    "rich.",
    "click.",
    "tabulate",
)

# Calls that tell a person something: speech, and messages of bots.
MESSAGE_METHODS = (
    "say", "speak", "speak_text", "text_to_speech", "gTTS", "synthesize_speech", "reply", "reply_text", "reply_to",
    "send_message", "sendMessage", "showinfo", "showwarning", "toast", "notify", "alert", "flash",
)  # fmt: skip


class Atom(NamedTuple):
    """One indivisible piece of an effect."""

    category: str  # print, log, wait, call, raise, write, return, set, attribute, global, argument, variable
    name: str  # what was called or set
    path: str  # where inside the value
    pattern: str
    text: str

    @property
    def channel(self) -> tuple[str, str, str]:
        """Where the effect happens, without what it says."""
        return (self.category, self.name, self.path)

    @property
    def echoes(self) -> bool:
        """True if it passes text of a label on."""
        return TEXT_MARK in self.pattern

    @property
    def is_commentary(self) -> bool:
        """True for displays, and values that an object keeps for itself, which repeat the label."""
        return self.echoes and (self.is_display or self.category == "attribute")

    @property
    def is_message(self) -> bool:
        """True for speech and messages that repeat the label."""
        return self.echoes and self.category == "call" and self.name.rsplit(".", 1)[-1] in MESSAGE_METHODS

    @property
    def is_bare(self) -> bool:
        """True if a list and nothing else is passed on, without a word of the application's own."""
        return self.pattern.startswith("[") and not _WORD.search(self.pattern.replace(TEXT_MARK, ""))

    @property
    def is_display(self) -> bool:
        """True for prints, logs, drawings and pauses."""
        return self.category in ("print", "log", "wait") or (
            self.category == "call" and self.name.startswith(DISPLAY_ROOTS)
        )


def _scalar(value: Any) -> tuple[str, str]:
    """Pattern and text of a value that is not taken apart."""
    if isinstance(value, (TaintedFloat, TaintedInt)):
        if getattr(value, "is_count", False):
            return NUMBER_MARK, int.__repr__(int(value))
        return NUMBER_MARK, NUMBER_MARK
    if isinstance(value, TaintedStr):
        pattern = collapse(_SCORED_MARK.sub(TEXT_MARK, value.pattern))
        text = str.__str__(value)
        if NUMBER_MARK in value.pattern or value.payload is not None:
            text = _NUMBER.sub(NUMBER_MARK, text)
        return pattern[:_MAX_TEXT], text[:_MAX_TEXT]
    if isinstance(value, str):
        return value[:_MAX_TEXT], value[:_MAX_TEXT]
    if isinstance(value, Opaque):
        mark = TEXT_MARK if value.tainted and "the API's output" in value.origin else ""
        return f"<{value.origin}>{mark}", f"<{value.origin}>"
    if isinstance(value, Record):
        return TEXT_MARK, _NUMBER.sub(NUMBER_MARK, text_of(value))[:_MAX_TEXT]
    if isinstance(value, ApiDict):
        return TEXT_MARK, ", ".join(str(v) for v in value.values() if isinstance(v, str))
    if isinstance(value, EnumMember):
        return pattern_of(value.name) if isinstance(value.name, str) else text_of(value), text_of(value)
    if isinstance(value, (FunctionValue, ClassValue)):
        return f"<{value.name}>", f"<{value.name}>"
    text = text_of(value)[:_MAX_TEXT]
    return (
        (text, text)
        if not is_tainted(value)
        else (collapse(pattern_of(value))[:_MAX_TEXT], _NUMBER.sub(NUMBER_MARK, text))
    )


def _is_container(value: Any) -> bool:
    return isinstance(value, (list, tuple, set, frozenset, dict, Instance)) and not isinstance(value, ApiDict)


def value_atoms(category: str, name: str, value: Any, path: str = "", depth: int = 0) -> list[Atom]:
    """Atoms of a value that leaves the application; containers are taken apart, order and repetition do not count."""
    if not _is_container(value) or depth > 5:
        pattern, text = _scalar(value)
        return [Atom(category, name, path, pattern, text)]
    out: list[Atom] = []
    if isinstance(value, Instance):
        for key, item in value.attributes.items():
            out += value_atoms(category, name, item, f"{path}.{key}", depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            shown = pattern_of(key) if isinstance(key, str) else text_of(key)
            key_text = text_of(key)
            for atom in value_atoms(category, name, item, f"{path}[{shown!r}]", depth + 1):
                if isinstance(key, TaintedStr) and key.is_api_text:
                    atom = atom._replace(pattern=f"{TEXT_MARK}: {atom.pattern}", text=f"{key_text}: {atom.text}")
                out.append(atom)
            if len(out) > _MAX_ATOMS:
                break
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            out += value_atoms(category, name, item, f"{path}[{i}]", depth + 1)
    elif isinstance(value, list) and is_row_of_flags(value):
        for i, item in enumerate(value[:_MAX_ATOMS]):
            out += value_atoms(category, name, item, f"{path}[{i}]", depth + 1)
    else:
        for item in list(value)[:_MAX_ATOMS]:
            out += value_atoms(category, name, item, f"{path}[{_who(item)}]", depth + 1)
    return list(dict.fromkeys(out))[:_MAX_ATOMS]


def _who(item: Any) -> str:
    """What an entry with a flag is about: {"pet": "dog", "found": True} and the same of cats are different places."""
    values = list(item.values()) if isinstance(item, dict) and not isinstance(item, ApiDict) else item
    if not isinstance(values, (list, tuple)) or not any(
        isinstance(v, bool) or (type(v) is int and v < 2) for v in values
    ):
        return ""
    return next((v for v in values if isinstance(v, str) and not isinstance(v, TaintedStr)), "")


def call_atoms(category: str, name: str, args: list[Any], kwargs: dict[str, Any]) -> list[Atom]:
    """Atoms of a call: its plain arguments together, and each container taken apart."""
    patterns: list[str] = []
    texts: list[str] = []
    out: list[Atom] = []
    holders = [a for a in args if _is_container(a)]
    # print(people, places) and print((people, places)): each list is a place of its own.
    is_report = len(holders) > 1 or any(isinstance(a, tuple) and any(map(_is_container, a)) for a in holders)
    for key, value in [*((str(i), a) for i, a in enumerate(args)), *kwargs.items()]:
        if isinstance(value, tuple) and value and not any(isinstance(v, bool) or _is_container(v) for v in value):
            pattern, text = collapse(pattern_of(value)), text_of(value)  # a colour or a point: one thing
            patterns.append(pattern)
            texts.append(_NUMBER.sub(NUMBER_MARK, text) if NUMBER_MARK in pattern else text)
            continue
        if not key.isdigit() and not _is_container(value):
            pattern, text = _scalar(value)
            out.append(Atom(category, name, f"({key})", pattern, text))
            continue
        if _is_container(value):
            if category == "print" and not is_report:
                pattern, text = collapse(pattern_of(value)), text_of(value)
                patterns.append(pattern[:_MAX_TEXT])
                texts.append(text[:_MAX_TEXT])
                continue
            out += value_atoms(category, name, value, f"({key})")
            continue
        pattern, text = _scalar(value)
        if isinstance(value, bool) and sum(isinstance(a, bool) for a in args) > 1:
            out.append(Atom(category, name, f"({key})", pattern, text))
            continue
        patterns.append(pattern)
        texts.append(text)
    if patterns or not out:
        glue = " " if category in ("print", "log") else ", "
        pattern = collapse(_SCORED_MARK.sub(TEXT_MARK, glue.join(patterns)))
        out.insert(0, Atom(category, name, "", pattern, glue.join(texts)))
    return out
