"""Values of the evaluator: what an application's expression can hold while it is evaluated without being executed.

Besides plain Python values there are

    TaintedStr, TaintedFloat, TaintedInt   text and numbers that came out of an ML API, or were computed from it
    Record                                 an object of a provider's client library (attributes)
    ApiDict, ApiList                       the dictionaries and lists of a provider's answer
    Opaque                                 anything that the source does not determine: a camera, a request, another library
    FunctionValue, ClassValue, Instance    what the application defines itself

A tainted string carries its `pattern`: the same text with every part that came from the API replaced by a mark. Two labels
that the application treats alike leave the same pattern behind even when it repeats their names.
"""

import ast
import re
from dataclasses import dataclass, field
from typing import Any

TEXT_MARK = "\u25ca"  # stands for label text of the API
NUMBER_MARK = "\u220e"  # stands for a score, a magnitude, or a count of labels
_RUNS_OF_MARKS = re.compile(f"{TEXT_MARK}(?:[\\s,;:|/&+'\"\\[\\](){{}}-]*(?:and )?{TEXT_MARK})+")


class TaintedStr(str):
    """Text that depends on the API's answer (or, with `is_opaque`, on a value that is not known)."""

    pattern: str
    is_opaque: bool
    payload: Any  # the value that this text serialises, so that json.loads(json.dumps(x)) gives x back

    def __new__(cls, text: str, pattern: str = TEXT_MARK, is_opaque: bool = False, payload: Any = None) -> "TaintedStr":
        made = str.__new__(cls, text)
        made.pattern = pattern
        made.is_opaque = is_opaque
        made.payload = payload
        return made

    @property
    def is_api_text(self) -> bool:
        """True if a part of it came from the API."""
        return TEXT_MARK in self.pattern or NUMBER_MARK in self.pattern


class TaintedFloat(float):
    """A number that came from the API: a score, a confidence, a magnitude, or arithmetic on one."""


class TaintedInt(int):
    """A count of things in the API's answer, or an integer computed from a score."""

    is_count: bool = False


class Opaque:
    """A value that the source does not determine.

    Args:
        origin: dotted description of where it comes from, e.g. "cv2.VideoCapture().read()".
        tainted: it was computed from the API's answer by something that cannot be looked into.
        default: how a branch on it is decided at first.
        service: the provider's service that it is a client of, e.g. "aws.rekognition"; None if it is not known to be one.
        is_parameter: it is (part of) a parameter or attribute whose value the caller decides.
    """

    __slots__ = ("default", "is_parameter", "origin", "service", "tainted")

    def __init__(
        self,
        origin: str,
        tainted: bool = False,
        default: bool = True,
        service: str | None = None,
        is_parameter: bool = False,
    ) -> None:
        self.origin = origin if len(origin) < 200 else origin[:200]
        self.tainted = tainted
        self.default = default
        self.service = service
        self.is_parameter = is_parameter

    def derive(self, suffix: str, tainted: bool = False) -> "Opaque":
        """A part or a result of this value."""
        return Opaque(self.origin + suffix, self.tainted or tainted, True, None, self.is_parameter)

    def __repr__(self) -> str:
        return f"<{self.origin}>"


class Record:
    """An object of a provider's client library: named fields, no subscripts."""

    __slots__ = ("_fields", "_kind", "_site")

    def __init__(self, kind: str, fields: dict[str, Any], site: Any = None) -> None:
        self._kind = kind
        self._fields = fields
        self._site = site


class ApiDict(dict[Any, Any]):
    """A dictionary of a provider's answer; the evaluator notes which of its keys are read."""

    site: Any = None


class ApiList(list[Any]):
    """A list of a provider's answer; its length counts labels."""


class InstanceList(ApiList):
    """The boxes of one label of Rekognition; its length counts objects, and the evaluator notes when it is counted."""


class UnprobedList(ApiList):
    """A list of a provider's answer that is always empty here: what decides on it is refused."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


@dataclass(eq=False)
class ExceptionValue:
    """An exception that the application raised or could have raised."""

    names: tuple[str, ...]  # class and base class names, most derived first
    args: tuple[Any, ...] = ()


@dataclass(eq=False)
class FunctionValue:
    """A function or lambda of the application."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    module: "ModuleValue"
    closure: "Frame | None"
    defaults: list[Any]
    kw_defaults: dict[str, Any]
    name: str
    owner: "ClassValue | None" = None
    role: str = "function"  # or "static", "class", "property"
    attributes: dict[str, Any] = field(default_factory=dict)
    is_generator: bool = False


@dataclass(eq=False)
class ClassValue:
    """A class of the application."""

    name: str
    bases: list[Any]
    attributes: dict[str, Any]
    module: "ModuleValue"
    is_dataclass: bool = False
    fields: list[str] = field(default_factory=list)

    def lookup(self, name: str) -> Any:
        """The attribute `name` of the class or of a base defined in the application, else `MISSING`."""
        if name in self.attributes:
            return self.attributes[name]
        for base in self.bases:
            if isinstance(base, ClassValue):
                found = base.lookup(name)
                if found is not MISSING:
                    return found
        return MISSING

    def base_names(self) -> list[str]:
        """Names of this class and all of its bases."""
        names = [self.name]
        for base in self.bases:
            if isinstance(base, ClassValue):
                names += base.base_names()
            elif isinstance(base, Opaque):
                names.append(base.origin.rsplit(".", 1)[-1])
            elif isinstance(base, type):
                names += [c.__name__ for c in base.__mro__]
            elif isinstance(base, NativeFunction):
                names.append(base.name.rsplit(".", 1)[-1])
        return names

    def has_unknown_base(self) -> bool:
        """True if a base comes from outside the application, so that attributes may come from there too."""
        return any((isinstance(b, Opaque) or (isinstance(b, ClassValue) and b.has_unknown_base())) for b in self.bases)


@dataclass(eq=False)
class Instance:
    """An object of a class of the application."""

    cls: ClassValue
    attributes: dict[str, Any]
    is_parameter: bool = False


@dataclass(eq=False)
class BoundMethod:
    """A method together with its receiver."""

    function: FunctionValue
    receiver: Any


@dataclass(eq=False)
class EnumMember:
    """A member of an enumeration, of the application or of a provider."""

    name: Any
    value: Any
    owner: str = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EnumMember) and str(self.name) == str(other.name)

    def __lt__(self, other: "EnumMember") -> bool:  # IntEnum: max() of risk levels
        return bool(self.value < (other.value if isinstance(other, EnumMember) else other))

    def __hash__(self) -> int:
        return hash(str(self.name))


@dataclass(eq=False)
class NativeFunction:
    """A builtin or library function that the evaluator provides itself."""

    name: str
    call: Any  # (evaluator, args, kwargs, node) -> value


@dataclass(eq=False)
class NativeMethod:
    """A method of a plain value, not yet called: `clean = text.lower`."""

    receiver: Any
    name: str


@dataclass(eq=False)
class NativeModule:
    """A library module of which some functions are provided; the others are opaque."""

    name: str
    members: dict[str, Any]


@dataclass(eq=False)
class ModuleValue:
    """A module of the application."""

    name: str
    path: str  # relative to the application's root, for messages
    tree: ast.Module
    variables: dict[str, Any] = field(default_factory=dict)
    is_loaded: bool = False
    has_unknown_star: bool = False


@dataclass(eq=False)
class Frame:
    """Variables of one call. `variables` of a module's frame are the module's own."""

    variables: dict[str, Any]
    module: ModuleValue
    parent: "Frame | None" = None
    function: FunctionValue | None = None
    global_names: set[str] = field(default_factory=set)
    nonlocal_names: set[str] = field(default_factory=set)
    returned: Any = None
    yielded: list[Any] | None = None


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING = _Missing()


def collapse(pattern: str) -> str:
    """A pattern with enumerations of marks ("x, x and x") shortened to one, so that the number of labels does not matter."""
    return _RUNS_OF_MARKS.sub(TEXT_MARK, pattern)


def is_row_of_flags(value: Any) -> bool:
    """True for [1, 0, 1] and [True, False]: what counts is the position."""
    return len(value) > 1 and all(type(v) in (bool, int) and 0 <= v <= 1 for v in value)


def pattern_of(value: Any) -> str:
    """The text of a value with every part that came from the API replaced by a mark."""
    if isinstance(value, TaintedStr):
        return value.pattern
    if isinstance(value, (TaintedFloat, TaintedInt)):
        return NUMBER_MARK
    if isinstance(value, (Record, ApiDict)):
        return TEXT_MARK
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)) and is_row_of_flags(value):
        return "[" + ", ".join(map(text_of, value)) + "]"
    if isinstance(value, (list, tuple, set, frozenset)):
        # Elements that look alike count once: the number of labels must not make two answers look different.
        return (
            "["
            + ", ".join(
                dict.fromkeys(
                    sorted(map(pattern_of, value)) if isinstance(value, (set, frozenset)) else map(pattern_of, value)
                )
            )
            + "]"
        )
    if isinstance(value, dict):
        return "{" + ", ".join(f"{pattern_of(k)}: {pattern_of(v)}" for k, v in value.items()) + "}"
    return text_of(value)


def text_of(value: Any) -> str:
    """What str() of a value would give; a name in angle brackets for what is not known."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Opaque):
        return f"<{value.origin}>"
    if isinstance(value, EnumMember):
        return f"{value.owner}.{value.name}" if value.owner else str(value.name)
    if isinstance(value, ExceptionValue):
        return (
            text_of(value.args[0])
            if len(value.args) == 1
            else str(tuple(map(text_of, value.args)))
            if value.args
            else ""
        )
    if isinstance(value, Record):
        return "".join(_record_line(k, v) for k, v in value._fields.items())
    if isinstance(value, (Instance,)):
        return f"<{value.cls.name} object>"
    if isinstance(value, FunctionValue):
        return f"<function {value.name}>"
    if isinstance(value, ClassValue):
        return f"<class {value.name}>"
    if isinstance(value, list):
        return "[" + ", ".join(map(repr_of, value)) + "]"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(repr_of, value)) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(map(repr_of, value)) + "}" if value else "set()"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{repr_of(k)}: {repr_of(v)}" for k, v in value.items()) + "}"
    if isinstance(value, TaintedFloat):
        return float.__repr__(value)
    if isinstance(value, TaintedInt):
        return int.__repr__(value)
    if type(value).__str__ is object.__str__ and type(value).__repr__ is object.__repr__:
        return f"<{type(value).__name__}>"  # not its address, which differs from one evaluation to the next
    return str(value)


def repr_of(value: Any) -> str:
    """What repr() of a value would give."""
    return repr(str.__str__(value)) if isinstance(value, str) else text_of(value)


def _record_line(name: str, value: Any) -> str:
    if isinstance(value, (Opaque, list, Record)):
        return ""
    return f'{name}: "{value}"\n' if isinstance(value, str) else f"{name}: {text_of(value)}\n"


def is_tainted(value: Any, depth: int = 4) -> bool:
    """True if a value, or something inside it, depends on the API's answer."""
    if isinstance(value, TaintedStr):
        return value.is_api_text
    if isinstance(value, (TaintedFloat, TaintedInt, ApiDict, ApiList)):
        return True
    if isinstance(value, Record):
        return True
    if isinstance(value, Opaque):
        return value.tainted
    if isinstance(value, EnumMember):
        return isinstance(value.name, TaintedStr)
    if depth and isinstance(value, (list, tuple, set, frozenset)):
        return any(is_tainted(v, depth - 1) for v in value)
    if depth and isinstance(value, dict):
        return any(is_tainted(k, depth - 1) or is_tainted(v, depth - 1) for k, v in value.items())
    if depth and isinstance(value, Instance):
        return any(is_tainted(v, depth - 1) for v in value.attributes.values())
    return False


def has_opaque(value: Any, depth: int = 3) -> bool:
    """True if a value, or something inside it, is not known."""
    if isinstance(value, Opaque):
        return True
    if isinstance(value, TaintedStr):
        return value.is_opaque
    if depth and isinstance(value, (list, tuple, set, frozenset)):
        return any(has_opaque(v, depth - 1) for v in value)
    if depth and isinstance(value, dict):
        return any(has_opaque(v, depth - 1) or has_opaque(k, depth - 1) for k, v in value.items())
    return False
