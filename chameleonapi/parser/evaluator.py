"""Evaluation of an application's syntax tree without executing it.

The evaluator walks the `ast` of the application. Plain Python values are computed with Python's own semantics, restricted to
whitelisted builtins and pure methods; whatever is not determined by the source (cameras, requests, other libraries) is an
`Opaque` value; the answers of ML APIs are tainted values supplied by the probe. No module is imported, no file is opened
except the application's own data files that were read beforehand, nothing is sent anywhere.

    probe (site, field, answer) --> Evaluator.run(entry) --> Run: atoms of effects, branches on opaque values, fields read

A branch on an opaque value is decided by `Run.choices` (by syntax node), else by the value's default.
"""

import ast
import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from chameleonapi.parser import effects
from chameleonapi.parser import providers as prov
from chameleonapi.parser.providers import FIELDS, Answer, Site
from chameleonapi.parser.sources import Application
from chameleonapi.parser.values import (
    MISSING,
    TEXT_MARK,
    ApiDict,
    ApiList,
    BoundMethod,
    ClassValue,
    EnumMember,
    ExceptionValue,
    Frame,
    FunctionValue,
    Instance,
    InstanceList,
    ModuleValue,
    NativeFunction,
    NativeMethod,
    NativeModule,
    Opaque,
    Record,
    TaintedFloat,
    TaintedInt,
    TaintedStr,
    UnprobedList,
    has_opaque,
    is_tainted,
    pattern_of,
    text_of,
)

STEP_BUDGET = 20_000
DEPTH_BUDGET = 30
NO_LABEL = "Qxzvk"  # a label that no application tests
NO_TOPIC = "/Qxzvk/Qxzvk/Qxzvk"  # the same among text categories, which are paths


class Refusal(Exception):
    """The evaluator cannot follow the application here; `line` and `path` say where."""

    def __init__(self, reason: str, path: str = "", line: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = path
        self.line = line


class AppRaise(Exception):
    """An exception raised by the application itself."""

    def __init__(self, value: ExceptionValue) -> None:
        super().__init__(value.names[:1])
        self.value = value


_CAUGHT = (AppRaise, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, AssertionError, StopIteration)


@dataclass
class Branch:
    """A decision on a value that the source does not determine."""

    node: ast.AST
    path: str
    origin: str
    tainted: bool
    default: bool
    after_api: bool
    is_parameter: bool

    @property
    def line(self) -> int:
        """Line of the branch."""
        return getattr(self.node, "lineno", 0)


@dataclass
class Run:
    """One evaluation: what goes in (target, answer, choices) and what was observed."""

    target: tuple[Site, str] | None = None
    answer: Answer = field(default_factory=Answer)
    # What the other calls answer: "empty", "plain" (one label that nothing tests), or given labels by field.
    neutral: str | dict[tuple[Site, str], tuple[tuple[str, float], ...]] = "empty"
    choices: dict[int, bool] = field(default_factory=dict)
    explain: bool = False
    reverse_sets: bool = False  # iterate over sets the other way round: their order is arbitrary
    set_reads: int = 0  # iterations over sets of several elements
    steps: int = 0
    depth: int = 0
    api_reached: bool = False
    handler_before_api: bool = False
    atoms: dict[effects.Atom, tuple[str, int]] = field(default_factory=dict)
    finals: dict[tuple[str, str], tuple[list[effects.Atom], tuple[str, int]]] = field(default_factory=dict)
    seen: dict[tuple[Site, str], None] = field(default_factory=dict)
    sites: dict[Site, dict[str, Any]] = field(default_factory=dict)
    branches: dict[int, Branch] = field(default_factory=dict)
    hits: int = 0
    text_tests: int = 0
    number_tests: int = 0
    label_pairs: int = 0  # labels of answers that were compared with each other
    number_pairs: int = 0  # numbers of answers that were compared or combined with each other
    label_reads: int = 0
    instance_reads: int = 0
    bugs: dict[str, tuple[str, int]] = field(default_factory=dict)
    notes: dict[str, tuple[str, int]] = field(default_factory=dict)
    unprobed: dict[str, tuple[str, int]] = field(default_factory=dict)  # parts of an answer that are never filled here
    outcomes: dict[int, tuple[ast.AST, str, set[bool]]] = field(default_factory=dict)
    store: dict[str, Any] = field(default_factory=dict)
    raised: ExceptionValue | None = None
    journal: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    opaque_calls: int = 0
    calls: dict[Site, int] = field(default_factory=dict)
    only_call: int | None = None  # the probed answer goes to this call of a site only
    # What a random choice was made from, by its place in the source.
    picks: dict[tuple[str, int], frozenset[str]] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)  # database cursors that were asked for a label
    nested: dict[int, Any] = field(default_factory=dict)  # functions defined inside functions, by line


class Response:
    """An answer of Google's client libraries: fields are made when they are read."""

    __slots__ = ("features", "site", "style")

    def __init__(self, site: Site, style: str, features: set[str] | None = None) -> None:
        self.site = site
        self.style = style
        self.features = features


_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.Pow: lambda a, b: a**b,
    ast.BitOr: lambda a, b: a | b,
    ast.BitAnd: lambda a, b: a & b,
    ast.BitXor: lambda a, b: a ^ b,
    ast.LShift: lambda a, b: a << b,
    ast.RShift: lambda a, b: a >> b,
}
_SYMBOLS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Mod: "%"}
_NUMERIC_ORDER: dict[type, Callable[[Any, Any], bool]] = {
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
}
_MAX_SEQUENCE = 100_000
_TEXT_METHODS = (
    "replace",
    "lower",
    "upper",
    "strip",
    "lstrip",
    "rstrip",
    "title",
    "capitalize",
    "casefold",
    "encode",
    "decode",
)
_PLAIN = (str, bytes, int, float, bool, list, tuple, dict, set, frozenset, type(None), complex)


class Evaluator:
    """Evaluates functions and modules of one application.

    Args:
        app: the application's source.

    Not safe for use by several threads: one run at a time.
    """

    def __init__(self, app: Application) -> None:
        from chameleonapi.parser import library

        self.app = app
        self.library = library
        self.builtins = library.builtin_values()
        self.modules: dict[str, ModuleValue] = {}
        self.parsed_data: dict[tuple[str, str], Any] = {}
        self.run = Run()
        self.imports_google = False
        self.imports_aws = False
        for tree in app.trees.values():
            for node in ast.walk(tree):
                names: list[str] = []
                if isinstance(node, ast.Import):
                    names = [a.name for a in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                for name in names:
                    self.imports_google |= name.startswith(("google", "googleapiclient", "apiclient"))
                    self.imports_aws |= name.split(".")[0] in (
                        "boto3",
                        "botocore",
                        "aiobotocore",
                        "aioboto3",
                        "chalicelib",
                    )
        for path, tree in app.trees.items():
            for node in ast.walk(tree):
                node._path = path  # type: ignore[attr-defined]  # so that a location can be told from a node alone
        self._expressions: dict[type, Callable[[Any, Frame], Any]] = {
            getattr(ast, name[4:]): getattr(self, name) for name in dir(self) if name.startswith("_ev_")
        }
        self._statements: dict[type, Callable[[Any, Frame], str | None]] = {
            getattr(ast, name[4:]): getattr(self, name) for name in dir(self) if name.startswith("_st_")
        }

    # --- runs -------------------------------------------------------------------------------------------------------

    def execute(self, run: Run, entry: Callable[[], Any]) -> Any:
        """Evaluate `entry` under `run` and undo every change that it made to values that were there before."""
        previous, self.run = self.run, run
        try:
            return entry()
        except RecursionError:
            raise Refusal("budget: calls are nested too deeply") from None
        finally:
            self._rollback(run)
            self.run = previous

    def _rollback(self, run: Run) -> None:
        for container, copy in run.journal.values():
            if isinstance(container, dict):
                container.clear()
                container.update(copy)
            elif isinstance(container, (list, deque)):
                container.clear()
                container.extend(copy)
            elif isinstance(container, set):
                container.clear()
                container |= copy
        run.journal.clear()

    def touch(self, container: Any) -> None:
        """Note that a container is about to change, so that the next probe finds it as it was."""
        key = id(container)
        if key not in self.run.journal:
            if isinstance(container, dict):
                copy: Any = dict(container)
            elif isinstance(container, (list, deque)):
                copy = list(container)
            elif isinstance(container, set):
                copy = set(container)
            else:
                return
            self.run.journal[key] = (container, copy)

    def refuse(self, reason: str, node: ast.AST) -> Refusal:
        """A refusal located at `node`."""
        return Refusal(reason, getattr(node, "_path", ""), getattr(node, "lineno", 0))

    def check_size(self, size: int, node: ast.AST) -> None:
        """Refuse a value too large to hold."""
        if size > _MAX_SEQUENCE:
            raise self.refuse(f"budget: a value of size {size}", node)

    def extend(self, target: list[Any], value: Any, node: ast.AST) -> None:
        """target.extend(value), bounded."""
        target.extend(list(self.iterate(value, node)))
        self.check_size(len(target), node)

    def _step(self, node: ast.AST) -> None:
        self.run.steps += 1
        if self.run.steps > STEP_BUDGET:
            raise self.refuse(f"budget: more than {STEP_BUDGET} evaluation steps", node)

    # --- modules ----------------------------------------------------------------------------------------------------

    def module(self, path: str) -> ModuleValue:
        """The module of a file, evaluated once as if imported."""
        if path not in self.modules:
            name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            made = ModuleValue(name, path, self.app.trees[path])
            self.modules[path] = made
            self.load_module(made, name)
        return self.modules[path]

    def load_module(self, module: ModuleValue, dunder_name: str) -> None:
        """Evaluate a module's statements one by one; a statement that fails leaves its names opaque.

        The values stay, so they are outside of the current run's journal.
        """
        outer = self.run
        self.run = Run(choices=outer.choices)
        self.run.depth = outer.depth
        module.variables.update(__name__=dunder_name, __file__=module.path, __doc__=None)
        frame = Frame(module.variables, module)
        try:
            for statement in module.tree.body:
                self.run.steps = 0
                try:
                    signal = self._exec(statement, frame)
                except (*_CAUGHT, RecursionError):
                    for target in _assigned_names(statement):
                        module.variables.setdefault(target, Opaque(target))
                    continue
                except Refusal:
                    for target in _assigned_names(statement):
                        module.variables[target] = Opaque(target)
                    continue
                if signal == "return":
                    break
        finally:
            self.run.journal.clear()  # keep: these values are the module's
            outer.branches.update({k: v for k, v in self.run.branches.items() if k not in outer.branches})
            self.run = outer
        module.is_loaded = True

    def run_module(self, path: str) -> None:
        """Evaluate a module's body as a script."""
        module = ModuleValue("__main__", path, self.app.trees[path])
        module.variables.update(__name__="__main__", __file__=path, __doc__=None)
        frame = Frame(module.variables, module)
        try:
            self._block(module.tree.body, frame)
        except AppRaise as error:
            self._uncaught(error.value)
        except _CAUGHT as error:
            self._uncaught(_as_value(error))
        for name, value in module.variables.items():
            hidden = isinstance(value, (FunctionValue, ClassValue, ModuleValue, NativeModule, NativeFunction, Opaque))
            if not hidden and not name.startswith(("__", "\0")):
                self.final("variable", name, value, ("", 0))

    def _uncaught(self, value: ExceptionValue) -> None:
        self.run.raised = value
        if self.run.api_reached:
            self.effect("raise", value.names[0], list(value.args), {}, None)

    def run_function(self, function: FunctionValue, definition: ast.AST | None = None) -> None:
        """Evaluate a function as an entry point: parameters are its defaults, else opaque.

        `definition` is the function as written, if a decorator of the application has put another one in its place.
        """
        receiver: Any = None
        if function.owner is not None and function.role in ("function", "property"):
            receiver = self.instantiate(function.owner, [], {}, function.node, lenient=True)
        skip_first = function.owner is not None and function.role != "static"
        args, kwargs = self._opaque_arguments(function, skip_first)
        if isinstance(definition, (ast.FunctionDef, ast.AsyncFunctionDef)) and definition is not function.node:
            spec = [*definition.args.posonlyargs, *definition.args.args][1 if skip_first else 0 :]
            args = [Opaque(arg.arg, is_parameter=True) for arg in spec]
        before = dict(function.module.variables.items())
        try:
            if function.owner is not None and function.role == "class":
                receiver = function.owner
            target: Any = BoundMethod(function, receiver) if receiver is not None else function
            result = self.call(target, args, kwargs, function.node)
        except AppRaise as error:
            self._uncaught(error.value)
            result = None
        except _CAUGHT as error:
            self._uncaught(_as_value(error))
            result = None
        if self.run.raised is None:
            self.final("return", "", result, (function.module.path, function.node.lineno))
        if isinstance(receiver, Instance):
            for name, value in receiver.attributes.items():
                if not isinstance(value, (Opaque, FunctionValue)):
                    self.final("attribute", name, value, ("", 0))
        for name, value in function.module.variables.items():
            if (
                name not in before
                or before[name] is not value
                or (isinstance(value, (list, dict, set, deque)) and id(value) in self.run.journal)
            ):
                self.final("global", name, list(value) if isinstance(value, deque) else value, ("", 0))
        for arg in [*args, *kwargs.values()]:
            if isinstance(arg, (list, dict, set, Instance)):
                self.final("argument", "", arg, ("", 0))

    def run_nested(self, outer: FunctionValue, line: int) -> None:
        """Evaluate a function that `outer` defines and hands to a library: a route of an application factory, a button."""
        self.run_function(outer)
        inner = self.run.nested.get(line)
        if inner is None:
            raise Refusal("the function is not defined when the one around it runs", outer.module.path, line)
        self.run_function(inner)

    def _opaque_arguments(self, function: FunctionValue, skip_first: bool) -> tuple[list[Any], dict[str, Any]]:
        spec = function.node.args
        positional = [*spec.posonlyargs, *spec.args]
        if skip_first:
            positional = positional[1:]
        num_required = len(positional) - len(function.defaults)
        options = self._option_defaults(function)
        args: list[Any] = []
        for i, arg in enumerate(positional):
            if i >= num_required:
                args.append(function.defaults[i - num_required])
            else:
                args.append(options.get(arg.arg, Opaque(arg.arg, is_parameter=True)))
        return args, {}

    def _option_defaults(self, function: FunctionValue) -> dict[str, Any]:
        """Defaults of command line options that decorators of the function declare, as click writes them."""
        out: dict[str, Any] = {}
        for decorator in getattr(function.node, "decorator_list", []):
            if not (isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Attribute)):
                continue
            if decorator.func.attr not in ("option", "argument"):
                continue
            names = [a.value for a in decorator.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            given = {k.arg: k.value for k in decorator.keywords}
            default: Any = False if isinstance(given.get("is_flag"), ast.Constant) else MISSING
            if "default" in given:
                try:
                    default = ast.literal_eval(given["default"])
                except ValueError:
                    continue
            if default is MISSING or default is None or not names:
                continue
            plain = [n for n in names if not n.startswith("-")]
            name = (
                (plain or [max(names, key=lambda n: n.startswith("--"))])[0].split("/")[0].lstrip("-").replace("-", "_")
            )
            out[name] = default
            self.note(f"option {name!r} is taken to have its default {default!r}", decorator)
        return out

    # --- effects ----------------------------------------------------------------------------------------------------

    def effect(self, category: str, name: str, args: list[Any], kwargs: dict[str, Any], node: ast.AST | None) -> None:
        """Record that something left the application: a print, a call of another library, an exception."""
        if not self.run.api_reached:
            return
        where = (getattr(node, "_path", ""), getattr(node, "lineno", 0)) if node is not None else ("", 0)
        for atom in effects.call_atoms(category, name, args, kwargs):
            if category == "print" and atom.is_bare:
                # print(people), print(places): nothing but the place tells which list it was
                atom = atom._replace(path=f"line {where[1]}")
            self.run.atoms.setdefault(atom, where)

    def final(self, category: str, name: str, value: Any, where: tuple[str, int]) -> None:
        """Record a value of which only the last one counts: a return value, a variable that outlives the function."""
        self.run.finals[(category, name)] = (effects.value_atoms(category, name, value), where)

    # --- opaque choices ---------------------------------------------------------------------------------------------

    def truth(self, value: Any, node: ast.AST) -> bool:
        """Truth of a value; a branch on an opaque one is decided by the run's choices."""
        if isinstance(value, (bool, type(None))):
            return bool(value)
        if isinstance(value, Opaque):
            return self.choose(value, node)
        if isinstance(value, Instance):
            for name in ("__bool__", "__len__"):
                method = value.cls.lookup(name)
                if isinstance(method, FunctionValue):
                    return self.truth(self.call(BoundMethod(method, value), [], {}, node), node)
            return True
        if isinstance(value, (_PLAIN, deque)):
            return bool(value)
        return True

    def choose(self, value: Opaque, node: ast.AST) -> bool:
        """Decide a branch on an opaque value."""
        key = id(node)
        run = self.run
        run.hits += 1
        if key not in run.branches:
            run.branches[key] = Branch(
                node,
                getattr(node, "_path", ""),
                value.origin,
                value.tainted,
                value.default,
                run.api_reached,
                value.is_parameter,
            )
        elif value.tainted:
            run.branches[key].tainted = True
        return run.choices.get(key, value.default)

    def _note_outcome(self, node: ast.AST, outcome: bool) -> None:
        entry = self.run.outcomes.get(id(node))
        if entry is None:
            self.run.outcomes[id(node)] = (node, getattr(node, "_path", ""), {outcome})
        else:
            entry[2].add(outcome)

    # --- statements -------------------------------------------------------------------------------------------------

    def _block(self, statements: list[ast.stmt], frame: Frame) -> str | None:
        for statement in statements:
            signal = self._exec(statement, frame)
            if signal is not None:
                return signal
        return None

    def _exec(self, statement: ast.stmt, frame: Frame) -> str | None:
        run = self.run
        run.steps += 1
        if run.steps > STEP_BUDGET:
            raise self.refuse(f"budget: more than {STEP_BUDGET} evaluation steps", statement)
        handler = self._statements.get(statement.__class__)
        if handler is None:
            raise self.refuse(f"statement {type(statement).__name__} is not supported", statement)
        return handler(statement, frame)

    def _st_Expr(self, node: ast.Expr, frame: Frame) -> None:
        if not isinstance(node.value, ast.Constant):
            self.eval(node.value, frame)

    def _st_Pass(self, node: ast.Pass, frame: Frame) -> None:
        return None

    def _st_Break(self, node: ast.Break, frame: Frame) -> str:
        return "break"

    def _st_Continue(self, node: ast.Continue, frame: Frame) -> str:
        return "continue"

    def _st_Return(self, node: ast.Return, frame: Frame) -> str:
        frame.returned = self.eval(node.value, frame) if node.value is not None else None
        return "return"

    def _st_If(self, node: ast.If, frame: Frame) -> str | None:
        outcome = self.truth(self.eval(node.test, frame), node.test)
        if self.run.explain:
            self._note_outcome(node.test, outcome)
        return self._block(node.body if outcome else node.orelse, frame)

    def _st_Assign(self, node: ast.Assign, frame: Frame) -> None:
        value = self.eval(node.value, frame)
        for target in node.targets:
            self.assign(target, value, frame)

    def _st_AnnAssign(self, node: ast.AnnAssign, frame: Frame) -> None:
        if node.value is not None:
            self.assign(node.target, self.eval(node.value, frame), frame)

    def _st_AugAssign(self, node: ast.AugAssign, frame: Frame) -> None:
        load = _as_load(node.target)
        current = self.eval(load, frame)
        value = self.eval(node.value, frame)
        if isinstance(current, list) and isinstance(node.op, ast.Add) and not isinstance(value, Opaque):
            self.touch(current)
            self.extend(current, value, node)
            result: Any = current
        elif (
            isinstance(current, set)
            and isinstance(node.op, (ast.BitOr, ast.BitAnd, ast.Sub))
            and isinstance(value, (set, frozenset))
        ):
            self.touch(current)
            if isinstance(node.op, ast.BitOr):
                current |= value
            elif isinstance(node.op, ast.BitAnd):
                current &= value
            else:
                current -= value
            result = current
        else:
            result = self.binary(node.op, current, value, node)
        self.assign(node.target, result, frame)

    def _st_Delete(self, node: ast.Delete, frame: Frame) -> None:
        for target in node.targets:
            if isinstance(target, ast.Subscript):
                container = self.eval(target.value, frame)
                key = self.eval(target.slice, frame)
                if not isinstance(container, Opaque) and not has_opaque(key):
                    self.touch(container)
                    del container[key]
            elif isinstance(target, ast.Name):
                self.touch(frame.variables)
                frame.variables.pop(target.id, None)
            elif isinstance(target, ast.Attribute):
                owner = self.eval(target.value, frame)
                if isinstance(owner, Instance):
                    self.touch(owner.attributes)
                    owner.attributes.pop(target.attr, None)

    def _st_For(self, node: ast.For, frame: Frame) -> str | None:
        iterable = self.eval(node.iter, frame)
        for item in self.iterate(iterable, node):
            self.assign(node.target, item, frame)
            signal = self._block(node.body, frame)
            if signal == "break":
                return None
            if signal == "return":
                return signal
            self._step(node)
        return self._block(node.orelse, frame)

    _st_AsyncFor = _st_For

    def _st_While(self, node: ast.While, frame: Frame) -> str | None:
        while True:
            hits = self.run.hits
            outcome = self.truth(self.eval(node.test, frame), node.test)
            if self.run.explain:
                self._note_outcome(node.test, outcome)
            if not outcome:
                return self._block(node.orelse, frame)
            # A loop whose condition, or whose body, depends on the outside world is a polling loop: one round stands for all.
            polls = self.run.hits != hits
            calls = self.run.opaque_calls
            endless = isinstance(node.test, ast.Constant)
            signal = self._block(node.body, frame)
            if signal == "break":
                return None
            if signal == "return":
                return signal
            if polls or (endless and (self.run.opaque_calls != calls or self.run.hits != hits)):
                return None
            self._step(node)

    def _st_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef, frame: Frame) -> None:
        function = self._make_function(node, frame, node.name)
        if frame.variables is not frame.module.variables:
            self.run.nested[node.lineno] = function
        value: Any = function
        for decorator in reversed(node.decorator_list):
            value = self._decorate(decorator, value, frame)
        self.store_name(node.name, value, frame)

    _st_AsyncFunctionDef = _st_FunctionDef

    def _decorate(self, decorator: ast.expr, value: Any, frame: Frame) -> Any:
        last = (
            decorator.attr
            if isinstance(decorator, ast.Attribute)
            else decorator.id
            if isinstance(decorator, ast.Name)
            else ""
        )
        if isinstance(value, FunctionValue):
            if last in ("staticmethod", "classmethod", "property", "cached_property"):
                value.role = {"staticmethod": "static", "classmethod": "class"}.get(last, "property")
                return value
            if last in ("setter", "getter", "deleter"):
                return value if last == "getter" else Opaque(last)
        tool = self.eval(decorator, frame)
        if isinstance(tool, (FunctionValue, BoundMethod, ClassValue)):
            made = self.call(tool, [value], {}, decorator)
            if isinstance(value, ClassValue) and not isinstance(made, ClassValue):
                return value  # a registry that keeps the class
            return value if isinstance(made, Opaque) or made is None else made
        if isinstance(tool, NativeFunction) and tool.name in ("dataclass", "total_ordering"):
            return self.call(tool, [value], {}, decorator)
        return value  # routes, event handlers, caches, retries: what they decorate is what runs

    def _make_function(self, node: Any, frame: Frame, name: str) -> FunctionValue:
        defaults = [self.eval(d, frame) for d in node.args.defaults]
        kw_defaults = {
            arg.arg: self.eval(default, frame)
            for arg, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            if default is not None
        }
        is_module_frame = frame.variables is frame.module.variables and frame.parent is None
        made = FunctionValue(node, frame.module, None if is_module_frame else frame, defaults, kw_defaults, name)
        if not isinstance(node, ast.Lambda):
            if not hasattr(node, "_is_generator"):
                node._is_generator = _contains_yield(node)
            made.is_generator = node._is_generator
        return made

    def _st_ClassDef(self, node: ast.ClassDef, frame: Frame) -> None:
        bases = [self.eval(b, frame) for b in node.bases]
        inner = Frame({}, frame.module, frame)
        cls = ClassValue(node.name, bases, inner.variables, frame.module)
        self._block(node.body, inner)
        for member in inner.variables.values():
            if isinstance(member, FunctionValue) and member.owner is None:
                member.owner = cls
                member.closure = frame if frame.variables is not frame.module.variables else None
        cls.fields = [s.target.id for s in node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)]
        if any(n in ("Enum", "IntEnum", "StrEnum", "Flag", "IntFlag") for n in cls.base_names()[1:]):
            number = 0
            for name, member in list(inner.variables.items()):
                if not name.startswith("_") and not isinstance(member, FunctionValue):
                    number += 1
                    inner.variables[name] = EnumMember(
                        name, number if isinstance(member, Opaque) else member, node.name
                    )
        value: Any = cls
        if any(n in ("NamedTuple", "BaseModel", "TypedDict") for n in cls.base_names()[1:]):
            cls.is_dataclass = True
        for decorator in reversed(node.decorator_list):
            value = self._decorate(decorator, value, frame)
        self.store_name(node.name, value, frame)

    def _st_Global(self, node: ast.Global, frame: Frame) -> None:
        frame.global_names.update(node.names)

    def _st_Nonlocal(self, node: ast.Nonlocal, frame: Frame) -> None:
        frame.nonlocal_names.update(node.names)

    def _st_Assert(self, node: ast.Assert, frame: Frame) -> None:
        value = self.eval(node.test, frame)
        if not isinstance(value, Opaque) and not self.truth(value, node.test):
            args = (self.eval(node.msg, frame),) if node.msg is not None else ()
            raise AppRaise(ExceptionValue(("AssertionError", "Exception", "BaseException"), args))

    def _st_Raise(self, node: ast.Raise, frame: Frame) -> None:
        if node.exc is None:
            current = frame.variables.get("\0current exception")
            raise AppRaise(current if isinstance(current, ExceptionValue) else _exception("Exception"))
        raise AppRaise(self._as_exception(self.eval(node.exc, frame)))

    def _as_exception(self, value: Any) -> ExceptionValue:
        if isinstance(value, ExceptionValue):
            return value
        if isinstance(value, type) and issubclass(value, BaseException):
            return _exception(value.__name__)
        if isinstance(value, Instance):
            args = value.attributes.get("args", ())
            return ExceptionValue((*value.cls.base_names(), "Exception", "BaseException"), tuple(args))
        if isinstance(value, ClassValue):
            return ExceptionValue((*value.base_names(), "Exception", "BaseException"))
        name = value.origin.removesuffix("()").rsplit(".", 1)[-1] if isinstance(value, Opaque) else "Exception"
        return ExceptionValue((name, "Exception", "BaseException"))

    def _st_Try(self, node: ast.Try, frame: Frame) -> str | None:
        signal: str | None = None
        try:
            try:
                signal = self._block(node.body, frame)
            except _CAUGHT as error:
                value = error.value if isinstance(error, AppRaise) else _as_value(error)
                for handler in node.handlers:
                    if self._catches(handler, value, frame):
                        if not self.run.api_reached:
                            self.run.handler_before_api = True
                        self.touch(frame.variables)
                        frame.variables["\0current exception"] = value
                        if handler.name:
                            self.store_name(handler.name, value, frame)
                        signal = self._block(handler.body, frame)
                        break
                else:
                    raise
            else:
                if signal is None:
                    signal = self._block(node.orelse, frame)
        finally:
            last = self._block(node.finalbody, frame) if node.finalbody else None
        return last if last is not None else signal

    _st_TryStar = _st_Try

    def _catches(self, handler: ast.ExceptHandler, value: ExceptionValue, frame: Frame) -> bool:
        if handler.type is None:
            return True
        kinds = self.eval(handler.type, frame)
        return self._is_one_of(value, kinds if isinstance(kinds, (tuple, list)) else [kinds])

    def _is_one_of(self, value: ExceptionValue, kinds: Iterable[Any]) -> bool:
        for kind in kinds:
            if isinstance(kind, type):
                name = kind.__name__
            elif isinstance(kind, ClassValue):
                name = kind.name
            elif isinstance(kind, Opaque):
                name = kind.origin.rsplit(".", 1)[-1]
            else:
                continue
            if name in value.names or (name in ("IOError", "EnvironmentError") and "OSError" in value.names):
                return True
        return False

    def _st_With(self, node: ast.With | ast.AsyncWith, frame: Frame) -> str | None:
        suppressed: list[Any] = []
        for item in node.items:
            call = item.context_expr
            if isinstance(call, ast.Call) and ast.unparse(call.func) in ("suppress", "contextlib.suppress"):
                suppressed += [self.eval(a, frame) for a in call.args]
                continue
            value = self.eval(item.context_expr, frame)
            if isinstance(value, Instance):
                enter = value.cls.lookup("__enter__")
                if enter is MISSING:
                    enter = value.cls.lookup("__aenter__")
                if isinstance(enter, FunctionValue):
                    value = self.call(BoundMethod(enter, value), [], {}, node)
            if isinstance(value, list) and len(value) == 1 and isinstance(item.context_expr, ast.Call):
                value = value[0]  # a @contextmanager of the application: what it yields
            if item.optional_vars is not None:
                self.assign(item.optional_vars, value, frame)
        try:
            return self._block(node.body, frame)
        except _CAUGHT as error:
            if not self._is_one_of(error.value if isinstance(error, AppRaise) else _as_value(error), suppressed):
                raise
        return None

    _st_AsyncWith = _st_With

    def subclasses(self, base: ClassValue) -> list[ClassValue]:
        """Classes at the top level of the modules evaluated so far that derive directly from `base`, in order."""
        found = [v for m in self.modules.values() for v in m.variables.values() if isinstance(v, ClassValue)]
        return [c for c in dict.fromkeys(found) if any(b is base for b in c.bases)]

    def _st_Import(self, node: ast.Import, frame: Frame) -> None:
        for alias in node.names:
            value = self.import_module(alias.name if alias.asname else alias.name.split(".")[0], frame.module)
            if not alias.asname and "." in alias.name:
                self.import_module(alias.name, frame.module)
            self.store_name(alias.asname or alias.name.split(".")[0], value, frame)

    def import_module(self, dotted: str, importer: ModuleValue, level: int = 0) -> Any:
        """The module called `dotted`: of the application, provided by the evaluator, or opaque."""
        path = self.app.module_path(dotted, importer.path, level)
        if path is not None and path != importer.path:
            return self.module(path)
        if level == 0:
            known = self.library.native_module(dotted)
            if known is not None:
                return known
        return Opaque(dotted if not level else "." * level + dotted)

    def _st_ImportFrom(self, node: ast.ImportFrom, frame: Frame) -> None:
        module_name = node.module or ""
        module = self.import_module(module_name, frame.module, node.level) if module_name or node.level else Opaque("")
        for alias in node.names:
            if alias.name == "*":
                if isinstance(module, ModuleValue):
                    self.touch(frame.variables)
                    public = {n: v for n, v in module.variables.items() if not n.startswith("__")}
                    frame.variables.update(public)
                    frame.module.has_unknown_star |= module.has_unknown_star
                elif isinstance(module, NativeModule):
                    self.touch(frame.variables)
                    frame.variables.update(module.members)
                else:
                    frame.module.has_unknown_star = True
                continue
            dotted = f"{module_name}.{alias.name}" if module_name else alias.name
            value: Any = MISSING
            if isinstance(module, ModuleValue):
                value = module.variables.get(alias.name, MISSING)
            if value is MISSING:
                path = self.app.module_path(dotted, frame.module.path, node.level)
                if path is not None and path != frame.module.path:
                    value = self.module(path)
            if value is MISSING:
                if isinstance(module, NativeModule):
                    value = module.members.get(alias.name, Opaque(dotted))
                    if isinstance(value, Opaque):
                        value = self.library.native_module(dotted) or value
                else:
                    value = (self.library.native_module(dotted) if not node.level else None) or Opaque(dotted)
            self.store_name(alias.asname or alias.name, value, frame)

    def _st_Match(self, node: ast.Match, frame: Frame) -> str | None:
        subject = self.eval(node.subject, frame)
        for case in node.cases:
            outcome = self._matches(case.pattern, subject, frame)
            if outcome and case.guard is not None:
                outcome = self.truth(self.eval(case.guard, frame), case.guard)
            if self.run.explain:
                self._note_outcome(case.pattern, outcome)
            if outcome:
                return self._block(case.body, frame)
        return None

    def _matches(self, pattern: ast.pattern, subject: Any, frame: Frame) -> bool:
        if isinstance(pattern, ast.MatchValue):
            return self.truth(self.compare(ast.Eq(), subject, self.eval(pattern.value, frame), pattern), pattern)
        if isinstance(pattern, ast.MatchSingleton):
            return subject is pattern.value
        if isinstance(pattern, ast.MatchOr):
            return any(self._matches(p, subject, frame) for p in pattern.patterns)
        if isinstance(pattern, ast.MatchAs):
            if pattern.pattern is not None and not self._matches(pattern.pattern, subject, frame):
                return False
            if pattern.name is not None:
                self.store_name(pattern.name, subject, frame)
            return True
        if isinstance(pattern, ast.MatchSequence):
            if isinstance(subject, Opaque):
                return self.choose(subject, pattern)
            if not isinstance(subject, (list, tuple)):
                return False
            stars = [i for i, p in enumerate(pattern.patterns) if isinstance(p, ast.MatchStar)]
            if not stars:
                return len(subject) == len(pattern.patterns) and all(
                    self._matches(p, s, frame) for p, s in zip(pattern.patterns, subject, strict=True)
                )
            head, tail = pattern.patterns[: stars[0]], pattern.patterns[stars[0] + 1 :]
            if len(subject) < len(head) + len(tail):
                return False
            end = len(subject) - len(tail)
            star = pattern.patterns[stars[0]]
            assert isinstance(star, ast.MatchStar)
            if star.name:
                self.store_name(star.name, list(subject[len(head) : end]), frame)
            return all(self._matches(p, s, frame) for p, s in zip(head, subject[: len(head)], strict=True)) and all(
                self._matches(p, s, frame) for p, s in zip(tail, subject[end:], strict=True)
            )
        if isinstance(pattern, ast.MatchMapping):
            if isinstance(subject, Opaque):
                return self.choose(subject, pattern)
            if not isinstance(subject, dict):
                return False
            for key, sub in zip(pattern.keys, pattern.patterns, strict=True):
                wanted = self.eval(key, frame)
                if wanted not in subject or not self._matches(sub, subject[wanted], frame):
                    return False
            return True
        if isinstance(pattern, ast.MatchClass):
            cls = self.eval(pattern.cls, frame)
            if isinstance(subject, Opaque):
                return self.choose(subject, pattern)
            if not self.library.is_instance(subject, cls):
                return False
            if pattern.patterns and not isinstance(subject, Instance):
                return self._matches(pattern.patterns[0], subject, frame)
            return all(
                self._matches(sub, self.attribute(subject, name, pattern), frame)
                for name, sub in zip(pattern.kwd_attrs, pattern.kwd_patterns, strict=True)
            )
        raise self.refuse(f"match pattern {type(pattern).__name__} is not supported", pattern)

    # --- names and assignment ---------------------------------------------------------------------------------------

    def store_name(self, name: str, value: Any, frame: Frame) -> None:
        """Bind a name in a frame, honouring `global` and `nonlocal`."""
        if name in frame.global_names:
            self.touch(frame.module.variables)
            frame.module.variables[name] = value
            return
        if name in frame.nonlocal_names:
            parent = frame.parent
            while parent is not None:
                if name in parent.variables:
                    self.touch(parent.variables)
                    parent.variables[name] = value
                    return
                parent = parent.parent
        if frame.parent is None and frame.variables is frame.module.variables:
            self.touch(frame.variables)
        frame.variables[name] = value

    def assign(self, target: ast.expr, value: Any, frame: Frame) -> None:
        """Assign to a name, attribute, subscript or sequence of targets."""
        if isinstance(target, ast.Name):
            self.store_name(target.id, value, frame)
        elif isinstance(target, (ast.Tuple, ast.List)):
            self._unpack(target.elts, value, frame, target)
        elif isinstance(target, ast.Attribute):
            owner = self.eval(target.value, frame)
            self.store_attribute(owner, target.attr, value, target)
        elif isinstance(target, ast.Subscript):
            container = self.eval(target.value, frame)
            key = self.eval(target.slice, frame)
            if isinstance(container, Opaque):
                name = f"{container.origin}[{_key_text(key)}]"
                self.run.store[name] = value
                self.run.opaque_calls += 1
                if self.run.api_reached:
                    self.final("set", name, value, (getattr(target, "_path", ""), target.lineno))
                return
            if isinstance(container, Instance):
                method = container.cls.lookup("__setitem__")
                if isinstance(method, FunctionValue):
                    self.call(BoundMethod(method, container), [key, value], {}, target)
                return
            if isinstance(key, Opaque):
                if isinstance(container, dict):
                    key = f"<{key.origin}>"
                else:
                    return
            self.touch(container)
            container[key] = value
        elif isinstance(target, ast.Starred):
            self.assign(target.value, value, frame)

    def store_attribute(self, owner: Any, name: str, value: Any, node: ast.AST) -> None:
        """Set an attribute of an object of the application, or of an opaque one (an effect)."""
        if isinstance(owner, Instance):
            found = owner.cls.lookup(name)
            if isinstance(found, FunctionValue) and found.role == "property":
                return
            self.touch(owner.attributes)
            owner.attributes[name] = value
        elif isinstance(owner, ClassValue):
            self.touch(owner.attributes)
            owner.attributes[name] = value
        elif isinstance(owner, ModuleValue):
            self.touch(owner.variables)
            owner.variables[name] = value
        elif isinstance(owner, FunctionValue):
            self.touch(owner.attributes)
            owner.attributes[name] = value
        elif isinstance(owner, Opaque):
            full = f"{owner.origin}.{name}"
            self.run.store[full] = value
            self.run.opaque_calls += 1
            if self.run.api_reached:
                self.final("set", full, value, (getattr(node, "_path", ""), getattr(node, "lineno", 0)))
        elif isinstance(owner, Record):
            owner._fields[name] = value
        elif isinstance(owner, self.library.Namespace):
            self.touch(owner.values)
            owner.values[name] = value
        else:
            raise AttributeError(name)

    def _unpack(self, targets: list[ast.expr], value: Any, frame: Frame, node: ast.AST) -> None:
        if isinstance(value, Opaque):
            for i, target in enumerate(targets):
                self.assign(target, value.derive(f"[{i}]"), frame)
            return
        items = list(self.iterate(value, node))
        stars = [i for i, t in enumerate(targets) if isinstance(t, ast.Starred)]
        if stars:
            i = stars[0]
            tail = len(targets) - i - 1
            if len(items) < len(targets) - 1:
                raise ValueError("not enough values to unpack")
            end = len(items) - tail
            items = [*items[:i], items[i:end], *items[end:]]
        if len(items) != len(targets):
            raise ValueError(f"expected {len(targets)} values to unpack, got {len(items)}")
        for target, item in zip(targets, items, strict=True):
            self.assign(target, item, frame)

    # --- iteration --------------------------------------------------------------------------------------------------

    def iterate(self, value: Any, node: ast.AST) -> Iterable[Any]:
        """The items of a value; an opaque value has one opaque item."""
        if isinstance(value, ApiList):
            self.run.label_reads += 1
            self.run.instance_reads += isinstance(value, InstanceList)
            if isinstance(value, UnprobedList):
                self.run.unprobed.setdefault(value.name, (getattr(node, "_path", ""), getattr(node, "lineno", 0)))
            return list(value)
        if isinstance(value, (list, tuple)):
            return value if isinstance(value, tuple) else _live(value)
        if isinstance(value, dict):
            return list(value)
        if isinstance(value, (set, frozenset)):
            self.run.set_reads += len(value) > 1
            # Set order must not depend on the hash seed.
            return sorted(value, key=lambda v: (str(type(v)), text_of(v)), reverse=self.run.reverse_sets)
        if isinstance(value, TaintedStr):
            return [TaintedStr(c, TEXT_MARK if value.is_api_text else c, value.is_opaque) for c in value]
        if isinstance(value, range):
            return _bounded(value, self, node)
        if isinstance(value, (str, bytes, deque)):
            return list(value)
        if isinstance(value, Opaque):
            self.run.opaque_calls += 1
            return [value.derive("[i]", value.origin in self.run.asked)]
        if isinstance(value, Instance):
            method = value.cls.lookup("__iter__")
            if isinstance(method, FunctionValue):
                return self.iterate(self.call(BoundMethod(method, value), [], {}, node), node)
        if isinstance(value, ClassValue):
            return [v for v in value.attributes.values() if isinstance(v, EnumMember)]
        if isinstance(value, (type({}.keys()), type({}.values()), type({}.items()))):
            return list(value)
        if isinstance(value, Response):
            return [Opaque("response[i]")]
        if isinstance(value, self.library.TextFile):
            return value.text.splitlines(keepends=True)
        if hasattr(value, "__next__"):
            return value
        raise TypeError(f"{type(value).__name__} object is not iterable")

    # --- expressions ------------------------------------------------------------------------------------------------

    def eval(self, node: ast.expr, frame: Frame) -> Any:
        """Value of an expression."""
        handler = self._expressions.get(node.__class__)
        if handler is None:
            raise self.refuse(f"expression {type(node).__name__} is not supported", node)
        return handler(node, frame)

    def _ev_Constant(self, node: ast.Constant, frame: Frame) -> Any:
        return node.value

    def _ev_Name(self, node: ast.Name, frame: Frame) -> Any:
        name = node.id
        if name in frame.variables and name not in frame.global_names:
            return frame.variables[name]
        parent = frame.parent
        while parent is not None:
            if name in parent.variables:
                return parent.variables[name]
            parent = parent.parent
        if name in frame.module.variables:
            return frame.module.variables[name]
        if name in self.builtins:
            return self.builtins[name]
        if frame.module.has_unknown_star:
            return Opaque(name)
        raise AppRaise(_exception("NameError", f"name '{name}' is not defined"))

    def _ev_Attribute(self, node: ast.Attribute, frame: Frame) -> Any:
        return self.attribute(self.eval(node.value, frame), node.attr, node)

    def attribute(self, value: Any, name: str, node: ast.AST) -> Any:
        """Attribute of any value."""
        if isinstance(value, Opaque):
            stored = self.run.store.get(f"{value.origin}.{name}", MISSING)
            if stored is not MISSING:
                return stored
            if name in prov.GOOGLE_ENTITY_TYPES and value.origin.endswith(("Entity.Type", "EntityType")):
                return EnumMember(name, prov.GOOGLE_ENTITY_TYPES.index(name), "Type")
            made = value.derive(f".{name}", name == "rowcount" and value.origin in self.run.asked)
            if value.service and (name in ("client", "_client") or name in prov.ALL_METHODS):
                made.service = value.service
            return made
        if isinstance(value, Instance):
            if name in value.attributes:
                return value.attributes[name]
            found = value.cls.lookup(name)
            if found is MISSING:
                if name == "__class__":
                    return value.cls
                if name == "__dict__":
                    return value.attributes
                if value.cls.has_unknown_base() or value.is_parameter:
                    return Opaque(f"self.{name}", is_parameter=True)
                raise AttributeError(name)
            if isinstance(found, FunctionValue):
                if found.role == "property":
                    return self.call(BoundMethod(found, value), [], {}, node)
                if found.role == "static":
                    return found
                return BoundMethod(found, value.cls if found.role == "class" else value)
            return found
        if isinstance(value, Response):
            return self.response_field(value, name, node)
        if isinstance(value, Record):
            if name in value._fields:
                return value._fields[name]
            if value._kind in ("Sentiment", "Error"):
                return Opaque(f"{value._kind}.{name}")
            if name == "_pb":
                return value
            return Opaque(f"{value._kind}.{name}")
        if isinstance(value, ModuleValue):
            if name in value.variables:
                return value.variables[name]
            sub = self.app.module_path(f"{value.name}.{name}", "x.py")
            if sub is not None:
                return self.module(sub)
            if value.has_unknown_star:
                return Opaque(f"{value.name}.{name}")
            raise AttributeError(name)
        if isinstance(value, NativeModule):
            if name in value.members:
                return value.members[name]
            return self.library.native_module(f"{value.name}.{name}") or Opaque(f"{value.name}.{name}")
        if isinstance(value, ClassValue):
            found = value.lookup(name)
            if found is MISSING:
                if name == "__name__":
                    return value.name
                if name == "__members__":
                    return {k: v for k, v in value.attributes.items() if isinstance(v, EnumMember)}
                if name == "__subclasses__":
                    return NativeFunction(name, lambda ev, a, k, n: ev.subclasses(value))
                if value.has_unknown_base():
                    return Opaque(f"{value.name}.{name}")
                raise AttributeError(name)
            if isinstance(found, FunctionValue) and found.role == "class":
                return BoundMethod(found, value)
            return found
        if isinstance(value, EnumMember):
            if name in ("name", "value"):
                return value.name if name == "name" else value.value
            return Opaque(f"{value.owner}.{name}")
        if isinstance(value, FunctionValue):
            if name in value.attributes:
                return value.attributes[name]
            if name == "__name__":
                return value.name
            return Opaque(f"{value.name}.{name}")
        if isinstance(value, BoundMethod):
            return self.attribute(value.function, name, node)
        if isinstance(value, ExceptionValue):
            if name == "args":
                return value.args
            if name == "message":
                return text_of(value)
            return Opaque(f"exception.{name}")
        if isinstance(value, NativeFunction):
            member = self.library.type_member(value.name, name)
            return member if member is not None else Opaque(f"{value.name}.{name}")
        if isinstance(value, type):
            return value.__name__ if name == "__name__" else Opaque(f"{value.__name__}.{name}")
        special = self.library.special_attribute(self, value, name)
        if special is not MISSING:
            return special
        if isinstance(value, type(None)):
            raise AttributeError(f"'NoneType' object has no attribute {name!r}")
        if hasattr(value, name):
            return NativeMethod(value, name)
        raise AttributeError(f"{type(value).__name__!r} object has no attribute {name!r}")

    def _ev_Subscript(self, node: ast.Subscript, frame: Frame) -> Any:
        return self.subscript(self.eval(node.value, frame), self.eval(node.slice, frame), node)

    def subscript(self, container: Any, key: Any, node: ast.AST) -> Any:
        """container[key] for any values."""
        if isinstance(container, Opaque):
            stored = self.run.store.get(f"{container.origin}[{_key_text(key)}]", MISSING)
            if stored is not MISSING:
                return stored
            origin = container.origin
            if origin == "os.environ" and isinstance(key, str):
                return Opaque(f"os.environ[{_key_text(key)}]")
            return container.derive(f"[{_key_text(key)}]", is_tainted(key))
        if isinstance(container, ApiDict) and isinstance(key, str):
            return self.api_dict_field(container, key, node, MISSING)
        if isinstance(container, ApiList):
            self.run.label_reads += 1
            if isinstance(key, slice):
                return ApiList(container[key])
            if isinstance(key, Opaque):
                return container[0] if container else Opaque("labels[i]")
        if isinstance(key, Opaque) or (isinstance(key, TaintedStr) and key.is_opaque):
            return Opaque(f"{_short(container)}[{_key_text(key)}]", is_tainted(key) or is_tainted(container))
        if isinstance(container, Instance):
            method = container.cls.lookup("__getitem__")
            if isinstance(method, FunctionValue):
                return self.call(BoundMethod(method, container), [key], {}, node)
            if container.cls.has_unknown_base() or container.is_parameter:
                return Opaque(f"self[{_key_text(key)}]")
            raise TypeError("object is not subscriptable")
        if isinstance(container, ClassValue):
            found = container.attributes.get(key, MISSING) if isinstance(key, str) else MISSING
            if found is MISSING:
                if container.has_unknown_base():
                    return container if not isinstance(key, str) else Opaque(f"{container.name}[{key}]")
                raise KeyError(key)
            return found
        if isinstance(container, (Record, Response)):
            self.bug("subscripts an object of the client library, which has attributes only", node)
            raise TypeError("object is not subscriptable")
        if isinstance(container, (NativeFunction, type, FunctionValue)):
            return container  # a generic alias: list[str]
        if isinstance(container, EnumMember):
            return Opaque("enum member")
        if isinstance(container, TaintedStr):
            piece = str.__getitem__(container, key)
            return TaintedStr(piece, TEXT_MARK if container.is_api_text else piece, container.is_opaque)
        if isinstance(container, dict) and isinstance(key, str) and isinstance(key, TaintedStr):
            self.run.text_tests += 1
            if self.run.explain:
                self._note_outcome(node, key in container)
        if isinstance(container, (str, bytes, list, tuple, dict, range, deque)):
            return container[key]
        found = self.library.special_subscript(self, container, key)
        if found is not MISSING:
            return found
        raise TypeError(f"'{type(container).__name__}' object is not subscriptable")

    def _ev_Slice(self, node: ast.Slice, frame: Frame) -> Any:
        parts = [self.eval(p, frame) if p is not None else None for p in (node.lower, node.upper, node.step)]
        if any(isinstance(p, Opaque) for p in parts):
            return slice(None)  # a limit that is not known: take everything
        return slice(*parts)

    def _ev_List(self, node: ast.List, frame: Frame) -> list[Any]:
        return self._elements(node.elts, frame)

    def _ev_Tuple(self, node: ast.Tuple, frame: Frame) -> tuple[Any, ...]:
        return tuple(self._elements(node.elts, frame))

    def _ev_Set(self, node: ast.Set, frame: Frame) -> set[Any]:
        return set(self._elements(node.elts, frame))

    def _elements(self, nodes: list[ast.expr], frame: Frame) -> list[Any]:
        out: list[Any] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                out.extend(self.iterate(self.eval(node.value, frame), node))
            else:
                out.append(self.eval(node, frame))
        return out

    def _ev_Starred(self, node: ast.Starred, frame: Frame) -> Any:
        return self.eval(node.value, frame)

    def _ev_Dict(self, node: ast.Dict, frame: Frame) -> dict[Any, Any]:
        out: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                other = self.eval(value, frame)
                if isinstance(other, dict):
                    out.update(other)
                continue
            evaluated = self.eval(key, frame)
            out[evaluated if not isinstance(evaluated, Opaque) else f"<{evaluated.origin}>"] = self.eval(value, frame)
        return out

    def _ev_JoinedStr(self, node: ast.JoinedStr, frame: Frame) -> str:
        texts: list[str] = []
        patterns: list[str] = []
        tainted = opaque = False
        for part in node.values:
            if isinstance(part, ast.Constant):
                texts.append(str(part.value))
                patterns.append(str(part.value))
                continue
            assert isinstance(part, ast.FormattedValue)
            value = self.eval(part.value, frame)
            spec = text_of(self.eval(part.format_spec, frame)) if part.format_spec is not None else ""
            text, pattern, value_tainted, value_opaque = self.formatted(value, spec)
            texts.append(text)
            patterns.append(pattern)
            tainted |= value_tainted
            opaque |= value_opaque
        if tainted or opaque:
            return TaintedStr("".join(texts), "".join(patterns), opaque)
        return "".join(texts)

    def formatted(self, value: Any, spec: str) -> tuple[str, str, bool, bool]:
        """Text, pattern, taint and opacity of a value in a format field."""
        if isinstance(value, Instance):
            method = value.cls.lookup("__str__")
            if isinstance(method, FunctionValue):
                value = self.call(BoundMethod(method, value), [], {}, method.node)
        opaque = has_opaque(value)
        tainted = is_tainted(value)
        try:
            if len(spec) > 6 and re.search(r"\d{6}", spec):
                raise Refusal("budget: a format with a very large width")
            text = format(value, spec) if spec and isinstance(value, (int, float, str)) else text_of(value)
        except (ValueError, TypeError):
            text = text_of(value)
        return text, (pattern_of(value) if tainted or opaque else text), tainted, opaque

    def _ev_FormattedValue(self, node: ast.FormattedValue, frame: Frame) -> Any:
        return self.eval(node.value, frame)

    def _ev_IfExp(self, node: ast.IfExp, frame: Frame) -> Any:
        outcome = self.truth(self.eval(node.test, frame), node.test)
        if self.run.explain:
            self._note_outcome(node.test, outcome)
        return self.eval(node.body if outcome else node.orelse, frame)

    def _ev_BoolOp(self, node: ast.BoolOp, frame: Frame) -> Any:
        is_and = isinstance(node.op, ast.And)
        value: Any = None
        last = len(node.values) - 1
        for i, part in enumerate(node.values):
            value = self.eval(part, frame)
            forgotten = i and not is_and and isinstance(part, ast.Constant) and isinstance(node.values[0], ast.Compare)
            if forgotten and isinstance(value, str) and value:
                self.bug(f"'... or {value!r}' is always true: the text itself is tested, not the label", node)
            if isinstance(value, Opaque) and i and self.library.is_local_model(value.origin):
                value = self.choose(value, part)  # a branch, so that the mix with another model is noticed
            if i == last:
                return value
            if self.truth(value, part) != is_and:
                return value if not isinstance(value, Opaque) else not is_and
        return value

    def _ev_UnaryOp(self, node: ast.UnaryOp, frame: Frame) -> Any:
        value = self.eval(node.operand, frame)
        if isinstance(node.op, ast.Not):
            if isinstance(value, Opaque):
                return Opaque(f"not {value.origin}", value.tainted, not value.default, None, value.is_parameter)
            return not self.truth(value, node)
        if isinstance(value, Opaque):
            return value.derive("")
        if isinstance(node.op, ast.USub):
            result: Any = -value
        elif isinstance(node.op, ast.UAdd):
            result = +value
        else:
            result = ~value
        return _keep_number(result, value)

    def _ev_NamedExpr(self, node: ast.NamedExpr, frame: Frame) -> Any:
        value = self.eval(node.value, frame)
        self.assign(node.target, value, frame)
        return value

    def _ev_BinOp(self, node: ast.BinOp, frame: Frame) -> Any:
        return self.binary(node.op, self.eval(node.left, frame), self.eval(node.right, frame), node)

    def binary(self, op: ast.operator, left: Any, right: Any, node: ast.AST) -> Any:
        """Arithmetic, concatenation, formatting and set operations with taint."""
        if isinstance(op, ast.Mod) and isinstance(left, str):
            return self.library.percent(self, left, right)
        if (isinstance(left, str) and isinstance(right, (str, Opaque))) or (
            isinstance(right, str) and isinstance(left, Opaque)
        ):
            if isinstance(op, ast.Add):
                self.check_size(sum(len(x) for x in (left, right) if isinstance(x, str)), node)
                if isinstance(left, Opaque) or isinstance(right, Opaque):
                    return TaintedStr(text_of(left) + text_of(right), pattern_of(left) + pattern_of(right), True)
                if isinstance(left, TaintedStr) or isinstance(right, TaintedStr):
                    opaque = getattr(left, "is_opaque", False) or getattr(right, "is_opaque", False)
                    return TaintedStr(str.__add__(left, right), pattern_of(left) + pattern_of(right), opaque)
                return left + right
            if isinstance(left, str) and isinstance(right, str):
                raise TypeError("unsupported operand type(s)")
        if isinstance(left, Opaque) or isinstance(right, Opaque):
            if isinstance(left, list) and isinstance(right, Opaque) and isinstance(op, ast.Add):
                return [*left, right.derive("[i]")]
            if isinstance(right, list) and isinstance(left, Opaque) and isinstance(op, ast.Add):
                return [left.derive("[i]"), *right]
            symbol = _SYMBOLS.get(type(op), "?")
            tainted = is_tainted(left) or is_tainted(right)
            return Opaque(f"{_short(left)} {symbol} {_short(right)}", tainted, True)
        if isinstance(left, Instance) or isinstance(right, Instance):
            names = {ast.Add: "__add__", ast.Sub: "__sub__", ast.BitOr: "__or__", ast.Div: "__truediv__"}
            if isinstance(left, Instance):
                method = left.cls.lookup(names.get(type(op), ""))
                if isinstance(method, FunctionValue):
                    return self.call(BoundMethod(method, left), [right], {}, node)
            return Opaque("arithmetic on objects", is_tainted(left) or is_tainted(right))
        if isinstance(op, (ast.BitAnd, ast.Sub, ast.BitXor)):
            self.note_label_sets(left, right)
        special = self.library.special_binary(op, left, right)
        if special is not MISSING:
            return special
        if isinstance(left, (NativeFunction, ClassValue, type)) or isinstance(
            right, (NativeFunction, ClassValue, type)
        ):
            return left  # a union type: str | None
        if isinstance(op, (ast.Pow, ast.LShift)) and isinstance(right, (int, float)) and abs(right) > 1000:
            raise self.refuse("a power too large to compute", node)
        if isinstance(op, ast.Mult) and (
            (
                isinstance(left, (str, list, tuple))
                and isinstance(right, int)
                and len(left) * max(right, 0) > _MAX_SEQUENCE
            )
            or (
                isinstance(right, (str, list, tuple))
                and isinstance(left, int)
                and len(right) * max(left, 0) > _MAX_SEQUENCE
            )
        ):
            raise self.refuse("a repetition too long to compute", node)
        if isinstance(op, ast.Add) and isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
            self.check_size(len(left) + len(right), node)
        if isinstance(op, ast.Mult) and isinstance(left, int) and isinstance(right, int):
            self.check_size(left.bit_length() + right.bit_length(), node)
        if isinstance(left, TaintedFloat) and isinstance(right, TaintedFloat):
            self.run.number_pairs += 1
        result = _BINARY[type(op)](left, right)
        if isinstance(result, str) and (isinstance(left, TaintedStr) or isinstance(right, TaintedStr)):
            return TaintedStr(result)
        if isinstance(left, ApiList) and isinstance(right, list) and isinstance(result, list):
            return ApiList(result)
        return _keep_number(result, left, right)

    def _ev_Compare(self, node: ast.Compare, frame: Frame) -> Any:
        left = self.eval(node.left, frame)
        result: Any = True
        for op, comparator in zip(node.ops, node.comparators, strict=True):
            right = self.eval(comparator, frame)
            result = self.compare(op, left, right, node)
            if self.run.explain and isinstance(result, bool):
                self._note_outcome(node, result)
            if isinstance(result, Opaque):
                if len(node.ops) > 1 and not self.truth(result, comparator):
                    return False
            elif not result:
                return False
            left = right
        return result

    def compare(self, op: ast.cmpop, left: Any, right: Any, node: ast.AST) -> Any:
        """One comparison. With an opaque operand the result is opaque, and tainted if the other operand is."""
        if isinstance(op, (ast.In, ast.NotIn)):
            found = self.contains(left, right, node)
            if isinstance(op, ast.In):
                return found
            if isinstance(found, Opaque):
                return Opaque(f"not {found.origin}", found.tainted, not found.default, None, found.is_parameter)
            return not found
        if isinstance(op, (ast.Is, ast.IsNot)):
            same = self._is(left, right)
            if isinstance(same, Opaque):
                return same
            return same if isinstance(op, ast.Is) else not same
        left_opaque = isinstance(left, Opaque) or (isinstance(left, TaintedStr) and left.is_opaque)
        right_opaque = isinstance(right, Opaque) or (isinstance(right, TaintedStr) and right.is_opaque)
        if left_opaque or right_opaque:
            tainted = is_tainted(left) or is_tainted(right)
            if tainted and isinstance(op, tuple(_NUMERIC_ORDER)) and not (is_tainted(left) and is_tainted(right)):
                number, other = (left, right) if not left_opaque else (right, left)
                if isinstance(number, (TaintedFloat, TaintedInt)):
                    # A score against an unknown limit: the labels are known, the threshold is not.
                    self.note(f"the score is compared with {_short(other)}, whose value is not in the source", node)
                    grows = isinstance(op, (ast.Gt, ast.GtE)) == (number is left)
                    return grows
            default = not isinstance(op, ast.NotEq)
            symbol = {ast.Eq: "==", ast.NotEq: "!="}.get(type(op), "<>")
            parameter = getattr(left, "is_parameter", False) or getattr(right, "is_parameter", False)
            return Opaque(f"{_short(left)} {symbol} {_short(right)}", tainted, default, None, parameter)
        if (
            isinstance(left, TaintedStr) != isinstance(right, TaintedStr)
            and isinstance(left, str)
            and isinstance(right, str)
        ):
            self.run.text_tests += 1 if left and right else 0
        if isinstance(op, (ast.Eq, ast.NotEq)):
            if isinstance(left, Instance) and isinstance(left.cls.lookup("__eq__"), FunctionValue):
                equal = self.truth(self.call(BoundMethod(left.cls.lookup("__eq__"), left), [right], {}, node), node)
            else:
                self._note_object_test(left, right, node)
                self.run.label_pairs += _is_label(left) and _is_label(right)
                equal = self._equal(left, right)
            return equal if isinstance(op, ast.Eq) else not equal
        if isinstance(left, (TaintedFloat, TaintedInt)) != isinstance(right, (TaintedFloat, TaintedInt)):
            self.run.number_tests += 1
        elif isinstance(left, TaintedFloat) and isinstance(right, TaintedFloat):
            self.run.number_pairs += 1
        if isinstance(left, EnumMember) or isinstance(right, EnumMember):
            left = left.value if isinstance(left, EnumMember) else left
            right = right.value if isinstance(right, EnumMember) else right
        return _NUMERIC_ORDER[type(op)](left, right)

    def note_label_sets(self, left: Any, right: Any) -> None:
        """Count a comparison of two sets of labels of the API: they come from two answers."""
        if isinstance(left, (set, frozenset)) and isinstance(right, (set, frozenset, list)):
            self.run.label_pairs += any(map(_is_label, left)) and any(map(_is_label, right))

    def _note_object_test(self, left: Any, right: Any, node: ast.AST) -> None:
        for one, other in ((left, right), (right, left)):
            if isinstance(one, (Record, Response)) and isinstance(other, str):
                self.bug("compares a string with an annotation object: never equal", node)
            if isinstance(one, ApiDict) and isinstance(other, str):
                self.bug("compares a string with a whole label dictionary: never equal", node)
            if isinstance(one, ApiList) and isinstance(other, str):
                self.bug("compares a string with the whole list of labels: never equal", node)

    def _equal(self, left: Any, right: Any) -> bool:
        if isinstance(left, EnumMember) and not isinstance(right, EnumMember):
            return bool(left.value == right) or (isinstance(left.name, TaintedStr) and left.name == right)
        if isinstance(right, EnumMember) and not isinstance(left, EnumMember):
            return self._equal(right, left)
        if isinstance(left, NativeFunction) and isinstance(right, NativeFunction):
            return left.name == right.name
        return bool(left == right)

    def _is(self, left: Any, right: Any) -> Any:
        if left is None or right is None:
            other = right if left is None else left
            # An opaque value that is tested for None is taken to be there; the search may flip it.
            return (
                Opaque(f"{other.origin} is None", other.tainted, False, None, other.is_parameter)
                if isinstance(other, Opaque)
                else other is None
            )
        if isinstance(left, Opaque) or isinstance(right, Opaque):
            return Opaque(f"{_short(left)} is {_short(right)}", is_tainted(left) or is_tainted(right))
        if isinstance(left, (str, int, float)) and isinstance(right, (str, int, float)):
            if isinstance(left, bool) != isinstance(right, bool):
                return False
            return left == right  # identity of equal constants: what CPython's interning gives in practice
        return left is right

    def contains(self, item: Any, container: Any, node: ast.AST) -> Any:
        """`item in container`."""
        if isinstance(container, Opaque):
            tainted = container.tainted or is_tainted(item)
            parameter = container.is_parameter or getattr(item, "is_parameter", False)
            return Opaque(f"{_short(item)} in {container.origin}", tainted, True, None, parameter)
        if isinstance(container, ApiDict) and isinstance(item, str):
            return self.api_dict_has(container, item)
        if isinstance(container, Instance):
            method = container.cls.lookup("__contains__")
            if isinstance(method, FunctionValue):
                return self.truth(self.call(BoundMethod(method, container), [item], {}, node), node)
            if container.cls.has_unknown_base() or container.is_parameter:
                return Opaque(f"{_short(item)} in object")
        if isinstance(container, Response):
            return True
        if isinstance(item, str) and item:
            if isinstance(item, TaintedStr) == isinstance(container, TaintedStr):
                against = not isinstance(container, str) and (
                    any(
                        isinstance(e, str) and isinstance(e, TaintedStr) != isinstance(item, TaintedStr)
                        for e in container
                    )
                    if isinstance(container, (list, tuple, set, frozenset, dict)) and len(container) < 2000
                    else False
                )
            else:
                against = isinstance(container, (TaintedStr, str)) or (
                    any(
                        isinstance(e, str) and isinstance(e, TaintedStr) != isinstance(item, TaintedStr)
                        for e in container
                    )
                    if isinstance(container, (list, tuple, set, frozenset, dict)) and len(container) < 2000
                    else False
                )
            self.run.text_tests += 1 if against else 0
            if _is_label(item) and isinstance(container, (list, tuple, set, frozenset, dict)) and len(container) < 2000:
                self.run.label_pairs += any(map(_is_label, container))
        if isinstance(container, str):
            if isinstance(item, Opaque):
                return Opaque(
                    f"{item.origin} in {_short(container)}", is_tainted(container), True, None, item.is_parameter
                )
            if isinstance(item, (Record, ApiDict)):
                self.bug("looks for an annotation object in a string", node)
            if not isinstance(item, str):
                raise TypeError("'in <string>' requires string as left operand")
            found = str.__contains__(container, item)
            if not found and (getattr(item, "is_opaque", False) or getattr(container, "is_opaque", False)):
                return Opaque(f"{_short(item)} in {_short(container)}", is_tainted(item) or is_tainted(container))
            return found
        if isinstance(item, Opaque) or (isinstance(item, TaintedStr) and item.is_opaque):
            if isinstance(container, (list, tuple, set, frozenset, dict)) and not container:
                return False
            parameter = getattr(item, "is_parameter", False)
            return Opaque(
                f"{_short(item)} in {_short(container)}",
                is_tainted(container) or is_tainted(item),
                True,
                None,
                parameter,
            )
        if isinstance(container, (list, tuple, deque)):
            if isinstance(container, ApiList):
                self.run.label_reads += 1
            for element in container:
                if element is item or (not isinstance(element, Opaque) and self._equal(element, item)):
                    return True
            if isinstance(item, str):
                if any(isinstance(e, Record) for e in container):
                    self.bug("looks for a string in a list of annotation objects: never found", node)
                elif any(isinstance(e, ApiDict) for e in container):
                    self.bug("looks for a string in a list of label dictionaries: never found", node)
            unknown = next((e for e in container if isinstance(e, Opaque)), None)
            if unknown is not None:
                return Opaque(
                    f"{_short(item)} in [{unknown.origin}, ...]", is_tainted(item) or is_tainted(container), False
                )
            return False
        if isinstance(container, (set, frozenset, dict)):
            if isinstance(item, (Record, Response)):
                self.bug("looks for an annotation object among strings: never found", node)
                return False
            if item in container:
                return True
            if isinstance(item, str) and any(isinstance(e, EnumMember) and self._equal(e, item) for e in container):
                return True  # class Bin(str, Enum)
            unknown = next((e for e in container if isinstance(e, Opaque)), None)
            if unknown is not None:
                return Opaque(
                    f"{_short(item)} in {{{unknown.origin}, ...}}", is_tainted(item) or is_tainted(container), False
                )
            return False
        if isinstance(container, ClassValue):
            return any(isinstance(v, EnumMember) and self._equal(v, item) for v in container.attributes.values())
        if isinstance(container, (range, type({}.keys()), type({}.values()), type({}.items()))):
            return self.contains(item, list(container), node)
        special = self.library.special_contains(container, item)
        if special is not MISSING:
            return special
        raise TypeError(f"argument of type '{type(container).__name__}' is not iterable")

    def bug(self, message: str, node: ast.AST) -> None:
        """Note something that looks like a mistake of the application."""
        self.run.bugs.setdefault(message, (getattr(node, "_path", ""), getattr(node, "lineno", 0)))

    def note(self, message: str, node: ast.AST) -> None:
        """Note an assumption."""
        self.run.notes.setdefault(message, (getattr(node, "_path", ""), getattr(node, "lineno", 0)))

    def _comprehension(
        self, generators: list[ast.comprehension], frame: Frame, emit: Callable[[Frame], bool | None]
    ) -> None:
        inner = Frame({}, frame.module, frame, frame.function)
        inner.global_names = frame.global_names

        def level(i: int) -> bool:
            if i == len(generators):
                self._step(generators[0].target)
                return bool(emit(inner))
            generator = generators[i]
            for item in self.iterate(self.eval(generator.iter, inner if i else frame), generator.iter):
                self.assign(generator.target, item, inner)
                for test in generator.ifs:
                    outcome = self.truth(self.eval(test, inner), test)
                    if self.run.explain:
                        self._note_outcome(test, outcome)
                    if not outcome:
                        break
                else:
                    if level(i + 1):
                        return True
            return False

        level(0)

    def _ev_ListComp(self, node: ast.ListComp | ast.GeneratorExp, frame: Frame) -> list[Any]:
        out: list[Any] = []
        self._comprehension(node.generators, frame, lambda inner: out.append(self.eval(node.elt, inner)))
        return out

    _ev_GeneratorExp = _ev_ListComp

    def _ev_SetComp(self, node: ast.SetComp, frame: Frame) -> set[Any]:
        out: set[Any] = set()
        self._comprehension(node.generators, frame, lambda inner: out.add(self.eval(node.elt, inner)))
        return out

    def _ev_DictComp(self, node: ast.DictComp, frame: Frame) -> dict[Any, Any]:
        out: dict[Any, Any] = {}

        def emit(inner: Frame) -> None:
            key = self.eval(node.key, inner)
            out[f"<{key.origin}>" if isinstance(key, Opaque) else key] = self.eval(node.value, inner)

        self._comprehension(node.generators, frame, emit)
        return out

    def _ev_Lambda(self, node: ast.Lambda, frame: Frame) -> FunctionValue:
        return self._make_function(node, frame, "lambda")

    def _ev_Await(self, node: ast.Await, frame: Frame) -> Any:
        return self.eval(node.value, frame)

    def _ev_Yield(self, node: ast.Yield, frame: Frame) -> Any:
        value = self.eval(node.value, frame) if node.value is not None else None
        target: Frame | None = frame
        while target is not None and target.yielded is None:
            target = target.parent
        if target is not None and target.yielded is not None:
            target.yielded.append(value)
        return Opaque("sent value")

    def _ev_YieldFrom(self, node: ast.YieldFrom, frame: Frame) -> Any:
        for item in self.iterate(self.eval(node.value, frame), node):
            if frame.yielded is not None:
                frame.yielded.append(item)
        return None

    # --- calls ------------------------------------------------------------------------------------------------------

    def _ev_Call(self, node: ast.Call, frame: Frame) -> Any:
        self._step(node)
        func = node.func
        if isinstance(func, ast.Name) and func.id == "super" and not node.args:
            return self._super(frame)
        if isinstance(func, ast.Name) and func.id in ("globals", "locals") and func.id not in frame.variables:
            return frame.module.variables if func.id == "globals" else frame.variables
        receiver: Any = MISSING
        if isinstance(func, ast.Attribute):
            receiver = self.eval(func.value, frame)
        else:
            callee = self.eval(func, frame)
        if isinstance(receiver, Instance) and func.attr == "__init__":  # type: ignore[attr-defined]
            receiver = MISSING
            callee = self.attribute(self.eval(func.value, frame), "__init__", node)  # type: ignore[attr-defined]
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for arg in node.args:
            if isinstance(arg, ast.Starred):
                value = self.eval(arg.value, frame)
                args.extend([value.derive("[i]")] if isinstance(value, Opaque) else self.iterate(value, node))
            else:
                args.append(self.eval(arg, frame))
        for keyword in node.keywords:
            value = self.eval(keyword.value, frame)
            if keyword.arg is None:
                if isinstance(value, dict):
                    kwargs.update({str(k): v for k, v in value.items()})
                elif isinstance(value, Opaque) and isinstance(receiver, str):
                    return Opaque(f"str.format({value.origin})", value.tainted)  # "{bucket}/{name}".format(**event)
            else:
                kwargs[keyword.arg] = value
        if receiver is not MISSING:
            name = func.attr  # type: ignore[attr-defined]
            if name == "__new__" and args and isinstance(args[0], ClassValue):
                maker = receiver.lookup(name) if isinstance(receiver, ClassValue) else MISSING
                return (
                    self.call(maker, args, kwargs, node) if isinstance(maker, FunctionValue) else Instance(args[0], {})
                )
            return self.call_method(receiver, name, args, kwargs, node)
        return self.call(callee, args, kwargs, node)

    def _super(self, frame: Frame) -> Any:
        at: Frame | None = frame
        while at is not None and at.function is None:
            at = at.parent
        if at is None or at.function is None or at.function.owner is None:
            return Opaque("super()")
        owner = at.function.owner
        args = at.function.node.args.args
        receiver = at.variables.get(args[0].arg) if args else None
        for base in owner.bases:
            if isinstance(base, ClassValue):
                view = Instance(base, receiver.attributes) if isinstance(receiver, Instance) else base
                if isinstance(view, Instance):
                    view.is_parameter = owner.has_unknown_base()
                return view
        return Opaque("super()")

    def call_method(self, receiver: Any, name: str, args: list[Any], kwargs: dict[str, Any], node: ast.Call) -> Any:
        """receiver.name(*args, **kwargs)."""
        if isinstance(receiver, Opaque):
            stored = self.run.store.get(f"{receiver.origin}.{name}", MISSING)
            if stored is not MISSING:
                return self.call(stored, args, kwargs, node)
            return self.opaque_call(receiver, name, args, kwargs, node)
        if isinstance(receiver, (ApiDict,)) and name == "get" and args and isinstance(args[0], str):
            return self.api_dict_field(receiver, args[0], node, args[1] if len(args) > 1 else kwargs.get("default"))
        if isinstance(receiver, (_PLAIN, deque)):
            return self.library.plain_method(self, receiver, name, args, kwargs, node)
        if isinstance(receiver, (Response, Record)):
            return self.library.message_method(self, receiver, name, args, kwargs, node)
        special = self.library.special_method(self, receiver, name, args, kwargs, node)
        if special is not MISSING:
            return special
        return self.call(self.attribute(receiver, name, node), args, kwargs, node)

    def call(self, callee: Any, args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
        """Call any value."""
        if isinstance(callee, FunctionValue):
            return self.call_function(callee, args, kwargs, node)
        if isinstance(callee, BoundMethod):
            return self.call_function(callee.function, [callee.receiver, *args], kwargs, node)
        if isinstance(callee, NativeFunction):
            return callee.call(self, args, kwargs, node)
        if isinstance(callee, ClassValue):
            return self.instantiate(callee, args, kwargs, node)
        if isinstance(callee, Opaque):
            return self.opaque_call(callee, None, args, kwargs, node)
        if isinstance(callee, NativeMethod):
            return self.library.plain_method(self, callee.receiver, callee.name, args, kwargs, node)
        if isinstance(callee, type) and issubclass(callee, BaseException):
            return _exception(callee.__name__, *args)
        if isinstance(callee, Instance):
            method = callee.cls.lookup("__call__")
            if isinstance(method, FunctionValue):
                return self.call_function(method, [callee, *args], kwargs, node)
            if callee.cls.has_unknown_base() or callee.is_parameter:
                return Opaque(f"{callee.cls.name}()()", any(map(is_tainted, args)))
        if callable(callee) and not isinstance(callee, (_PLAIN, Record, Response)):
            return callee(*args, **kwargs)  # functools.partial and operator.itemgetter objects of the library module
        raise TypeError(f"'{type(callee).__name__}' object is not callable")

    def call_function(self, function: FunctionValue, args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
        """Call a function of the application."""
        run = self.run
        if run.depth >= DEPTH_BUDGET:
            raise self.refuse(f"budget: more than {DEPTH_BUDGET} nested calls", node)
        frame = Frame({}, function.module, function.closure, function)
        self._bind(function, args, kwargs, frame)
        run.depth += 1
        try:
            if isinstance(function.node, ast.Lambda):
                return self.eval(function.node.body, frame)
            if function.is_generator:
                frame.yielded = []
            self._block(function.node.body, frame)
        finally:
            run.depth -= 1
        if function.is_generator:
            return frame.yielded
        return frame.returned

    def _bind(self, function: FunctionValue, args: list[Any], kwargs: dict[str, Any], frame: Frame) -> None:
        spec = function.node.args
        names = [a.arg for a in (*spec.posonlyargs, *spec.args)]
        variables = frame.variables
        for name, value in zip(names, args, strict=False):
            variables[name] = value
        if len(args) > len(names):
            if spec.vararg is None:
                raise TypeError(f"{function.name}() takes {len(names)} positional arguments but {len(args)} were given")
            variables[spec.vararg.arg] = tuple(args[len(names) :])
        elif spec.vararg is not None:
            variables[spec.vararg.arg] = ()
        known = {*names, *(a.arg for a in spec.kwonlyargs)}
        extra: dict[str, Any] = {}
        for name, value in kwargs.items():
            if name in known:
                variables[name] = value
            else:
                extra[name] = value
        if spec.kwarg is not None:
            variables[spec.kwarg.arg] = extra
        elif extra:
            raise TypeError(f"{function.name}() got an unexpected keyword argument {next(iter(extra))!r}")
        first_default = len(names) - len(function.defaults)
        for i, name in enumerate(names):
            if name not in variables:
                if i < first_default:
                    if any(isinstance(a, Opaque) and a.origin.endswith("[i]") for a in args):
                        variables[name] = Opaque(name, is_parameter=True)  # filled by *opaque
                        continue
                    raise TypeError(f"{function.name}() missing argument {name!r}")
                variables[name] = function.defaults[i - first_default]
        for arg in spec.kwonlyargs:
            if arg.arg not in variables:
                variables[arg.arg] = function.kw_defaults.get(arg.arg, Opaque(arg.arg, is_parameter=True))

    def instantiate(
        self, cls: ClassValue, args: list[Any], kwargs: dict[str, Any], node: ast.AST, lenient: bool = False
    ) -> Any:
        """Make an object of a class of the application. `lenient` fills missing constructor arguments opaquely."""
        if any(isinstance(v, EnumMember) for v in cls.attributes.values()) and args:
            for member in cls.attributes.values():
                if isinstance(member, EnumMember) and self._equal(args[0], member.value):
                    return member
            raise ValueError(f"not a valid {cls.name}")
        if any(n in ("Exception", "BaseException") or n.endswith("Error") for n in cls.base_names()[1:]):
            return ExceptionValue((*cls.base_names(), "Exception", "BaseException"), tuple(args))
        instance = Instance(cls, {}, is_parameter=False)
        maker = cls.lookup("__new__")
        if isinstance(maker, FunctionValue) and not lenient:  # a singleton
            made = self.call_function(maker, [cls, *args], kwargs, node)
            if not isinstance(made, Instance) or made.cls is not cls:
                return made
            instance = made
        if cls.is_dataclass:
            fields = [*_inherited_fields(cls)]
            for name, value in zip(fields, args, strict=False):
                instance.attributes[name] = value
            instance.attributes.update(kwargs)
            for name in fields:
                if name not in instance.attributes:
                    default = cls.lookup(name)
                    if isinstance(default, Opaque) and default.origin.startswith("field("):
                        default = Opaque(name)
                    if isinstance(default, NativeMethod):
                        default = self.call(default.receiver, [], {}, node)
                    if default is MISSING:
                        default = Opaque(name, is_parameter=True)
                    if isinstance(default, (list, dict, set)):
                        default = type(default)(default)
                    instance.attributes[name] = default
            post = cls.lookup("__post_init__")
            if isinstance(post, FunctionValue):
                self.call_function(post, [instance], {}, node)
            return instance
        init = cls.lookup("__init__")
        if isinstance(init, FunctionValue):
            if lenient:
                args, kwargs = self._opaque_arguments(init, skip_first=True)
                try:
                    self.call_function(init, [instance, *args], kwargs, node)
                except _CAUGHT:
                    instance.is_parameter = True
            else:
                self.call_function(init, [instance, *args], kwargs, node)
        elif lenient:
            instance.is_parameter = cls.has_unknown_base()
        elif cls.has_unknown_base():
            # A model of an object-relational mapper, a form, a message: its constructor keeps what it is given.
            instance.attributes.update(kwargs)
            instance.attributes.update({f"argument {i}": a for i, a in enumerate(args)})
        return instance

    # --- what lies outside the application --------------------------------------------------------------------------

    def opaque_call(
        self, receiver: Opaque, method: str | None, args: list[Any], kwargs: dict[str, Any], node: ast.AST
    ) -> Any:
        """A call that leaves the application: an ML API, or any other library."""
        origin = receiver.origin if method is None else f"{receiver.origin}.{method}"
        last = method if method is not None else origin.rsplit(".", 1)[-1]
        is_method = method is not None or (receiver.service is not None and last in prov.ALL_METHODS)
        answered = self._api_call(receiver, last, args, kwargs, node, is_method)
        if answered is not MISSING:
            return answered
        known = self.library.known_call(self, receiver, origin, last, args, kwargs, node)
        if known is not MISSING:
            return known
        self.run.opaque_calls += 1
        arguments = [*args, *kwargs.values()]
        tainted = receiver.tainted or any(map(is_tainted, arguments))
        if method in ("execute", "executemany") and tainted:
            self.run.asked.add(receiver.origin)
        tainted |= receiver.origin in self.run.asked and str(method).startswith("fetch")
        if method in _TEXT_METHODS:
            # Text that is not known stays so, however often labels are cut out of it; nothing leaves the application.
            last_call = f".{method}(the API's output)"
            origin = (
                receiver.origin
                if receiver.origin.endswith(last_call)
                else f"{receiver.origin}{last_call if tainted else f'.{method}()'}"
            )
            return Opaque(origin, tainted, True, None, receiver.is_parameter)
        self.effect("call", origin, args, kwargs, node)
        if last in ("choice", "choices", "sample") and args and isinstance(args[0], (list, tuple, set)):
            self.run.picks[(getattr(node, "_path", ""), getattr(node, "lineno", 0))] = frozenset(map(text_of, args[0]))
        service = prov.service_of_constructor(origin, args, kwargs)
        if service is None and receiver.service is not None and receiver.service.startswith(("rest.", "google.old_")):
            service = receiver.service
        # A message that an answer object is made of ("You have fruit and dairy") must stay whole to be taken apart later.
        longest = 120 if self.run.api_reached else 40
        is_text = bool(args) and isinstance(args[0], str) and len(args[0]) < longest
        text = f"{origin}({_short(args[0], longest)})" if is_text else f"{origin}()"
        if not self.library.is_local_model(origin):
            # What is computed from another model's output (numpy.argmax of its scores) is still that model's output.
            text = next(
                (
                    f"{origin}({a.origin})"
                    for a in arguments
                    if isinstance(a, Opaque) and self.library.is_local_model(a.origin)
                ),
                text,
            )
        return Opaque(text, tainted, True, service, receiver.is_parameter)

    def _api_call(
        self, receiver: Opaque, method: str, args: list[Any], kwargs: dict[str, Any], node: ast.AST, is_method: bool
    ) -> Any:
        service = receiver.service
        style = "attributes"
        name = method
        provider: str | None = None
        if method == "annotate" and service == "rest.vision":
            provider, style = "google.vision", "rest"
        elif service == "rest.language" and method in prov.REST_LANGUAGE_METHODS:
            provider, style, name = "google.language", "rest", prov.REST_LANGUAGE_METHODS[method]
        elif service == "google.old_vision" and method in prov.OLD_VISION_METHODS:
            provider, style = "google.vision", "old"
        elif service == "google.old_language" and method in prov.OLD_LANGUAGE_METHODS:
            provider, style = "google.language", "old"
        elif method in prov.PROVIDER_OF and is_method:
            wanted = prov.PROVIDER_OF[method]
            if service is not None:
                if service == wanted:
                    provider = wanted
            elif method in prov.DISTINCTIVE and self._may_be_client(receiver, wanted):
                provider = wanted
        elif method in ("post", "request", "urlopen", "Request") and any(
            isinstance(a, str) and ("vision.googleapis.com" in a or "language.googleapis.com" in a)
            for a in [*args, *kwargs.values()]
        ):
            url = next(a for a in [*args, *kwargs.values()] if isinstance(a, str) and "googleapis.com" in a)
            if method == "Request":
                asked = _features([*args, *kwargs.values()]) or set()
                return Opaque(f"request to {url}", service=f"url.{url}#{','.join(sorted(asked))}")
            provider, style = ("google.vision" if "vision." in url else "google.language"), "http"
            name = (
                "images:annotate"
                if "vision." in url
                else prov.REST_LANGUAGE_METHODS.get(url.split("?")[0].rsplit(":", 1)[-1], "analyze_sentiment")
            )
        elif (
            method == "urlopen" and args and isinstance(args[0], Opaque) and (args[0].service or "").startswith("url.")
        ):
            url, _, asked_text = (args[0].service or "")[4:].rpartition("#")
            body = {"features": [{"type": name} for name in asked_text.split(",") if name]}
            return self.opaque_call(Opaque("requests"), "post", [url], {"json": body}, node)
        if provider is None:
            return MISSING
        path = getattr(node, "_path", "")
        site = Site(path, getattr(node, "lineno", 0), getattr(node, "col_offset", 0), name, provider)
        self.run.api_reached = True
        self.run.opaque_calls += 1
        request = {
            k: v for k, v in kwargs.items()
            if k in ("max_results", "MaxLabels", "MinConfidence", "maxResults", "limit") and isinstance(v, (int, float))
        }  # fmt: skip
        if style == "old" and args and isinstance(args[0], int):
            request["limit"] = args[0]
        found_max = _find_max_results([*args, *kwargs.values()])
        if found_max is not None:
            request.setdefault("max_results", found_max)
        self.run.sites.setdefault(site, {}).update(request)
        features = (
            _features([*args, *kwargs.values()])
            if name in ("annotate_image", "batch_annotate_images", "annotate", "images:annotate", "annotate_text")
            else None
        )
        number = self.run.calls[site] = self.run.calls.get(site, 0) + 1
        if self.run.only_call is not None and number != self.run.only_call:
            site = replace(site, column=-number)  # another answer than the probed one: a neutral one
        return self._build_answer(site, name, style, features)

    def _may_be_client(self, receiver: Opaque, wanted: str) -> bool:
        """True if a receiver of unknown making may be the provider's client: the application imports that provider's library."""
        family = prov.PROVIDER_IMPORTS[wanted]
        if not (self.imports_google if family == "google" else self.imports_aws):
            return False
        root = receiver.origin.split(".")[0].split("(")[0]
        known = {
            "cv2",
            "numpy",
            "np",
            "requests",
            "PIL",
            "torch",
            "tensorflow",
            "tf",
            "keras",
            "azure",
            "openai",
            "spacy",
            "nltk",
        }
        return root not in known and "azure" not in receiver.origin

    def _build_answer(self, site: Site, name: str, style: str, features: set[str] | None) -> Any:
        if site.provider == "aws.rekognition":
            return self._aws_answer(site, name)
        if site.provider == "aws.comprehend":
            return self._comprehend_answer(site, name)
        if style == "old":
            if name in prov.OLD_VISION_METHODS:
                return self.labels_of(site, prov.OLD_VISION_METHODS[name], prov.google_labels)
            return Response(site, "old", features)
        if style in ("rest", "http"):
            body = self._rest_body(site, name, features)
            if style == "rest":
                return Record("Executable", {"execute": NativeFunction("execute", lambda ev, a, k, n: body)})
            return self.library.HttpAnswer(body)
        if name == "batch_annotate_images":
            return Record("Batch", {"responses": ApiList([Response(site, "attributes", features)])})
        return Response(site, "attributes", features)

    def answer_of(self, site: Site, field_name: str) -> Answer:
        """What the API answers in this run for one field; reading a field is noted."""
        run = self.run
        key = (site, field_name)
        run.seen.setdefault(key)
        if run.target == key:
            return run.answer
        spec = FIELDS[field_name]
        if spec.kind == "numbers":
            return Answer(numbers={name: 0.0 for name, _, _ in spec.variables})
        if spec.kind == "single":
            return Answer([("NEUTRAL", 0.99)])
        if isinstance(run.neutral, dict):
            return Answer(list(run.neutral.get(key, ())))
        if run.target is None or run.neutral == "plain":
            return Answer([(NO_TOPIC if spec.vocabulary == "topic" else NO_LABEL, 0.99 * spec.scale)])
        return Answer()

    def labels_of(self, site: Site, field_name: str, build: Callable[[str, Answer], ApiList]) -> ApiList:
        """The list of labels of one field, built in a provider's shape."""
        return build(field_name, self.answer_of(site, field_name))

    def response_field(self, response: Response, name: str, node: ast.AST) -> Any:
        """A field of an answer of Google's client libraries."""
        site = response.site
        method = site.method
        if name in ("label_annotations", "localized_object_annotations"):
            feature = "LABEL_DETECTION" if name == "label_annotations" else "OBJECT_LOCALIZATION"
            fits = {
                "label_detection": name == "label_annotations",
                "object_localization": name == "localized_object_annotations",
            }.get(method, method in ("annotate_image", "batch_annotate_images", "images:annotate", "annotate"))
            if response.features and feature not in response.features:
                fits = False
            return self.labels_of(site, name, prov.google_labels) if fits else ApiList()
        if name == "responses":
            return ApiList([response])
        if name in ("categories", "moderation_categories"):
            return self.labels_of(site, name, prov.google_labels)
        if name in ("document_sentiment", "sentiment") and site.provider == "google.language":
            return self._sentiment(site)
        if name == "sentences" and method in ("analyze_sentiment", "annotate_text"):
            text = Record("TextSpan", {"content": Opaque("sentence.text.content"), "begin_offset": 0})
            self.run.notes.setdefault(
                "the sentiment of every sentence is taken to be the document's", (site.path, site.line)
            )
            return ApiList([Record("Sentence", {"sentiment": self._sentiment(site), "text": text})])
        if name == "entities":
            return self._google_entities(site)
        if name == "error":
            return Record("Error", {"message": "", "code": 0, "details": ApiList()})
        if name == "language":
            return "en"
        if name == "_pb":
            return response
        if name in (
            "text_annotations",
            "full_text_annotation",
            "safe_search_annotation",
            "face_annotations",
            "web_detection",
            "logo_annotations",
            "landmark_annotations",
            "image_properties_annotation",
            "tokens",
        ):
            return Opaque(f"{site.provider}.{name}")
        if name in ("result",):
            return NativeFunction("result", lambda ev, a, k, n: response)
        raise AttributeError(name)

    def _sentiment(self, site: Site) -> Record:
        numbers = self.answer_of(site, "document_sentiment").numbers
        return Record("Sentiment", {k: TaintedFloat(numbers.get(k, 0.0)) for k in ("score", "magnitude")})

    def _google_entities(self, site: Site) -> ApiList:
        by = "entities.type"
        if self.run.target is not None and self.run.target[0] == site:
            by = self.run.target[1]
        numbers: dict[str, float] = {}
        if by == "entities.sentiment":
            numbers = self.run.answer.numbers
            self.run.seen.setdefault((site, "entities.sentiment"))
            return prov.google_entities(Answer([(NO_LABEL, 0.99)]), numbers, "entities.type")
        self.run.seen.setdefault((site, "entities.type"))
        self.run.seen.setdefault((site, "entities.name"))
        if site.method == "analyze_entity_sentiment":
            self.run.seen.setdefault((site, "entities.sentiment"))
        return prov.google_entities(self.answer_of(site, by if by in FIELDS else "entities.type"), numbers, by)

    def _aws_answer(self, site: Site, method: str) -> Any:
        out = ApiDict()
        out.site = site
        out["ResponseMetadata"] = {"HTTPStatusCode": 200}
        if method == "detect_labels":
            out["Labels"] = "Labels"
        elif method == "detect_moderation_labels":
            out["ModerationLabels"] = "ModerationLabels"
        elif method == "detect_faces":
            out["FaceDetails"] = "FaceDetails"
        else:
            return Opaque(f"{site.provider}.{method}()")
        return out

    def _comprehend_answer(self, site: Site, method: str) -> Any:
        out = ApiDict()
        out.site = site
        out["ResponseMetadata"] = {"HTTPStatusCode": 200}
        if method in ("detect_sentiment", "batch_detect_sentiment"):
            out["Sentiment"] = "Sentiment"
            out["SentimentScore"] = "SentimentScore"
            if method.startswith("batch"):
                out["Index"] = 0
                return {"ResultList": ApiList([out]), "ErrorList": []}
        elif method in ("detect_entities", "batch_detect_entities"):
            out["Entities"] = "Entities"
            if method.startswith("batch"):
                return {"ResultList": ApiList([out]), "ErrorList": []}
        elif method == "detect_key_phrases":
            out["KeyPhrases"] = "KeyPhrases"
        else:
            return Opaque(f"{site.provider}.{method}()")
        return out

    def api_dict_has(self, container: ApiDict, key: str) -> bool:
        """`key in answer`. The top level of an answer has its fields even when they are empty."""
        return dict.__contains__(container, key)

    def api_dict_field(self, container: ApiDict, key: str, node: ast.AST, default: Any) -> Any:
        """A key of a dictionary of an answer."""
        if not dict.__contains__(container, key):
            if default is not MISSING:
                return default
            raise KeyError(key)
        value = dict.__getitem__(container, key)
        if container.site is None or not isinstance(value, str) or value != key:
            return value
        site: Site = container.site
        made: Any
        if key == "Labels":
            target = self.run.target
            by = (
                "Labels.Parents"
                if target is not None and target[0] == site and target[1] == "Labels.Parents"
                else "Labels"
            )
            self.run.seen.setdefault((site, "Labels"))
            made = prov.aws_labels(by, self.answer_of(site, by))
        elif key == "ModerationLabels":
            target = self.run.target
            by = key
            if target is not None and target[0] == site and target[1].endswith("ParentName"):
                by = target[1]
            self.run.seen.setdefault((site, key))
            made = prov.aws_labels(by, self.answer_of(site, by))
        elif key == "FaceDetails":
            answer = self.answer_of(site, "FaceDetails.Emotions")
            emotions = ApiList([ApiDict(Type=TaintedStr(t), Confidence=TaintedFloat(s)) for t, s in answer.labels])
            face = ApiDict(Emotions=emotions, Confidence=TaintedFloat(99.0))
            for name in ("Smile", "Eyeglasses", "Sunglasses", "Beard", "Mustache", "EyesOpen", "MouthOpen", "Gender"):
                face[name] = {
                    "Value": Opaque(f"FaceDetails.{name}.Value"),
                    "Confidence": Opaque(f"FaceDetails.{name}.Confidence"),
                }
            for name in ("AgeRange", "BoundingBox", "Quality", "Pose", "Landmarks"):
                face[name] = Opaque(f"FaceDetails.{name}")
            other = ApiDict(face)
            other["Emotions"] = ApiList([ApiDict(Type=TaintedStr(NO_LABEL), Confidence=TaintedFloat(99.0))])
            made = ApiList([face, *[other] * answer.num_others])
        elif key == "Sentiment":
            labels = self.answer_of(site, key).labels
            made = TaintedStr(labels[0][0] if labels else "NEUTRAL")
        elif key == "SentimentScore":
            numbers = dict(self.answer_of(site, key).numbers)
            if self.run.target == (site, "Sentiment"):
                # The scores of the answer that is probed: an application may ask how sure the sentiment is.
                for name, score in self.answer_of(site, "Sentiment").labels[:1]:
                    numbers = {n: (score if n.upper() == name else (1 - score) / 3) for n in prov.SENTIMENT_SCORES}
                    # The label that nothing tests has a score too: `scores[sentiment.capitalize()]` must not fail on it.
                    numbers.update(dict.fromkeys((name, name.capitalize()), score))
            made = ApiDict({n: TaintedFloat(v) for n, v in numbers.items()})
        elif key in ("Entities", "KeyPhrases"):
            target = self.run.target
            fields = ["Entities.Type", "Entities.Text"] if key == "Entities" else ["KeyPhrases.Text"]
            by = target[1] if target is not None and target[0] == site and target[1] in fields else fields[0]
            for name in fields:
                self.run.seen.setdefault((site, name))
            made = ApiList()
            for text, score in self.answer_of(site, by).labels:
                entry = ApiDict(
                    Score=TaintedFloat(score), BeginOffset=Opaque("BeginOffset"), EndOffset=Opaque("EndOffset")
                )
                entry["Text"] = TaintedStr(text) if by.endswith("Text") else TaintedStr("something")
                entry["Type"] = TaintedStr(text) if by.endswith("Type") else TaintedStr("OTHER")
                made.append(entry)
        else:
            return value
        # The same answer is read several times: hand out one object, so that the application's changes to it stay.
        self.touch(container)
        dict.__setitem__(container, key, made)
        return made

    def _rest_body(self, site: Site, name: str, features: set[str] | None) -> Any:
        if site.provider == "google.vision":
            inner = ApiDict()
            if features is None or not features or "LABEL_DETECTION" in features:
                inner["labelAnnotations"] = self.labels_of(site, "label_annotations", prov.rest_labels)
            if features and "OBJECT_LOCALIZATION" in features:
                inner["localizedObjectAnnotations"] = self.labels_of(
                    site, "localized_object_annotations", prov.rest_labels
                )
            for key in (
                "safeSearchAnnotation",
                "faceAnnotations",
                "textAnnotations",
                "webDetection",
                "fullTextAnnotation",
                "logoAnnotations",
                "landmarkAnnotations",
                "imagePropertiesAnnotation",
            ):
                inner[key] = Opaque(f"google.vision.{key}")
            return {"responses": [inner]}
        out = ApiDict()
        if name == "analyze_sentiment":
            numbers = self.answer_of(site, "document_sentiment").numbers
            sentiment = ApiDict({k: TaintedFloat(numbers.get(k, 0.0)) for k in ("score", "magnitude")})
            out["documentSentiment"] = sentiment
            # The sentences of a REST answer are not read one by one here, so no note is made for them.
            out["sentences"] = ApiList([ApiDict(sentiment=sentiment, text=Opaque("sentence.text"))])
        elif name == "classify_text":
            out["categories"] = self.labels_of(site, "categories", prov.rest_labels)
        else:
            answer = self.answer_of(site, "entities.type")
            out["entities"] = ApiList(
                [
                    ApiDict(type=TaintedStr(t), name=TaintedStr("something"), salience=TaintedFloat(s))
                    for t, s in answer.labels
                ]
            )
        return out


def _bounded(values: range, ev: "Evaluator", node: ast.AST) -> Iterable[Any]:
    """Numbers of a range; a long one may be left early but not be gone through."""
    for count, value in enumerate(values):
        if count >= _MAX_SEQUENCE:
            raise ev.refuse(f"budget: a loop over more than {_MAX_SEQUENCE} numbers", node)
        yield value


def _live(values: list[Any]) -> Iterable[Any]:
    """Items of a list that the loop's body may change, as Python iterates it; at most a bounded number."""
    i = 0
    while i < len(values) and i < _MAX_SEQUENCE:
        yield values[i]
        i += 1


def _keep_number(result: Any, *operands: Any) -> Any:
    if any(isinstance(o, (TaintedFloat, TaintedInt)) for o in operands):
        if isinstance(result, bool):
            return result
        if isinstance(result, int):
            made = TaintedInt(result)
            made.is_count = any(getattr(o, "is_count", False) for o in operands)
            return made
        if isinstance(result, float):
            return TaintedFloat(result)
    return result


def _exception(name: str, *args: Any) -> ExceptionValue:
    import builtins

    cls = getattr(builtins, name, Exception)
    names = tuple(c.__name__ for c in cls.__mro__ if c is not object)
    return ExceptionValue(names, tuple(args))


def _as_value(error: BaseException) -> ExceptionValue:
    if isinstance(error, AppRaise):
        return error.value
    names = tuple(c.__name__ for c in type(error).__mro__ if c is not object)
    return ExceptionValue(names, (str(error),))


def _contains_yield(node: ast.AST) -> bool:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Yield, ast.YieldFrom)):
            return True
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)) and _contains_yield(
            child
        ):
            return True
    return False


def _assigned_names(statement: ast.stmt) -> list[str]:
    names = []
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names += [a.asname or a.name.split(".")[0] for a in node.names if a.name != "*"]
        elif isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            names.append(node.name)
    return names


def _as_load(target: ast.expr) -> ast.expr:
    cached: Any = getattr(target, "_load", None)
    if cached is None:
        owner: Any = target
        if isinstance(target, ast.Name):
            cached = ast.Name(target.id, ast.Load())
        elif isinstance(target, ast.Attribute):
            cached = ast.Attribute(target.value, target.attr, ast.Load())
        else:
            assert isinstance(target, ast.Subscript)
            cached = ast.Subscript(target.value, target.slice, ast.Load())
        ast.copy_location(cached, target)
        cached._path = getattr(target, "_path", "")
        owner._load = cached
    return cached


def _inherited_fields(cls: ClassValue) -> list[str]:
    fields: list[str] = []
    for base in cls.bases:
        if isinstance(base, ClassValue):
            fields += [f for f in _inherited_fields(base) if f not in fields]
    return fields + [f for f in cls.fields if f not in fields]


def _short(value: Any, longest: int = 40) -> str:
    if isinstance(value, Opaque):
        return value.origin
    text = repr(text_of(value)) if isinstance(value, str) else text_of(value)
    if is_tainted(value):
        text = "the API's output"
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _key_text(key: Any) -> str:
    return repr(str(key)) if isinstance(key, str) else _short(key)


def _is_label(value: Any) -> bool:
    return isinstance(value, TaintedStr) and value.is_api_text


def _features(values: list[Any]) -> set[str]:
    """Vision features named anywhere in a request; empty if none can be told."""
    names = {1: "FACE_DETECTION", 2: "LANDMARK_DETECTION", 3: "LOGO_DETECTION", 4: "LABEL_DETECTION", 5: "TEXT_DETECTION",
             6: "SAFE_SEARCH_DETECTION", 7: "IMAGE_PROPERTIES", 10: "WEB_DETECTION", 11: "DOCUMENT_TEXT_DETECTION",
             19: "OBJECT_LOCALIZATION"}  # fmt: skip
    found: set[str] = set()

    def visit(value: Any, key: str = "", depth: int = 0) -> None:
        if depth > 7:
            return
        if isinstance(value, dict):
            for k, v in value.items():
                visit(v, str(k), depth + 1)
        elif isinstance(value, (list, tuple)):
            for v in value:
                visit(v, key, depth + 1)
        elif (
            isinstance(value, str)
            and value.upper() == value
            and (value.endswith("_DETECTION") or value == "OBJECT_LOCALIZATION")
        ):
            found.add(str(value))
        elif (
            isinstance(value, str)
            and value.lstrip().startswith("{")
            and isinstance(value, TaintedStr)
            and value.payload is not None
        ):
            visit(value.payload, key, depth + 1)
        elif isinstance(value, int) and not isinstance(value, bool) and key in ("type", "type_"):
            if value in names:
                found.add(names[value])
        elif isinstance(value, Opaque):
            for match in re.findall(
                r"([A-Z]+(?:_[A-Z]+)*_DETECTION|OBJECT_LOCALIZATION|IMAGE_PROPERTIES)", value.origin
            ):
                found.add(match)
        elif isinstance(value, Record):
            visit(value._fields, key, depth + 1)

    for one in values:
        visit(one)
    return found


def _find_max_results(values: list[Any], depth: int = 0) -> int | None:
    for value in values:
        if isinstance(value, dict) and depth < 6:
            for key in ("max_results", "maxResults"):
                if isinstance(value.get(key), int):
                    return int(value[key])
            found = _find_max_results(list(value.values()), depth + 1)
            if found is not None:
                return found
        elif isinstance(value, (list, tuple)) and depth < 6:
            found = _find_max_results(list(value), depth + 1)
            if found is not None:
                return found
        elif isinstance(value, Record) and depth < 6:
            found = _find_max_results([value._fields], depth + 1)
            if found is not None:
                return found
    return None
