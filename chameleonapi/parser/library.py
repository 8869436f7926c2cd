"""Builtins, methods of plain values and the few library functions that the evaluator computes itself.

Everything here is pure, or records an effect; nothing touches the machine.
"""

import ast
import bisect
import builtins
import collections
import csv
import heapq
import io
import itertools
import json
import math
import posixpath
import re
import string
import tomllib
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from chameleonapi.parser.values import (
    MISSING,
    NUMBER_MARK,
    TEXT_MARK,
    ApiDict,
    ApiList,
    BoundMethod,
    ClassValue,
    EnumMember,
    ExceptionValue,
    FunctionValue,
    Instance,
    InstanceList,
    NativeFunction,
    NativeMethod,
    NativeModule,
    Opaque,
    Record,
    TaintedFloat,
    TaintedInt,
    TaintedStr,
    has_opaque,
    is_tainted,
    pattern_of,
    repr_of,
    text_of,
)

if TYPE_CHECKING:
    from chameleonapi.parser.evaluator import Evaluator

Call = Callable[["Evaluator", list[Any], dict[str, Any], ast.AST], Any]

_STR_METHODS = {
    "lower",
    "upper",
    "strip",
    "lstrip",
    "rstrip",
    "title",
    "capitalize",
    "casefold",
    "swapcase",
    "replace",
    "split",
    "rsplit",
    "splitlines",
    "partition",
    "rpartition",
    "startswith",
    "endswith",
    "find",
    "rfind",
    "index",
    "rindex",
    "count",
    "join",
    "isalpha",
    "isdigit",
    "isalnum",
    "isupper",
    "islower",
    "isspace",
    "istitle",
    "isnumeric",
    "isidentifier",
    "isdecimal",
    "isascii",
    "zfill",
    "center",
    "ljust",
    "rjust",
    "removeprefix",
    "removesuffix",
    "translate",
    "expandtabs",
    "encode",
    "format",
    "format_map",
    "maketrans",
    "__contains__",
    "__len__",
    "__eq__",
}
_LIST_MUTATORS = {"append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse"}
_LIST_METHODS = _LIST_MUTATORS | {"index", "count", "copy", "__contains__", "__len__"}
_DEQUE_MUTATORS = _LIST_MUTATORS | {"appendleft", "popleft", "extendleft", "rotate"}
_DICT_MUTATORS = {"update", "setdefault", "pop", "popitem", "clear", "subtract", "move_to_end"}
_DICT_METHODS = _DICT_MUTATORS | {
    "get",
    "keys",
    "values",
    "items",
    "copy",
    "most_common",
    "elements",
    "fromkeys",
    "total",
    "__contains__",
}
_SET_MUTATORS = {
    "add",
    "discard",
    "remove",
    "pop",
    "clear",
    "update",
    "difference_update",
    "intersection_update",
    "symmetric_difference_update",
}
_SET_METHODS = _SET_MUTATORS | {
    "union",
    "intersection",
    "difference",
    "symmetric_difference",
    "issubset",
    "issuperset",
    "isdisjoint",
    "copy",
    "__contains__",
}
_LOCAL_MODELS = (
    "tensorflow",
    "keras",
    "torch",
    "sklearn",
    "dlib",
    "face_recognition",
    "ultralytics",
    "imageai",
    "transformers",
    "onnxruntime",
    "joblib",
    "pickle",
    "fastai",
    "mediapipe",
    "cv2.CascadeClassifier",
    "cv2.dnn",
    "cv2.face",
    "YOLO",
    "deepface",
    "nltk",
    "spacy",
    "textblob",
    "vaderSentiment",
    "tflite_runtime",
    "caffe",
    "darknet",
    "mxnet",
    "clarifai",
    "openai",
    "easyocr",
    "pytesseract",
    "clip",
)
_LOCAL_MODEL = re.compile(r"(?<![\w.'/])(?:" + "|".join(map(re.escape, _LOCAL_MODELS)) + r")")
_MODEL_METHODS = re.compile(r"\.(predict\w*|classify\w*|infer\w*|detectMultiScale|forward|polarity_scores)\(")


def is_local_model(origin: str) -> bool:
    """True if an opaque value comes out of another model than the API's."""
    return _MODEL_METHODS.search(origin + "(") is not None or _LOCAL_MODEL.search(origin) is not None


# --- results with taint ---------------------------------------------------------------------------------------------


def wrap(result: Any, tainted: bool, opaque: bool = False) -> Any:
    """Mark a result computed from tainted arguments."""
    if not tainted:
        return result
    if isinstance(result, (TaintedStr, bool)) or result is None:
        return result
    if isinstance(result, str):
        return TaintedStr(result, TEXT_MARK, opaque)
    if isinstance(result, float):
        return TaintedFloat(result)
    if isinstance(result, int):
        return TaintedInt(result)
    if isinstance(result, list):
        return [wrap(r, True, opaque) for r in result]
    if isinstance(result, tuple):
        return tuple(wrap(r, True, opaque) for r in result)
    return result


def _opaque_result(name: str, args: list[Any]) -> Opaque:
    shown = ", ".join(a.origin if isinstance(a, Opaque) else "..." for a in args[:3])
    return Opaque(f"{name}({shown})", any(is_tainted(a) for a in args))


def pure(name: str, function: Callable[..., Any]) -> NativeFunction:
    """A library function that may be computed on known values."""

    def call(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
        values = [*args, *kwargs.values()]
        if any(has_opaque(v) for v in values):
            return _opaque_result(name, values)
        if any(isinstance(v, (Record, Instance, FunctionValue, ClassValue)) for v in values):
            return _opaque_result(name, values)
        return wrap(function(*args, **kwargs), any(is_tainted(v) for v in values))

    return NativeFunction(name, call)


def native(name: str) -> Callable[[Call], NativeFunction]:
    """Decorator: a builtin that the evaluator provides."""
    return lambda call: NativeFunction(name, call)


def _callback(ev: "Evaluator", function: Any, node: ast.AST) -> Callable[..., Any]:
    return lambda *args: ev.call(function, list(args), {}, node)


# --- builtins -------------------------------------------------------------------------------------------------------


@native("print")
def _print(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> None:
    shown = [_as_text(ev, a, node) if isinstance(a, Instance) else a for a in args]
    ev.effect("print", "print", shown, {}, node)


def _as_text(ev: "Evaluator", value: Any, node: ast.AST) -> Any:
    if isinstance(value, Opaque):
        return value
    if isinstance(value, Instance):
        for name in ("__str__", "__repr__"):
            method = value.cls.lookup(name)
            if isinstance(method, FunctionValue):
                return ev.call(BoundMethod(method, value), [], {}, node)
    if isinstance(value, TaintedStr):
        return value
    value = _whole(ev, value, node)
    text = text_of(value)
    if is_tainted(value) or has_opaque(value):
        return TaintedStr(
            text, pattern_of(value), has_opaque(value), payload=value if isinstance(value, (dict, list)) else None
        )
    return text


@native("str")
def _str(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    return _as_text(ev, args[0], node) if args else ""


@native("repr")
def _repr(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    if isinstance(args[0], str) and not isinstance(args[0], TaintedStr):
        return repr_of(args[0])
    return _as_text(ev, args[0], node)


@native("len")
def _len(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    value = args[0]
    if isinstance(value, Opaque):
        return Opaque(f"len({value.origin})", value.tainted, True, None, value.is_parameter)
    if isinstance(value, Instance):
        method = value.cls.lookup("__len__")
        return ev.call(BoundMethod(method, value), [], {}, node) if isinstance(method, FunctionValue) else Opaque("len")
    if isinstance(value, NativeMethod) or not hasattr(value, "__len__"):
        raise TypeError(f"object of type '{type(value).__name__}' has no len()")
    if isinstance(value, ApiList):
        ev.run.label_reads += 1
        ev.run.instance_reads += isinstance(value, InstanceList)
    if isinstance(value, str) and not isinstance(value, TaintedStr):
        return len(value)
    if isinstance(value, ApiList) or is_tainted(value):
        made = TaintedInt(len(value))
        made.is_count = not isinstance(value, str)
        return made
    return len(value)


@native("sorted")
def _sorted(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    value = args[0]
    if isinstance(value, Opaque):
        return value
    items = list(ev.iterate(value, node))
    made: list[Any] = ApiList(items) if isinstance(value, ApiList) else list(items)
    return _sort(ev, made, kwargs, node)


def _sort(ev: "Evaluator", items: list[Any], kwargs: dict[str, Any], node: ast.AST) -> list[Any]:
    key = kwargs.get("key")
    reverse = kwargs.get("reverse", False)
    keys = [ev.call(key, [i], {}, node) for i in items] if key is not None else items
    if any(has_opaque(k) for k in keys):
        return items
    order = sorted(
        range(len(items)), key=lambda i: keys[i], reverse=bool(reverse) if not isinstance(reverse, Opaque) else False
    )
    made = [items[i] for i in order]
    items[:] = made
    return items


def _in_place(name: str, change: Callable[..., Any]) -> NativeFunction:
    """A function of a library that changes the list that it is given."""

    def call(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
        if kwargs or type(args[0]) is not list or any(map(has_opaque, args)):
            if isinstance(args[0], list):
                raise ev.refuse(f"{name} of values that are not in the source", node)
            return Opaque(f"{name}()", any(map(is_tainted, args)))
        ev.touch(args[0])
        return change(*args)

    return NativeFunction(name, call)


def _of_heap(name: str, *, is_largest: bool) -> NativeFunction:
    """heapq.nlargest and nsmallest."""

    def call(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
        if isinstance(args[0], Opaque) or isinstance(args[1], Opaque):
            return Opaque(f"heapq.{name}()", any(map(is_tainted, args)))
        key = kwargs.get("key", args[2] if len(args) > 2 else None)
        made = _sorted.call(ev, [args[1]], {"key": key, "reverse": is_largest}, node)
        return ev.subscript(made, slice(None, int(args[0])), node)

    return NativeFunction(name, call)


def _extreme(name: str, pick: Callable[..., Any]) -> NativeFunction:
    def call(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
        if len(args) == 1:
            if isinstance(args[0], Opaque):
                return _opaque_result(name, args)
            items = list(ev.iterate(args[0], node))
        else:
            items = list(args)
        if not items:
            if "default" in kwargs:
                return kwargs["default"]
            raise ValueError(f"{name}() arg is an empty sequence")
        key = kwargs.get("key")
        keys = [ev.call(key, [i], {}, node) for i in items] if key is not None else items
        if any(has_opaque(k) for k in keys):
            return _opaque_result(name, items)
        return items[pick(range(len(items)), key=lambda i: keys[i])]

    return NativeFunction(name, call)


@native("sum")
def _sum(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    if isinstance(args[0], Opaque):
        return _opaque_result("sum", args)
    total = args[1] if len(args) > 1 else kwargs.get("start", 0)
    for item in ev.iterate(args[0], node):
        total = ev.binary(ast.Add(), total, item, node)
    return total


@native("any")
def _any(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    if isinstance(args[0], Opaque):
        return _opaque_result("any", args)
    return any(ev.truth(item, node) for item in ev.iterate(args[0], node))


@native("all")
def _all(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    if isinstance(args[0], Opaque):
        return _opaque_result("all", args)
    return all(ev.truth(item, node) for item in ev.iterate(args[0], node))


@native("map")
def _map(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    columns = [list(ev.iterate(a, node)) for a in args[1:]]
    return [ev.call(args[0], list(row), {}, node) for row in zip(*columns, strict=False)]


@native("filter")
def _filter(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    items = ev.iterate(args[1], node)
    if args[0] is None:
        return [i for i in items if ev.truth(i, node)]
    return [i for i in items if ev.truth(ev.call(args[0], [i], {}, node), node)]


@native("next")
def _next(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    if isinstance(args[0], Opaque):
        return args[0].derive(".next")
    if isinstance(args[0], list):  # a generator expression, evaluated at once
        if args[0]:
            return args[0][0]
        if len(args) > 1:
            return args[1]
        raise StopIteration
    return next(args[0], *args[1:])


@native("iter")
def _iter(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    return args[0] if isinstance(args[0], Opaque) else list(ev.iterate(args[0], node))


@native("list")
def _list(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    if not args:
        return []
    if isinstance(args[0], Opaque):
        return args[0]
    return ApiList(args[0]) if isinstance(args[0], ApiList) else list(ev.iterate(args[0], node))


@native("tuple")
def _tuple(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    return () if not args else args[0] if isinstance(args[0], Opaque) else tuple(ev.iterate(args[0], node))


@native("set")
def _set(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    if not args:
        return set()
    return args[0] if isinstance(args[0], Opaque) else set(ev.iterate(args[0], node))


@native("frozenset")
def _frozenset(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    return frozenset() if not args else args[0] if isinstance(args[0], Opaque) else frozenset(ev.iterate(args[0], node))


@native("dict")
def _dict(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    if args and isinstance(args[0], Opaque):
        return args[0]
    if args and isinstance(args[0], dict):
        made = dict(args[0])
    elif args:
        made = {}
        for pair in ev.iterate(args[0], node):
            if isinstance(pair, Opaque):
                continue
            key, value = pair
            made[key] = value
    else:
        made = {}
    made.update(kwargs)
    return made


@native("enumerate")
def _enumerate(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    start = kwargs.get("start", args[1] if len(args) > 1 else 0)
    return [(i, v) for i, v in enumerate(ev.iterate(args[0], node), start if isinstance(start, int) else 0)]


@native("zip")
def _zip(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    if any(isinstance(a, Opaque) for a in args):
        known = [len(list(ev.iterate(a, node))) for a in args if not isinstance(a, Opaque)]
        size = min(known) if known else 1
        columns = [[a.derive("[i]")] * size if isinstance(a, Opaque) else list(ev.iterate(a, node)) for a in args]
        return list(zip(*columns, strict=False))
    return list(zip(*(list(ev.iterate(a, node)) for a in args), strict=False))


@native("range")
def _range(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    if any(isinstance(a, Opaque) for a in args):
        return next(a for a in args if isinstance(a, Opaque)).derive(" as range")
    return range(*(int(a) if isinstance(a, int) else a for a in args))


@native("reversed")
def _reversed(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    if isinstance(args[0], Opaque):
        return args[0]
    items = list(ev.iterate(args[0], node))[::-1]
    return ApiList(items) if isinstance(args[0], ApiList) else items


@native("isinstance")
def _isinstance(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    if isinstance(args[0], Opaque):
        return Opaque(f"isinstance({args[0].origin})", args[0].tainted)
    return is_instance(args[0], args[1])


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float,),
    "bool": (bool,),
    "list": (list,),
    "dict": (dict,),
    "tuple": (tuple,),
    "set": (set,),
    "frozenset": (frozenset,),
    "bytes": (bytes,),
    "Exception": (ExceptionValue,),
}


def is_instance(value: Any, kinds: Any) -> bool:
    """isinstance() on values of the evaluator."""
    for kind in kinds if isinstance(kinds, tuple) else (kinds,):
        if isinstance(kind, NativeFunction) and isinstance(value, _TYPES.get(kind.name, ())):
            return True
        if isinstance(kind, ClassValue) and (
            (isinstance(value, Instance) and kind.name in value.cls.base_names())
            or (isinstance(value, ExceptionValue) and kind.name in value.names)
            or (isinstance(value, EnumMember) and value.owner == kind.name)
        ):
            return True
        if isinstance(kind, type) and isinstance(value, ExceptionValue) and kind.__name__ in value.names:
            return True
    return False


@native("getattr")
def _getattr(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    if isinstance(args[1], Opaque):
        return Opaque(f"getattr({args[1].origin})", is_tainted(args[0]))
    try:
        return ev.attribute(args[0], str(args[1]), node)
    except AttributeError:
        if len(args) > 2:
            return args[2]
        raise


@native("hasattr")
def _hasattr(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    if isinstance(args[0], Opaque) or isinstance(args[1], Opaque):
        return Opaque("hasattr()")
    try:
        ev.attribute(args[0], str(args[1]), node)
    except AttributeError:
        return False
    return True


@native("setattr")
def _setattr(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> None:
    if not isinstance(args[1], Opaque):
        ev.store_attribute(args[0], str(args[1]), args[2], node)


@native("callable")
def _callable(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    if isinstance(args[0], Opaque):
        return Opaque("callable()")
    return isinstance(args[0], (FunctionValue, BoundMethod, NativeFunction, NativeMethod, ClassValue))


@native("type")
def _type(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    value = args[0]
    if isinstance(value, Instance):
        return value.cls
    for name, kinds in _TYPES.items():
        if isinstance(value, kinds):
            return builtin_values()[name] if name != "Exception" else Opaque("type(exception)")
    return Opaque("type()")


@native("input")
def _input(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    return Opaque("input()", is_parameter=True)


def _number(name: str, kind: type) -> NativeFunction:
    def call(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
        if not args:
            return kind()
        if has_opaque(args[0]):
            return Opaque(
                f"{name}({text_of(args[0])[1:-1]})",
                is_tainted(args[0]),
                True,
                None,
                getattr(args[0], "is_parameter", False),
            )
        value = args[0].value if isinstance(args[0], EnumMember) else args[0]
        result = kind(value, *args[1:])
        if is_tainted(value):
            if kind is float:
                return TaintedFloat(result)
            made = TaintedInt(result)
            made.is_count = getattr(value, "is_count", False)
            return made
        return result

    return NativeFunction(name, call)


@native("bool")
def _bool(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    if args and isinstance(args[0], Opaque):
        return args[0]
    return ev.truth(args[0], node) if args else False


@native("open")
def _open(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    given = args[0] if args else kwargs.get("file")
    mode = args[1] if len(args) > 1 else kwargs.get("mode", "r")
    if isinstance(given, PathValue):
        given = given.text
    if not isinstance(given, str) or not isinstance(mode, str) or getattr(given, "is_opaque", False):
        return Opaque(f"open({text_of(given)[1:-1] if isinstance(given, Opaque) else 'a file'})")
    if any(c in mode for c in "wax+"):
        return Opaque(f"open({str(given)!r}, {mode!r})")
    return _open_data(ev, str(given), node)


def _open_data(ev: "Evaluator", given: str, node: ast.AST) -> Any:
    path = ev.app.data_path(given, getattr(node, "_path", ""))
    if path is None:
        return Opaque(f"open({given!r})")
    return TextFile(ev.app.data[path])


_PURE_BUILTINS = ("abs", "round", "divmod", "ord", "chr", "hex", "bin", "oct", "hash", "format", "ascii")


def builtin_values() -> dict[str, Any]:
    """Names that every module sees."""
    if _BUILTINS:
        return _BUILTINS
    for value in globals().copy().values():
        if isinstance(value, NativeFunction):
            _BUILTINS[value.name] = value
    for name in _PURE_BUILTINS:
        _BUILTINS[name] = pure(name, getattr(builtins, name))
    _BUILTINS["max"] = _extreme("max", max)
    _BUILTINS["min"] = _extreme("min", min)
    _BUILTINS["int"] = _number("int", int)
    _BUILTINS["float"] = _number("float", float)
    for name in (
        "bytes",
        "bytearray",
        "object",
        "memoryview",
        "vars",
        "dir",
        "id",
        "slice",
        "exit",
        "quit",
        "unicode",
        "basestring",
        "raw_input",
        "xrange",
        "property",
        "staticmethod",
        "classmethod",
        "super",
        "globals",
        "locals",
        "eval",
        "exec",
        "compile",
        "__import__",
        "delattr",
        "issubclass",
        "complex",
        "aiter",
        "anext",
        "breakpoint",
        "help",
        "get_ipython",
        "display",
        "reload",
    ):
        _BUILTINS.setdefault(name, Opaque(name))
    _BUILTINS["exit"] = _BUILTINS["quit"] = NativeFunction("exit", _exit)
    # Names of Python 2 and of notebooks: files that parse as Python 3 still use them.
    for old, new in (("unicode", "str"), ("basestring", "str"), ("xrange", "range"), ("raw_input", "input"),
                     ("unichr", "chr"), ("long", "int")):  # fmt: skip
        _BUILTINS[old] = _BUILTINS[new]
    exceptions = {n: v for n, v in vars(builtins).items() if isinstance(v, type) and issubclass(v, BaseException)}
    _BUILTINS.update(exceptions)
    _BUILTINS["NotImplemented"] = _BUILTINS["Ellipsis"] = Opaque("NotImplemented")
    _BUILTINS["__debug__"] = True
    return _BUILTINS


_BUILTINS: dict[str, Any] = {}


def _exit(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    from chameleonapi.parser.evaluator import AppRaise

    raise AppRaise(ExceptionValue(("SystemExit", "BaseException"), tuple(args)))


def type_member(kind: str, name: str) -> Any:
    """`str.lower`, `dict.fromkeys`: an attribute of a builtin type."""
    if kind == "str" and name in _STR_METHODS:
        if name == "maketrans":
            return pure("str.maketrans", str.maketrans)
        return NativeFunction(
            name,
            lambda ev, a, k, n: (
                plain_method(ev, a[0], name, a[1:], k, n) if not isinstance(a[0], Opaque) else a[0].derive(f".{name}()")
            ),
        )
    if kind == "dict" and name == "fromkeys":
        return NativeFunction(
            "fromkeys", lambda ev, a, k, n: dict.fromkeys(ev.iterate(a[0], n), a[1] if len(a) > 1 else None)
        )
    if kind == "dict" and name == "get":
        return NativeFunction("get", lambda ev, a, k, n: ev.call_method(a[0], "get", a[1:], k, n))
    if kind == "chain" and name == "from_iterable":
        return NativeFunction(
            "from_iterable", lambda ev, a, k, n: [x for part in ev.iterate(a[0], n) for x in ev.iterate(part, n)]
        )
    if name == "__name__":
        return kind
    return None


# --- methods of plain values ----------------------------------------------------------------------------------------


def plain_method(
    ev: "Evaluator", receiver: Any, name: str, args: list[Any], kwargs: dict[str, Any], node: ast.AST
) -> Any:
    """A method of a str, list, dict, set, tuple, number or bytes value."""
    if isinstance(receiver, str):
        return str_method(ev, receiver, name, args, kwargs, node)
    if isinstance(receiver, dict):
        return _dict_method(ev, receiver, name, args, kwargs, node)
    if isinstance(receiver, deque):
        if name in _DEQUE_MUTATORS:
            ev.touch(receiver)
        return getattr(receiver, name)(*args, **kwargs)
    if isinstance(receiver, list):
        if name in ("execute", "result"):
            return receiver
        if name not in _LIST_METHODS:
            return _missing(ev, receiver, name, node)
        if name in _LIST_MUTATORS:
            ev.touch(receiver)
        if name == "sort":
            _sort(ev, receiver, kwargs, node)
            return None
        if name == "extend":
            ev.extend(receiver, args[0], node)
            return None
        if name in ("index", "count", "remove") and any(isinstance(e, Opaque) for e in receiver):
            return Opaque(f"list.{name}()", is_tainted(receiver) or is_tainted(args))
        if name in ("index", "count") and args and (isinstance(args[0], TaintedStr) or is_tainted(receiver)):
            ev.run.text_tests += 1
            result = getattr(receiver, name)(*args)
            return result
        if name == "copy":
            return ApiList(receiver) if isinstance(receiver, ApiList) else receiver.copy()
        if name == "pop" and args and isinstance(args[0], Opaque):
            return Opaque("list.pop()", is_tainted(receiver))
        return getattr(receiver, name)(*args, **kwargs)
    if isinstance(receiver, (set, frozenset)):
        if name not in _SET_METHODS:
            return _missing(ev, receiver, name, node)
        if name in _SET_MUTATORS and isinstance(receiver, set):
            ev.touch(receiver)
        if name == "pop" and receiver and isinstance(receiver, set):
            first = next(iter(ev.iterate(receiver, node)))
            receiver.discard(first)
            return first
        if any(isinstance(a, Opaque) for a in args) and name != "add":
            other = next(a for a in args if isinstance(a, Opaque))
            return Opaque(f"set.{name}({other.origin})", is_tainted(receiver) or other.tainted)
        if name not in ("add", "discard", "remove", "pop", "clear", "copy"):
            if is_tainted(receiver) or any(is_tainted(a) for a in args):
                ev.run.text_tests += 1
            args = [a if isinstance(a, (set, frozenset)) else list(ev.iterate(a, node)) for a in args]
            if (
                name in ("intersection", "difference", "symmetric_difference", "issubset", "issuperset", "isdisjoint")
                and args
            ):
                ev.note_label_sets(receiver, args[0])
            if name == "intersection" and args and is_tainted(args[0]) and not is_tainted(receiver):
                # Python keeps the element of either operand; keep the API's, so that its taint survives.
                return {e for e in args[0] if e in receiver and all(e in other for other in args[1:])}
        return getattr(receiver, name)(*args, **kwargs)
    if isinstance(receiver, tuple):
        if name in ("index", "count"):
            return getattr(receiver, name)(*args)
        if name == "_asdict" and hasattr(receiver, "_fields"):
            return dict(zip(receiver._fields, receiver, strict=True))
        return _missing(ev, receiver, name, node)
    if isinstance(receiver, bytes):
        if name == "decode":
            return receiver.decode(*[a for a in args if isinstance(a, str)][:1])
        return Opaque(f"bytes.{name}()")
    if isinstance(receiver, (int, float)) and name in ("is_integer", "bit_length", "__round__", "conjugate", "item"):
        return receiver if name == "item" else getattr(receiver, name)(*args)
    if receiver is None:
        raise AttributeError(f"'NoneType' object has no attribute {name!r}")
    return _missing(ev, receiver, name, node)


def _missing(ev: "Evaluator", receiver: Any, name: str, node: ast.AST) -> Any:
    raise AttributeError(f"'{type(receiver).__name__}' object has no attribute {name!r}")


def _dict_method(
    ev: "Evaluator", receiver: dict[Any, Any], name: str, args: list[Any], kwargs: dict[str, Any], node: ast.AST
) -> Any:
    if isinstance(receiver, ApiDict) and receiver.site is not None and name in ("items", "values"):
        for key in list(receiver):
            ev.api_dict_field(receiver, key, node, None)
    name = {"iteritems": "items", "itervalues": "values", "iterkeys": "keys", "has_key": "__contains__"}.get(name, name)
    if name not in _DICT_METHODS:
        if name == "json":
            return receiver
        return _missing(ev, receiver, name, node)
    if name in _DICT_MUTATORS:
        ev.touch(receiver)
    if args and isinstance(args[0], Opaque):
        if name == "update":
            return None
        if name in ("get", "pop", "setdefault"):
            return Opaque(
                f"dict[{args[0].origin}]", args[0].tainted or is_tainted(receiver), True, None, args[0].is_parameter
            )
    if name in ("keys", "values", "items"):
        return list(getattr(receiver, name)())
    if name == "get" and args:
        key = args[0]
        if isinstance(key, TaintedStr):
            ev.run.text_tests += 1
            if key.is_opaque:
                return Opaque("dict[...]", is_tainted(key))
            if ev.run.explain:
                ev._note_outcome(node, key in receiver)
        return receiver.get(key, args[1] if len(args) > 1 else kwargs.get("default"))
    if name == "update":
        if args and not isinstance(args[0], dict):
            if isinstance(receiver, Counter):
                receiver.update(list(ev.iterate(args[0], node)))
                return None
            receiver.update(_dict.call(ev, args, {}, node))
            args = []
        if isinstance(receiver, Counter) and args:
            receiver.update(args[0])
            return None
        for other in args:
            receiver.update(other)
        receiver.update(kwargs)
        return None
    if name == "copy":
        return receiver.copy()
    return getattr(receiver, name)(*args, **kwargs)


def str_method(ev: "Evaluator", text: str, name: str, args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    """A method of a string, with taint."""
    tainted_receiver = isinstance(text, TaintedStr)
    if name == "format":
        return format_template(ev, text, args, kwargs)
    if name == "join":
        return _join(ev, text, args, node)
    if name in ("decode", "encode"):
        return text
    if name == "json" and tainted_receiver and text.payload is not None:  # type: ignore[attr-defined]
        return text.payload  # type: ignore[attr-defined]
    if name not in _STR_METHODS:
        return _missing(ev, text, name, node)
    if any(isinstance(a, Opaque) for a in args):
        other = next(a for a in args if isinstance(a, Opaque))
        return Opaque(f"str.{name}({other.origin})", is_tainted(text) or other.tainted)
    if name in ("startswith", "endswith", "find", "rfind", "index", "count", "__contains__", "__eq__") and (
        tainted_receiver or any(isinstance(a, TaintedStr) for a in args)
    ):
        ev.run.text_tests += 1
    args = [tuple(a) if isinstance(a, list) and name in ("startswith", "endswith") else a for a in args]
    for arg in args:
        if isinstance(arg, int):
            ev.check_size(arg, node)  # a width
        elif name == "replace" and isinstance(arg, str):
            ev.check_size(len(text) * len(arg), node)
    result = getattr(str, name)(text, *args, **kwargs)
    tainted = tainted_receiver or any(isinstance(a, TaintedStr) for a in args)
    if ev.run.explain and isinstance(result, bool) and tainted:
        ev._note_outcome(node, result)
    if not tainted or isinstance(result, bool):
        return result
    opaque = getattr(text, "is_opaque", False) or any(getattr(a, "is_opaque", False) for a in args)
    if opaque and name in ("find", "index", "count"):
        return Opaque(f"str.{name}()", is_tainted(text))
    if isinstance(result, int):
        return result  # a position or a count inside the text: plain, it is compared, not shown
    whole = pattern_of(text)
    fully = whole == TEXT_MARK
    if isinstance(result, str):
        if fully and name != "replace":
            pattern = TEXT_MARK
        else:
            try:
                pattern = getattr(str, name)(whole, *map(pattern_of_argument, args), **kwargs)
            except (TypeError, ValueError):
                pattern = TEXT_MARK
        if (
            isinstance(text, TaintedStr)
            and text.is_api_text
            and TEXT_MARK not in pattern
            and NUMBER_MARK not in pattern
        ):
            pattern = TEXT_MARK
        return TaintedStr(result, pattern, opaque)
    if isinstance(result, (list, tuple)):
        pieces = getattr(str, name)(whole, *map(pattern_of_argument, args), **kwargs) if not fully else []
        if len(pieces) != len(result):
            pieces = [TEXT_MARK if is_tainted(text) else p for p in result]
        made = [
            TaintedStr(r, p, opaque) if TEXT_MARK in p or NUMBER_MARK in p or opaque else r
            for r, p in zip(result, pieces, strict=True)
        ]
        return made if isinstance(result, list) else tuple(made)
    return result


def pattern_of_argument(value: Any) -> Any:
    """Pattern of a string argument; other arguments as they are."""
    return pattern_of(value) if isinstance(value, str) else value


def _join(ev: "Evaluator", glue: str, args: list[Any], node: ast.AST) -> Any:
    if isinstance(args[0], Opaque):
        return Opaque(f"join({args[0].origin})", args[0].tainted)
    parts = list(ev.iterate(args[0], node))
    for part in parts:
        if not isinstance(part, (str, Opaque)):
            raise TypeError("sequence item: expected str instance")
    ev.check_size(sum(len(text_of(p)) + len(glue) for p in parts), node)
    text = str.join(glue, map(text_of, parts))
    if any(isinstance(p, (TaintedStr, Opaque)) for p in parts) or isinstance(glue, TaintedStr):
        return TaintedStr(text, pattern_of(glue).join(map(pattern_of, parts)), any(map(has_opaque, parts)))
    return text


class _Formatter(string.Formatter):
    """str.format on values of the evaluator."""

    def __init__(self, ev: "Evaluator") -> None:
        self.ev = ev
        self.tainted = False
        self.opaque = False
        self.as_pattern = False

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        first, rest = string._string.formatter_field_name_split(field_name)  # type: ignore[attr-defined]
        value = self.get_value(first, args, kwargs)
        for is_attribute, key in rest:
            value = (
                self.ev.attribute(value, key, ast.Pass()) if is_attribute else self.ev.subscript(value, key, ast.Pass())
            )
        return value, first

    def convert_field(self, value: Any, conversion: Any) -> Any:
        return value

    def format_field(self, value: Any, format_spec: str) -> str:
        text, pattern, tainted, opaque = self.ev.formatted(value, format_spec)
        self.tainted |= tainted
        self.opaque |= opaque
        return pattern if self.as_pattern else text


def _check_template(ev: "Evaluator", template: str) -> None:
    if re.search(r"\d{6}", template) and re.search(r"[%{:][^a-zA-Z]*\d{6}", template):
        raise ev.refuse("a format with a very large width", ast.Pass())


def format_template(ev: "Evaluator", template: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """template.format(*args, **kwargs) with taint."""
    _check_template(ev, template)
    formatter = _Formatter(ev)
    text = formatter.vformat(text_of(template), args, kwargs)
    if not formatter.tainted and not formatter.opaque and not isinstance(template, TaintedStr):
        return text
    formatter.as_pattern = True
    return TaintedStr(text, formatter.vformat(pattern_of(template), args, kwargs), formatter.opaque)


_PERCENT = re.compile(r"%(?:\((?P<key>[^)]*)\))?[#0\- +]*(?:\d+|\*)?(?:\.\d+)?[hlL]?(?P<kind>[sdifrgeEGxXuca%])")


def percent(ev: "Evaluator", template: str, right: Any) -> Any:
    """template % right with taint."""
    _check_template(ev, template)
    values = list(right) if isinstance(right, tuple) else [right]
    if isinstance(right, dict) and "%(" in template:
        values = []
    position = 0
    tainted = opaque = False

    def render(as_pattern: bool) -> str:
        nonlocal position, tainted, opaque
        position = 0

        def one(match: re.Match[str]) -> str:
            nonlocal position, tainted, opaque
            if match["kind"] == "%":
                return "%"
            if match["key"] is not None:
                value = right[match["key"]]
            else:
                if position >= len(values):
                    raise TypeError("not enough arguments for format string")
                value = values[position]
                position += 1
            text, pattern, is_api, is_opaque = ev.formatted(value, "")
            tainted |= is_api
            opaque |= is_opaque
            if not is_api and not is_opaque and isinstance(value, (int, float)):
                return match[0].replace(f"({match['key']})", "") % value
            return pattern if as_pattern else text

        return _PERCENT.sub(one, text_of(template))

    text = render(False)
    if position < len(values) and not isinstance(right, dict):
        raise TypeError("not all arguments converted during string formatting")
    if tainted or opaque or isinstance(template, TaintedStr):
        return TaintedStr(text, render(True), opaque)
    return text


# --- special values -------------------------------------------------------------------------------------------------


_NESTED_REPETITION = re.compile(r"\([^()]*[+*][^()]*\)[+*{]")


class TextFile:
    """A data file of the application, opened for reading."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.is_read = False


class PathValue:
    """A pathlib path."""

    def __init__(self, text: str) -> None:
        self.text = text


class HttpAnswer:
    """The response object of an HTTP request to an ML API."""

    def __init__(self, body: Any) -> None:
        self.body = body


class RegexValue:
    """A compiled regular expression, or re itself with the pattern given in the call."""

    def __init__(self, pattern: "re.Pattern[str]") -> None:
        self.pattern = pattern


class MatchValue:
    """A match of a regular expression on tainted or plain text."""

    def __init__(self, match: "re.Match[str]", tainted: bool) -> None:
        self.match = match
        self.tainted = tainted


class ArgumentParser:
    """argparse: what parse_args() gives when no option is passed on the command line."""

    def __init__(self) -> None:
        self.defaults: dict[str, Any] = {}


class ConfigValues:
    """configparser: sections of an .ini file of the application."""

    def __init__(self, sections: dict[str, dict[str, str]]) -> None:
        self.sections = sections


class Partial:
    """functools.partial."""

    def __init__(self, function: Any, args: list[Any], kwargs: dict[str, Any]) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs


class Future:
    """Result of a function handed to an executor."""

    def __init__(self, value: Any) -> None:
        self.value = value


def special_attribute(ev: "Evaluator", value: Any, name: str) -> Any:
    """Attributes of the special values above."""
    if isinstance(value, PathValue):
        if name in ("parent", "parents"):
            parent = PathValue(posixpath.dirname(value.text))
            return (
                parent
                if name == "parent"
                else [
                    parent,
                    PathValue(posixpath.dirname(parent.text)),
                    PathValue(posixpath.dirname(posixpath.dirname(parent.text))),
                ]
            )
        if name in ("name", "stem", "suffix"):
            base = posixpath.basename(value.text)
            stem, suffix = posixpath.splitext(base)
            return {"name": base, "stem": stem, "suffix": suffix}[name]
    if isinstance(value, HttpAnswer):
        if name in ("text", "content"):
            return TaintedStr(text_of(value.body), TEXT_MARK, False, value.body)
        if name in ("status_code", "status"):
            return 200
        if name == "ok":
            return True
    if isinstance(value, TaintedStr) and name == "payload":
        return MISSING
    if isinstance(value, tuple) and hasattr(value, "_fields") and name in value._fields:
        return getattr(value, name)
    if isinstance(
        value, (HttpAnswer, TextFile, PathValue, ArgumentParser, ConfigValues, Future, RegexValue, MatchValue)
    ):
        return NativeFunction(name, lambda ev, a, k, n: special_method(ev, value, name, a, k, n))
    if isinstance(value, Namespace):
        if name in value.values:
            return value.values[name]
        return Opaque(f"args.{name}", is_parameter=True)
    return MISSING


class Namespace:
    """Result of parse_args()."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values


def special_subscript(ev: "Evaluator", container: Any, key: Any) -> Any:
    """container[key] of the special values."""
    if isinstance(container, MatchValue):
        return wrap(container.match[key], container.tainted)
    if isinstance(container, ConfigValues):
        return container.sections[key]
    if isinstance(container, HttpAnswer):
        raise TypeError("response object is not subscriptable")
    return MISSING


def special_contains(container: Any, item: Any) -> Any:
    """item in container of the special values."""
    if isinstance(container, ConfigValues):
        return item in container.sections
    if isinstance(container, Namespace):
        return item in container.values
    return MISSING


def special_binary(op: ast.operator, left: Any, right: Any) -> Any:
    """left op right of the special values."""
    if isinstance(op, ast.Div) and isinstance(left, PathValue):
        if isinstance(right, str):
            return PathValue(posixpath.join(left.text, right))
        if isinstance(right, PathValue):
            return PathValue(posixpath.join(left.text, right.text))
    if isinstance(left, (set, frozenset)) and isinstance(right, (set, frozenset)) and isinstance(op, ast.BitAnd):
        # Python keeps the element of either operand; keep the API's, so that its taint survives.
        if is_tainted(right) and not is_tainted(left):
            return {e for e in right if e in left}
        return {e for e in left if e in right}
    if isinstance(left, EnumMember) and isinstance(right, EnumMember):
        return Opaque("flags")
    return MISSING


def special_method(
    ev: "Evaluator", receiver: Any, name: str, args: list[Any], kwargs: dict[str, Any], node: ast.AST
) -> Any:
    """Methods of the special values above; MISSING if the receiver is none of them."""
    if isinstance(receiver, TextFile):
        return _file_method(receiver, name)
    if isinstance(receiver, PathValue):
        if name in ("joinpath", "with_name"):
            return PathValue(posixpath.join(receiver.text, *[a for a in args if isinstance(a, str)]))
        if name in ("resolve", "absolute", "expanduser"):
            return receiver
        if name == "open":
            return _open.call(ev, [receiver, *args], kwargs, node)
        if name in ("read_text", "read_bytes"):
            file = _open_data(ev, receiver.text, node)
            return file.text if isinstance(file, TextFile) else file.derive(".read()")
        if name in ("exists", "is_file"):
            return (
                True
                if ev.app.data_path(receiver.text, getattr(node, "_path", ""))
                else Opaque(f"Path({receiver.text!r}).{name}()", is_tainted(receiver.text))
            )
        return Opaque(f"Path.{name}()")
    if isinstance(receiver, HttpAnswer):
        if name == "json":
            return receiver.body
        if name in ("read", "decode"):
            return TaintedStr(text_of(receiver.body), TEXT_MARK, False, receiver.body)
        return None
    if isinstance(receiver, RegexValue):
        return _regex(ev, receiver.pattern, name, args, node)
    if isinstance(receiver, MatchValue):
        if name == "group":
            return wrap(receiver.match.group(*args), receiver.tainted)
        if name == "groups":
            return wrap(receiver.match.groups(), receiver.tainted)
        if name == "groupdict":
            return {k: wrap(v, receiver.tainted) for k, v in receiver.match.groupdict().items()}
        return getattr(receiver.match, name)(*args)
    if isinstance(receiver, ArgumentParser):
        return _argparse(receiver, name, args, kwargs)
    if isinstance(receiver, Namespace):
        return MISSING
    if isinstance(receiver, ConfigValues):
        if name in ("read", "read_string", "read_dict", "read_file"):
            return _config_read(ev, receiver, name, args, node)
        if name in ("get", "getint", "getfloat", "getboolean"):
            section = receiver.sections.get(args[0], {})
            if args[1].lower() not in section and "fallback" in kwargs:
                return kwargs["fallback"]
            text = receiver.sections[args[0]][args[1].lower()]
            if name == "getboolean":
                return text.lower() in ("1", "yes", "true", "on")
            return int(text) if name == "getint" else float(text) if name == "getfloat" else text
        if name == "sections":
            return list(receiver.sections)
        return Opaque(f"config.{name}()")
    if isinstance(receiver, Future):
        return receiver.value if name in ("result", "get", "join") else None
    if isinstance(receiver, NativeModule) and name not in receiver.members:
        return ev.opaque_call(Opaque(receiver.name), name, args, kwargs, node)
    return MISSING


def _config_read(ev: "Evaluator", receiver: ConfigValues, name: str, args: list[Any], node: ast.AST) -> Any:
    import configparser

    parser = configparser.ConfigParser(interpolation=None)
    given = args[0] if args else None
    if isinstance(given, list) and len(given) == 1:
        given = given[0]
    if name == "read_dict" and isinstance(given, dict) and not has_opaque(given, 4):
        parser.read_dict(given)
    elif name == "read_string" and isinstance(given, str) and not has_opaque(given):
        parser.read_string(given)
    elif name == "read_file" and isinstance(given, TextFile):
        parser.read_string(given.text)
    elif name == "read" and isinstance(given, str):
        path = ev.app.data_path(str(given), getattr(node, "_path", ""))
        if path is None:
            raise ev.refuse(f"the configuration file {str(given)!r} is not part of the application", node)
        parser.read_string(ev.app.data[path])
    else:
        return Opaque(f"config.{name}()")
    receiver.sections.update({s: dict(parser[s]) for s in parser.sections()})
    return [given] if name == "read" else None


def _file_method(file: TextFile, name: str) -> Any:
    if name == "read":
        return file.text
    lines = io.StringIO(file.text).readlines()
    if name == "readlines":
        return lines
    if name == "readline":
        return lines[0] if lines else ""
    return None


def _argparse(parser: ArgumentParser, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    if name == "add_argument":
        flags = [a for a in args if isinstance(a, str)]
        dest = kwargs.get("dest")
        if dest is None and flags:
            long = next((f for f in flags if f.startswith("--")), flags[0])
            dest = long.lstrip("-").replace("-", "_")
        action = kwargs.get("action")
        if "default" in kwargs:
            value = kwargs["default"]
        elif action in ("store_true", "store_false"):
            value = action == "store_false"
        else:
            value = Opaque(f"command line argument {dest!r}", is_parameter=True)
        if isinstance(dest, str):
            parser.defaults[dest] = value
        return None
    if name in ("add_argument_group", "add_mutually_exclusive_group"):
        return parser
    if name == "set_defaults":
        parser.defaults.update(kwargs)
        return None
    if name == "parse_args":
        return Namespace(dict(parser.defaults))
    if name == "parse_known_args":
        return (Namespace(dict(parser.defaults)), [])
    if name in ("add_subparsers", "add_parser"):
        return parser
    return None


def _regex(ev: "Evaluator", pattern: "re.Pattern[str]", name: str, args: list[Any], node: ast.AST) -> Any:
    subject = args[-1] if name in ("sub", "subn") else args[0] if args else ""
    if isinstance(subject, Opaque) or any(isinstance(a, Opaque) for a in args):
        return _opaque_result(f"re.{name}", args)
    if not isinstance(subject, str):
        raise TypeError("expected string or bytes-like object")
    tainted = isinstance(subject, TaintedStr) and subject.is_api_text
    if tainted:
        ev.run.text_tests += 1
    if getattr(subject, "is_opaque", False):
        return Opaque(f"re.{name}(...)", is_tainted(subject))
    if len(subject) > 5000:
        raise ev.refuse("a regular expression on a very long text", node)
    if _NESTED_REPETITION.search(pattern.pattern):
        raise ev.refuse("a regular expression with nested repetition, which may take forever", node)
    if name in ("search", "match", "fullmatch"):
        found = getattr(pattern, name)(subject)
        if ev.run.explain and tainted:
            ev._note_outcome(node, found is not None)
        return MatchValue(found, tainted) if found is not None else None
    if name in ("findall", "split"):
        return wrap(getattr(pattern, name)(subject), tainted)
    if name == "finditer":
        return [MatchValue(m, tainted) for m in pattern.finditer(subject)]
    if name == "sub":
        repl = args[0]
        if isinstance(repl, FunctionValue):
            inner = repl
            replaced = pattern.sub(lambda m: text_of(ev.call(inner, [MatchValue(m, tainted)], {}, node)), subject)
        else:
            replaced = pattern.sub(repl, subject)
        return TaintedStr(replaced) if tainted else replaced
    return Opaque(f"re.{name}()", tainted)


def message_method(
    ev: "Evaluator", receiver: Any, name: str, args: list[Any], kwargs: dict[str, Any], node: ast.AST
) -> Any:
    """Methods of objects of the providers' client libraries."""
    if name in ("HasField",):
        return True
    if name in ("SerializeToString", "ByteSize"):
        return Opaque(f"message.{name}()", True)
    if name in ("result", "__enter__"):
        return receiver
    if name == "get" and isinstance(receiver, Record):
        return receiver._fields.get(str(args[0]), args[1] if len(args) > 1 else None)
    return ev.call(ev.attribute(receiver, name, node), args, kwargs, node)


def as_plain(ev: "Evaluator", value: Any, camel: bool, node: ast.AST) -> Any:
    """A message of a client library as dictionaries and lists, as MessageToDict gives it."""
    from chameleonapi.parser.evaluator import Response

    if isinstance(value, Response):
        fields = {
            "google.vision": ("label_annotations", "localized_object_annotations"),
            "google.language": {
                "analyze_sentiment": ("document_sentiment", "sentences"),
                "classify_text": ("categories",),
                "moderate_text": ("moderation_categories",),
                "analyze_entities": ("entities",),
                "analyze_entity_sentiment": ("entities",),
            }.get(value.site.method, ("document_sentiment", "categories", "entities")),
        }[value.site.provider]
        out = ApiDict()
        for name in fields:
            made = as_plain(ev, ev.response_field(value, name, node), camel, node)
            if (
                made
                or name in ("categories", "entities")
                or value.site.method in ("label_detection", "object_localization")
            ):
                out[_camel(name) if camel else name] = made
        return out
    if isinstance(value, Record):
        return ApiDict({(_camel(k) if camel else k): as_plain(ev, v, camel, node) for k, v in value._fields.items()})
    if isinstance(value, ApiList):
        return ApiList(as_plain(ev, v, camel, node) for v in value)
    if isinstance(value, EnumMember):
        return value.name
    return value


def _camel(name: str) -> str:
    head, *rest = name.strip("_").split("_")
    return head + "".join(r.title() for r in rest)


# --- calls of libraries ---------------------------------------------------------------------------------------------

_LOG_METHODS = {"debug", "info", "warning", "warn", "error", "exception", "critical", "log"}


def known_call(
    ev: "Evaluator", receiver: Opaque, origin: str, last: str, args: list[Any], kwargs: dict[str, Any], node: ast.AST
) -> Any:
    """Library calls whose result is known although their module is not provided as a whole; MISSING otherwise."""
    values = [*args, *kwargs.values()]
    lowered = origin.lower()
    if last in _LOG_METHODS and ("log" in lowered):
        ev.effect("log", origin, args, kwargs, node)
        return None
    if origin in (
        "sys.stdout.write",
        "sys.stderr.write",
        "pprint.pprint",
        "pprint",
        "print_function",
        "click.echo",
        "typer.echo",
        "rich.print",
    ):
        ev.effect("print", "print", args, {}, node)
        return None
    if last == "shuffle" and "random" in origin and args and isinstance(args[0], list) and is_tainted(args[0]):
        ev.touch(args[0])
        args[0][:] = [Opaque(f"{origin}()", True) for _ in args[0]]
        return None
    if last in ("MessageToDict", "MessageToJson", "to_dict", "to_json") and values:
        from chameleonapi.parser.evaluator import Response

        source = values[0]
        if isinstance(source, (Response, Record)):
            keeps = last == "to_dict" or bool(kwargs.get("preserving_proto_field_name"))
            plain = as_plain(ev, source, not keeps, node)
            return plain if last.endswith("ict") else TaintedStr(text_of(plain), TEXT_MARK, False, plain)
    if (
        "google.cloud" in origin
        and last[:1].isupper()
        and not last.endswith("Client")
        and "Type" not in origin.rsplit(".", 2)[-2:-1]
    ):
        if last == "Type" and args:
            return args[0] if isinstance(args[0], EnumMember) else Opaque(f"{origin}()", is_tainted(args[0]))
        fields = dict(kwargs)
        if args and isinstance(args[0], dict):
            fields.update(args[0])
        return Record(last, fields)
    if last == "Type" and args and isinstance(args[0], EnumMember):
        return args[0]
    if origin.endswith("Entity.Type.Name") or (last == "Name" and args and isinstance(args[0], EnumMember)):
        return args[0].name
    if (
        origin in ("os.environ.get", "os.getenv", "environ.get", "config", "decouple.config", "env")
        and len(values) > 1
        and isinstance(values[1], (str, int, float))
    ):
        ev.note(f"setting {text_of(values[0])!r} is taken to have its default {values[1]!r}", node)
        return values[1]
    if (
        last in ("Option", "Argument", "Query", "Form", "Header", "Body")
        and origin.split(".")[0] in ("typer", "fastapi")
        and values
        and isinstance(kwargs.get("default", values[0]), (str, int, float))
    ):
        given = kwargs.get("default", values[0])
        ev.note(f"an option is taken to have its default {given!r}", node)
        return given
    if last in (
        "submit",
        "run_in_executor",
        "to_thread",
        "apply_async",
        "apply",
        "spawn",
        "run_coroutine_threadsafe",
        "starmap",
    ):
        offset = 1 if last == "run_in_executor" else 0
        if len(args) > offset and _is_followed(args[offset]):
            extra = args[offset + 1 :]
            if last in ("apply_async", "apply"):
                extra = list(args[1]) if len(args) > 1 and isinstance(args[1], (list, tuple)) else []
                kwargs = {}
            value = call_any(ev, args[offset], extra, {k: v for k, v in kwargs.items() if k != "loop"}, node)
            return value if last in ("run_in_executor", "to_thread") else Future(value)
    if last == "map" and args and _is_followed(args[0]) and receiver is not None:
        return [call_any(ev, args[0], [item], {}, node) for item in ev.iterate(args[1], node)]
    if last in ("Thread", "Process", "Timer") and isinstance(
        kwargs.get("target", args[1] if last == "Timer" and len(args) > 1 else None),
        (FunctionValue, BoundMethod, Partial),
    ):
        target = kwargs.get("target", args[1] if len(args) > 1 else None)
        given = kwargs.get("args", ())
        call_any(
            ev, target, list(given) if isinstance(given, (list, tuple)) else [given], kwargs.get("kwargs") or {}, node
        )
        return Opaque(f"{origin}()")
    if (
        last
        in (
            "run",
            "run_until_complete",
            "create_task",
            "ensure_future",
            "wait_for",
            "run_sync",
            "async_to_sync",
            "shield",
        )
        and args
        and (
            "asyncio" in origin
            or "loop" in lowered
            or "anyio" in origin
            or last in ("run_until_complete", "create_task", "ensure_future")
        )
    ):
        return (
            call_any(ev, args[0], [], {}, node)
            if isinstance(args[0], FunctionValue) and last == "run_sync"
            else args[0]
        )
    if origin in ("asyncio.gather", "asyncio.wait"):
        return list(args)
    if origin in ("concurrent.futures.as_completed", "as_completed", "futures.as_completed", "futures.wait"):
        return args[0]
    if last in ("get_close_matches",) and "difflib" in origin:
        import difflib

        return (
            MISSING
            if any(map(has_opaque, values))
            else wrap(difflib.get_close_matches(*args, **kwargs), is_tainted(args[0]))
        )
    return MISSING


def _is_followed(function: Any) -> bool:
    """True for functions of the application, and a client's methods, that are handed to an executor."""
    if isinstance(function, Opaque):
        return function.service is not None
    return isinstance(function, (FunctionValue, BoundMethod, Partial)) or (
        isinstance(function, NativeFunction) and function.name == "partial"
    )


def call_any(ev: "Evaluator", function: Any, args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    """Call a function value or a partial application."""
    if isinstance(function, Partial):
        return ev.call(function.function, [*function.args, *args], {**function.kwargs, **kwargs}, node)
    return ev.call(function, args, kwargs, node)


def _json_pattern(value: Any) -> str:
    """The JSON text of a value with marks for what came from the API, so that it compares with JSON that has none."""
    if isinstance(value, dict) and not isinstance(value, ApiDict):
        items = (f"{json.dumps(pattern_of(k), ensure_ascii=False)}: {_json_pattern(v)}" for k, v in value.items())
        return "{" + ", ".join(items) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(dict.fromkeys(map(_json_pattern, value))) + "]"
    pattern = pattern_of(value)
    if isinstance(value, str) and not is_tainted(value):
        return json.dumps(pattern, ensure_ascii=False)
    return {"True": "true", "False": "false", "None": "null"}.get(pattern, pattern)


def _whole(ev: "Evaluator", value: Any, node: ast.AST, depth: int = 4) -> Any:
    """A value with the fields of Amazon's answers in it, which are otherwise made when they are read."""
    if isinstance(value, ApiDict) and value.site is not None:
        made = ApiDict({key: ev.api_dict_field(value, key, node, MISSING) for key in value})
        return made
    if depth and isinstance(value, dict) and not isinstance(value, ApiDict):
        return {k: _whole(ev, v, node, depth - 1) for k, v in value.items()}
    if depth and type(value) in (list, tuple):
        return type(value)(_whole(ev, v, node, depth - 1) for v in value)
    return value


def _json_text(value: Any) -> str:
    """What json.dumps gives; a name in angle brackets for what is not known."""
    if isinstance(value, str):
        return json.dumps(str.__str__(value))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(text_of(k))}: {_json_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_json_text, value)) + "]"
    return json.dumps(value) if value is None or isinstance(value, bool) else text_of(value)


@native("json.dumps")
def _dumps(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    value = _whole(ev, args[0], node)
    if isinstance(value, Opaque):
        return Opaque(f"json.dumps({value.origin})", value.tainted)
    if is_tainted(value) or has_opaque(value):
        return TaintedStr(_json_text(value), _json_pattern(value), False, value)
    try:
        return json.dumps(value)
    except (TypeError, ValueError):  # something unknown far inside, the image in a request: the rest must stay readable
        return TaintedStr(_json_text(value), _json_pattern(value), False, value)


@native("json.loads")
def _loads(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    value = args[0]
    if isinstance(value, TaintedStr):
        return value.payload if value.payload is not None else Opaque("json.loads()", value.is_api_text)
    if isinstance(value, Opaque):
        return Opaque(f"json.loads({value.origin})", value.tainted, True, None, value.is_parameter)
    if isinstance(value, (dict, list)):
        raise TypeError("the JSON object must be str, bytes or bytearray")
    return json.loads(value)


def _parsed(ev: "Evaluator", text: str, kind: str) -> Any:
    """A data file's content, parsed once per application and handed out as a copy."""
    key = (kind, text)
    if key not in ev.parsed_data:
        if kind == "json":
            ev.parsed_data[key] = json.loads(text)
        elif kind == "toml":
            ev.parsed_data[key] = tomllib.loads(text)
        else:
            import yaml

            ev.parsed_data[key] = yaml.safe_load(text)
    return _copy(ev.parsed_data[key])


@native("json.load")
def _json_load(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    if isinstance(args[0], TextFile):
        return _parsed(ev, args[0].text, "json")
    if isinstance(args[0], HttpAnswer):
        return special_method(ev, args[0], "json", [], {}, node)
    return Opaque(f"json.load({text_of(args[0])[1:-1]})")


@native("yaml.safe_load")
def _yaml_load(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    if isinstance(args[0], (TextFile, str)) and not has_opaque(args[0]):
        return _parsed(ev, args[0].text if isinstance(args[0], TextFile) else args[0], "yaml")
    return Opaque("yaml.load()")


@native("tomllib.load")
def _toml_load(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    text = args[0].text if isinstance(args[0], TextFile) else args[0]
    if isinstance(text, str) and not has_opaque(text):
        return _parsed(ev, str(text), "toml")
    return Opaque("tomllib.load()")


@native("csv.reader")
def _csv_reader(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    options = {k: v for k, v in kwargs.items() if k in ("delimiter", "quotechar", "skipinitialspace")}
    if isinstance(args[0], TextFile):
        return list(csv.reader(io.StringIO(args[0].text), **options))
    if isinstance(args[0], list) and not has_opaque(args[0]):
        return list(csv.reader(args[0], **options))
    return Opaque("csv.reader()")


@native("csv.DictReader")
def _csv_dict_reader(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    if isinstance(args[0], TextFile):
        return [dict(row) for row in csv.DictReader(io.StringIO(args[0].text))]
    return Opaque("csv.DictReader()")


@native("Counter")
def _counter(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    if args and isinstance(args[0], Opaque):
        return _opaque_result("Counter", args)
    if args and isinstance(args[0], dict):
        return Counter(args[0])
    return Counter(list(ev.iterate(args[0], node)) if args else [])


class _LazyDict(defaultdict[Any, Any]):
    """collections.defaultdict whose factory is a value of the evaluator."""


@native("defaultdict")
def _defaultdict(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    factory = args[0] if args else None
    made: _LazyDict = _LazyDict((lambda: ev.call(factory, [], {}, node)) if factory is not None else None)
    if len(args) > 1:
        made.update(args[1])
    return made


@native("OrderedDict")
def _ordered(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    return OrderedDict(_dict.call(ev, args, kwargs, node))


@native("deque")
def _deque(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    limit = kwargs.get("maxlen", args[1] if len(args) > 1 else None)
    return deque(ev.iterate(args[0], node) if args else [], limit if isinstance(limit, int) else None)


@native("namedtuple")
def _namedtuple(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    fields = args[1].replace(",", " ").split() if isinstance(args[1], str) else list(args[1])
    kind = collections.namedtuple(str(args[0]), fields)  # type: ignore[misc]
    return NativeFunction(str(args[0]), lambda ev, a, k, n: kind(*a, **k))


@native("dataclass")
def _dataclass(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    if args and isinstance(args[0], ClassValue):
        args[0].is_dataclass = True
        return args[0]
    return NativeFunction("dataclass", _dataclass.call)


@native("field")
def _field(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    if "default" in kwargs:
        return kwargs["default"]
    if "default_factory" in kwargs:
        return NativeMethod(kwargs["default_factory"], "call factory")
    return MISSING


@native("partial")
def _partial(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    held = Partial(args[0], args[1:], kwargs)
    return NativeFunction("partial", lambda ev, a, k, n: call_any(ev, held, a, k, n))


@native("reduce")
def _reduce(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    items = list(ev.iterate(args[1], node))
    if len(args) > 2:
        items.insert(0, args[2])
    if not items:
        raise TypeError("reduce() of empty iterable with no initial value")
    total = items[0]
    for item in items[1:]:
        total = ev.call(args[0], [total, item], {}, node)
    return total


@native("itemgetter")
def _itemgetter(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    keys = list(args)

    def get(ev: "Evaluator", a: list[Any], k: dict[str, Any], n: ast.AST) -> Any:
        found = [ev.subscript(a[0], key, n) for key in keys]
        return found[0] if len(found) == 1 else tuple(found)

    return NativeFunction("itemgetter", get)


@native("attrgetter")
def _attrgetter(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    names = str(args[0]).split(".")

    def get(ev: "Evaluator", a: list[Any], k: dict[str, Any], n: ast.AST) -> Any:
        value = a[0]
        for name in names:
            value = ev.attribute(value, name, n)
        return value

    return NativeFunction("attrgetter", get)


def _identity(name: str) -> NativeFunction:
    return NativeFunction(name, lambda ev, a, k, n: a[0] if a else Opaque(name))


def _decorator_factory(name: str) -> NativeFunction:
    """functools.wraps(f), lru_cache(maxsize): called with anything, gives a decorator that changes nothing."""

    def call(ev: "Evaluator", a: list[Any], k: dict[str, Any], n: ast.AST) -> Any:
        if name != "wraps" and len(a) == 1 and isinstance(a[0], (FunctionValue, ClassValue)):
            return a[0]
        return _identity(name)

    return NativeFunction(name, call)


def _re_function(name: str) -> NativeFunction:
    def call(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
        given = args[0]
        flags = kwargs.get("flags", 0)
        position = {"sub": 3, "split": 3}.get(name, 2)
        if name == "compile":
            flags = args[1] if len(args) > 1 else flags
        elif len(args) > position and isinstance(args[position], int):
            flags = args[position] if name != "sub" else flags
        if isinstance(given, RegexValue):
            compiled = given.pattern
        elif isinstance(given, str) and not getattr(given, "is_opaque", False):
            if isinstance(given, TaintedStr) and name != "compile":
                ev.run.text_tests += 1
            try:
                compiled = re.compile(str(given), flags if isinstance(flags, int) else 0)
            except re.error as error:
                raise ValueError(str(error)) from None
        else:
            return _opaque_result(f"re.{name}", args)
        if name == "compile":
            return RegexValue(compiled)
        rest = args[1:3] if name == "sub" else args[1:2]
        found = _regex(ev, compiled, name, rest, node)
        if isinstance(given, TaintedStr) and isinstance(found, MatchValue):
            found.tainted = True
        return found

    return NativeFunction(f"re.{name}", call)


def _join_path(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    parts = [a.text if isinstance(a, PathValue) else a for a in args]
    if any(isinstance(p, Opaque) for p in parts):
        shown = [f"<{p.origin}>" if isinstance(p, Opaque) else p for p in parts]
        return TaintedStr(posixpath.join(*shown), posixpath.join(*map(pattern_of, shown)), True)
    tainted = any(isinstance(p, TaintedStr) for p in parts)
    return wrap(posixpath.join(*parts), tainted, any(getattr(p, "is_opaque", False) for p in parts))


def _path_exists(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    if isinstance(args[0], str) and ev.app.data_path(str(args[0]), getattr(node, "_path", "")):
        return True
    if is_tainted(args[0]):
        return Opaque("os.path.exists(the API's output)", True)  # which files there are, the source does not hold
    return Opaque("os.path.exists()")


@native("ArgumentParser")
def _argument_parser(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    return ArgumentParser()


@native("ConfigParser")
def _config_parser(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    return ConfigValues({})


@native("Path")
def _path(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    parts = [a.text if isinstance(a, PathValue) else a for a in args]
    if any(not isinstance(p, str) or getattr(p, "is_opaque", False) for p in parts):
        return _opaque_result("Path", args)
    return PathValue(posixpath.join(*parts) if parts else "")


@native("chain")
def _chain(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    return [item for part in args for item in ev.iterate(part, node)]


def _while(name: str, take: Callable[..., Any]) -> NativeFunction:
    def call(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
        return list(take(lambda item: ev.truth(ev.call(args[0], [item], {}, node), node), ev.iterate(args[1], node)))

    return NativeFunction(name, call)


def _combine(name: str) -> NativeFunction:
    def call(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
        pools = [list(ev.iterate(a, node)) if not isinstance(a, int) else a for a in args]
        return list(itertools.islice(getattr(itertools, name)(*pools, **kwargs), 10_000))

    return NativeFunction(name, call)


@native("groupby")
def _groupby(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    key = args[1] if len(args) > 1 else kwargs.get("key")
    out: list[tuple[Any, list[Any]]] = []
    for item in ev.iterate(args[0], node):
        value = item if key is None else ev.call(key, [item], {}, node)
        if out and ev._equal(out[-1][0], value):
            out[-1][1].append(item)
        else:
            out.append((value, [item]))
    return out


@native("deepcopy")
def _deepcopy(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    return _copy(args[0])


def _copy(value: Any) -> Any:
    if isinstance(value, ApiDict):
        made = ApiDict({k: _copy(v) for k, v in value.items()})
        made.site = value.site
        return made
    if isinstance(value, ApiList):
        return ApiList(map(_copy, value))
    if isinstance(value, (defaultdict, Counter, OrderedDict)):
        return value.copy()
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_copy(v) for v in value]
    if isinstance(value, set):
        return set(value)
    if isinstance(value, Instance):
        return Instance(value.cls, {k: _copy(v) for k, v in value.attributes.items()}, value.is_parameter)
    return value


@native("Decimal")
def _decimal(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    if has_opaque(args[0]):
        return _opaque_result("Decimal", args)
    number = float(args[0])
    return TaintedFloat(number) if is_tainted(args[0]) else number


@native("get_close_matches")
def _close(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    import difflib

    if any(map(has_opaque, args)):
        return _opaque_result("get_close_matches", args)
    ev.run.text_tests += 1
    return wrap(difflib.get_close_matches(args[0], args[1], *args[2:], **kwargs), is_tainted(args[1]))


_MODULES: dict[str, NativeModule] = {}


def native_module(name: str) -> NativeModule | None:
    """The provided part of a library module, or None."""
    if not _MODULES:
        for module, members in _module_members().items():
            _MODULES[module] = NativeModule(module, members)
    return _MODULES.get(name)


def _module_members() -> dict[str, dict[str, Any]]:
    maths: dict[str, Any] = {
        n: pure(f"math.{n}", getattr(math, n))
        for n in (
            "sqrt",
            "floor",
            "ceil",
            "log",
            "log10",
            "log2",
            "exp",
            "pow",
            "fabs",
            "isnan",
            "isclose",
            "trunc",
            "hypot",
            "prod",
            "fsum",
            "sin",
            "cos",
            "atan2",
            "radians",
            "degrees",
        )
    }
    maths.update(pi=math.pi, inf=math.inf, e=math.e, nan=math.nan)
    regex: dict[str, Any] = {
        n: _re_function(n) for n in ("compile", "search", "match", "fullmatch", "findall", "finditer", "split", "sub")
    }
    regex.update(
        I=int(re.I),
        IGNORECASE=int(re.I),
        M=int(re.M),
        MULTILINE=int(re.M),
        S=int(re.S),
        DOTALL=int(re.S),
        X=int(re.X),
        VERBOSE=int(re.X),
        U=0,
        UNICODE=0,
        escape=pure("re.escape", re.escape),
        error=ValueError,
    )
    paths: dict[str, Any] = {
        n: pure(f"os.path.{n}", getattr(posixpath, n)) for n in ("basename", "dirname", "splitext", "split", "normpath")
    }
    paths.update(
        join=NativeFunction("os.path.join", _join_path),
        abspath=_identity("abspath"),
        realpath=_identity("realpath"),
        expanduser=_identity("expanduser"),
        exists=NativeFunction("exists", _path_exists),
        isfile=NativeFunction("isfile", _path_exists),
        sep="/",
    )
    no_effect = NativeFunction("no effect", lambda ev, a, k, n: None)
    logs = {n: NativeFunction(n, _log) for n in _LOG_METHODS}
    logger = NativeModule("logging.Logger", {**logs, "setLevel": no_effect, "addHandler": no_effect})
    strings = {
        n: getattr(string, n)
        for n in (
            "ascii_lowercase",
            "ascii_uppercase",
            "ascii_letters",
            "digits",
            "punctuation",
            "whitespace",
            "printable",
        )
    }
    strings["capwords"] = pure("capwords", string.capwords)
    enum: dict[str, Any] = {n: Opaque(f"enum.{n}") for n in ("Enum", "IntEnum", "StrEnum", "Flag", "IntFlag")}
    enum["auto"] = NativeFunction("auto", lambda ev, a, k, n: Opaque("auto()"))
    functools: dict[str, Any] = {
        "partial": _partial,
        "reduce": _reduce,
        "wraps": _decorator_factory("wraps"),
        "lru_cache": _decorator_factory("lru_cache"),
        "cache": _decorator_factory("cache"),
        "cached_property": Opaque("cached_property"),
        "total_ordering": _identity("total_ordering"),
    }
    itools = {n: _combine(n) for n in ("product", "combinations", "permutations", "islice", "zip_longest", "repeat")}
    itools["chain"] = _chain
    itools["groupby"] = _groupby
    itools["takewhile"] = _while("takewhile", itertools.takewhile)
    itools["dropwhile"] = _while("dropwhile", itertools.dropwhile)
    itools["filterfalse"] = _while("filterfalse", itertools.filterfalse)
    json_members = {"dumps": _dumps, "loads": _loads, "load": _json_load, "JSONDecodeError": ValueError}
    yaml_members = {
        "safe_load": _yaml_load,
        "load": _yaml_load,
        "full_load": _yaml_load,
        "SafeLoader": Opaque("SafeLoader"),
        "FullLoader": Opaque("FullLoader"),
        "Loader": Opaque("Loader"),
    }
    return {
        "re": regex,
        "regex": regex,
        "math": maths,
        "json": json_members,
        "simplejson": json_members,
        "ujson": json_members,
        "os.path": paths,
        "posixpath": paths,
        "ntpath": paths,
        "string": strings,
        "enum": enum,
        "functools": functools,
        "itertools": itools,
        "yaml": yaml_members,
        "tomllib": {"load": _toml_load, "loads": _toml_load},
        "tomli": {"load": _toml_load, "loads": _toml_load},
        "toml": {"load": _toml_load, "loads": _toml_load},
        "operator": {
            "itemgetter": _itemgetter,
            "attrgetter": _attrgetter,
            "contains": NativeFunction("contains", lambda ev, a, k, n: ev.contains(a[1], a[0], n)),
        },
        "collections": {
            "Counter": _counter,
            "defaultdict": _defaultdict,
            "OrderedDict": _ordered,
            "deque": _deque,
            "namedtuple": _namedtuple,
        },
        "dataclasses": {
            "dataclass": _dataclass,
            "field": _field,
            "asdict": NativeFunction(
                "asdict", lambda ev, a, k, n: dict(a[0].attributes) if isinstance(a[0], Instance) else a[0]
            ),
        },
        "csv": {"reader": _csv_reader, "DictReader": _csv_dict_reader},
        "io": {"open": _open},
        "codecs": {"open": _open},
        "copy": {"copy": _deepcopy, "deepcopy": _deepcopy},
        "argparse": {"ArgumentParser": _argument_parser},
        "configparser": {"ConfigParser": _config_parser, "RawConfigParser": _config_parser},
        "pathlib": {"Path": _path, "PurePath": _path},
        "decimal": {"Decimal": _decimal},
        "difflib": {"get_close_matches": _close},
        "logging": {
            **logs,
            "getLogger": NativeFunction("getLogger", lambda ev, a, k, n: logger),
            "basicConfig": no_effect,
            "DEBUG": 10,
            "INFO": 20,
            "WARNING": 30,
            "ERROR": 40,
            "CRITICAL": 50,
        },
        "pprint": {"pprint": _print, "pp": _print},
        "heapq": {
            **{n: _of_heap(n, is_largest=n == "nlargest") for n in ("nlargest", "nsmallest")},
            **{
                n: _in_place(f"heapq.{n}", getattr(heapq, n)) for n in ("heappush", "heappop", "heapify", "heappushpop")
            },
        },
        "bisect": {n: _in_place(f"bisect.{n}", getattr(bisect, n)) for n in ("insort", "insort_left", "insort_right")},
        "types": {"SimpleNamespace": NativeFunction("SimpleNamespace", lambda ev, a, k, n: Namespace(dict(k)))},
        "typing": {"cast": NativeFunction("cast", lambda ev, a, k, n: a[1])},
        "time": {"sleep": NativeFunction("sleep", _wait)},
        "os": {"path": NativeModule("os.path", paths), "getenv": NativeFunction("getenv", _getenv), "sep": "/"},
        "sys": {"exit": NativeFunction("exit", _exit)},
    }


def _getenv(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
    if len(args) > 1 and isinstance(args[1], (str, int, float)):
        ev.note(f"environment variable {text_of(args[0])!r} is taken to have its default {args[1]!r}", node)
        return args[1]
    return Opaque(f"os.getenv({text_of(args[0])!r})")


def _wait(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> None:
    # For how long a motor runs may be the whole decision: `feed(3)` for dogs, `feed(1)` for cats.
    if args and not is_tainted(args[0]):
        ev.effect("wait", "time.sleep", args, {}, node)


def _log(ev: "Evaluator", args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> None:
    ev.effect("log", "log", args, {}, node)
