"""Where an application is entered: module bodies and functions from which an ML API call can be reached."""

import ast
from dataclasses import dataclass

from chameleonapi.parser.providers import ALL_METHODS, DISTINCTIVE
from chameleonapi.parser.sources import Application

_URLS = ("vision.googleapis.com", "language.googleapis.com")


@dataclass(frozen=True)
class Entry:
    """One way into the application.

    Args:
        path: file of the application.
        name: "" for the module body, else a function, Class.method, or outer.<locals>.inner.
        line: where it is defined.
        rank: 0 for module bodies and functions that nothing calls (handlers handed to a library among them), 1 for those
            that only a module body mentions (it calls them or registers them as handlers), 2 for those that other functions call.
    """

    path: str
    name: str
    line: int
    rank: int


# Calls that run a function which they are given, and that the evaluator follows.
_FOLLOWED = (
    "submit", "map", "imap", "starmap", "filter", "sorted", "sort", "min", "max", "reduce", "partial", "apply", "apply_async",
    "run_in_executor", "to_thread", "spawn", "run", "run_sync", "run_until_complete", "create_task", "ensure_future",
    "run_coroutine_threadsafe", "gather", "wait_for", "Thread", "Process", "Timer", "defaultdict", "async_to_sync",
)  # fmt: skip


def _handed_over(trees: list[ast.Module]) -> set[str]:
    """Functions that are given to a library (a clock, a button, a broker) and that the application itself never calls."""
    given: set[str] = set()
    called: set[str] = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = _last_name(node.func)
                called.add(name)
                for value in [*node.args, *(k.value for k in node.keywords)]:
                    if isinstance(value, (ast.Name, ast.Attribute)):
                        (called if name in _FOLLOWED else given).add(_last_name(value))
    return given - called


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _references(nodes: list[ast.AST]) -> tuple[set[str], bool]:
    """Names used in some code, and whether it calls an ML API itself."""
    names: set[str] = set()
    calls = False
    for root in nodes:
        for node in ast.walk(root):
            if isinstance(node, ast.Name):
                names.add(node.id)
            elif isinstance(node, ast.Attribute):
                names.add(node.attr)
                if node.attr in ALL_METHODS and isinstance(node.ctx, ast.Load):
                    calls = True
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                # getattr(client, "label_detection")
                calls |= node.value in DISTINCTIVE or any(u in node.value for u in _URLS)
    return names, calls


def _own_code(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.AST]:
    defaults = [*function.args.defaults, *(d for d in function.args.kw_defaults if d is not None)]
    return [*function.body, *defaults]


def _inner_functions(outer: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [n for n in ast.walk(outer) if n is not outer and isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def find_entries(app: Application) -> tuple[list[Entry], bool]:
    """Entry points in the order in which they are tried, and whether any ML API call was seen at all."""
    functions: dict[tuple[str, str], tuple[ast.AST, set[str], bool]] = {}
    bodies: dict[str, tuple[set[str], bool, ast.Module]] = {}
    url_names: set[str] = set()
    for path, tree in app.trees.items():
        rest: list[ast.AST] = []
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                functions[(path, node.name)] = (node, *_references(_own_code(node)))
                rest += node.decorator_list
            elif isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)):
                        functions[(path, f"{node.name}.{inner.name}")] = (inner, *_references(_own_code(inner)))
                    else:
                        rest.append(inner)
            elif (
                isinstance(node, ast.Assign)
                and isinstance(node.value, ast.Lambda)
                and isinstance(node.targets[0], ast.Name)
            ):
                functions[(path, node.targets[0].id)] = (node.value, *_references([node.value.body]))
            else:
                rest.append(node)
                if isinstance(node, (ast.If, ast.Try, ast.With)):
                    for deep in ast.walk(node):
                        if isinstance(deep, (ast.FunctionDef, ast.AsyncFunctionDef)):
                            functions.setdefault((path, deep.name), (deep, *_references(_own_code(deep))))
        names, calls = _references(rest)
        bodies[path] = (names, calls, tree)
        for statement in tree.body:
            if isinstance(statement, ast.Assign):
                _, has_url = _references([statement.value])
                if has_url:
                    url_names.update(t.id for t in statement.targets if isinstance(t, ast.Name))
    reaching = {key for key, (_, names, calls) in functions.items() if calls or names & url_names}
    reaching_names = {key[1].rsplit(".", 1)[-1] for key in reaching}
    classes_of: dict[str, list[tuple[str, str]]] = {}
    for key in functions:
        if "." in key[1]:
            classes_of.setdefault(key[1].split(".")[0], []).append(key)
    changed = True
    while changed:
        changed = False
        for key in list(reaching):
            owner, _, method = key[1].rpartition(".")
            if owner and _is_dunder(method) and owner not in reaching_names:
                reaching_names.add(owner)  # calling, iterating or making an object of this class reaches the API
                changed = True
            if owner and method == "__init__":
                # The constructor keeps an object that reaches the API: any method may use it.
                for other in classes_of[owner]:
                    if other not in reaching:
                        reaching.add(other)
                        reaching_names.add(other[1].rsplit(".", 1)[-1])
                        changed = True
        for key, (_, names, _) in functions.items():
            if key not in reaching and names & reaching_names:
                reaching.add(key)
                reaching_names.add(key[1].rsplit(".", 1)[-1])
                changed = True
    called: set[str] = set()
    for key in reaching:
        names = functions[key][1]
        called |= {n for n in names if n != key[1].rsplit(".", 1)[-1]}
    mentioned: set[str] = set()
    ranked: list[Entry] = []
    for path, (names, calls, _) in bodies.items():
        if calls or names & reaching_names:
            ranked.append(Entry(path, "", 1, 0))
            mentioned |= names & reaching_names
    handed_over = _handed_over(list(app.trees.values()))
    for key in functions:
        if key in reaching:
            short = key[1].rsplit(".", 1)[-1]
            rank = 2 if short in called or _is_dunder(short) else 1 if short in mentioned else 0
            if short in handed_over and not _is_dunder(short):
                rank = 0
            ranked.append(Entry(key[0], key[1], getattr(functions[key][0], "lineno", 1), rank))
    for key, (outer, _, _) in functions.items():
        if key in reaching:
            for inner in _inner_functions(outer):
                names, calls = _references(_own_code(inner))
                is_given = bool(inner.decorator_list) or inner.name in handed_over
                if is_given and (calls or names & (reaching_names | url_names)):
                    ranked.append(Entry(key[0], f"{key[1]}.<locals>.{inner.name}", inner.lineno, 0))
    entries = sorted(ranked, key=lambda e: (e.rank, e.name != ""))
    seen_calls = bool(reaching) or any(calls for _, calls, _ in bodies.values())
    return entries, seen_calls
