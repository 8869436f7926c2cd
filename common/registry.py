"""Names to classes: how methods, workloads, experiments, models and metrics are found.

    METHODS = Registry("cacheblend method", modules=["cacheblend.methods"])

    @METHODS.add("first_k", label="First k", color="tab:green", marker="s")
    @dataclass(frozen=True)
    class FirstK:
        k: int = 32

    METHODS.create("first_k", k=64)

The knobs of an entry are the fields of its (frozen) dataclass. The modules that register the built-in entries are imported
on first use, so importing an `api` module stays cheap.
"""

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from common.errors import ConfigError, UnknownName

T = TypeVar("T")

# Okabe-Ito, which stays apart in print and for the colour-blind; handed out in registration order where none is given.
_PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#8C6D31",
    "#5E4FA2",
    "#66A61E",
    "#7F7F7F",
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")


@dataclasses.dataclass(frozen=True)
class Style:
    """How an entry looks in every figure: legend label, matplotlib colour and marker."""

    label: str
    color: str
    marker: str


class Registry(Generic[T]):
    """A mapping from unique names to classes or functions of one kind.

    Args:
        kind: what an entry is, used in messages, e.g. "cacheblend method".
        modules: modules imported on first look-up; importing them registers the built-in entries.
    """

    def __init__(self, kind: str, modules: Sequence[str] = ()) -> None:
        self.kind = kind
        self._modules = tuple(modules)
        self._entries: dict[str, T] = {}
        self._styles: dict[str, Style] = {}
        self._loaded = False
        self._is_loading = False

    def add(
        self, name: str, *, label: str | None = None, color: str | None = None, marker: str | None = None
    ) -> Callable[[T], T]:
        """Register the decorated object under `name` and return it unchanged.

        Raises:
            ConfigError: the name is taken by another object. Re-executing the module that defined an entry (as a reload or
                a second import of the same plug-in does) replaces it.
        """

        def register(entry: T) -> T:
            known = self._entries.get(name)
            if known is not None and _origin(known) != _origin(entry):
                # A plug-in may register before the built-in entries are loaded; it is still the one to be renamed.
                ours, other = (entry, known) if self._is_loading else (known, entry)
                raise ConfigError(
                    f"{self.kind} {name!r} is already registered by {_origin(ours)}; "
                    f"give the one in {_origin(other)} another name."
                )
            index = len(self._styles)
            self._styles.setdefault(
                name,
                Style(
                    label or name.replace("_", " "),
                    color or _PALETTE[index % len(_PALETTE)],
                    marker or _MARKERS[index % len(_MARKERS)],
                ),
            )
            self._entries[name] = entry
            return entry

        return register

    def _load(self) -> None:
        if not self._loaded:
            # Set first: the modules import this registry and may look names up while they load.
            self._loaded = self._is_loading = True
            try:
                for module in self._modules:
                    importlib.import_module(module)
            except BaseException:
                self._loaded = False
                raise
            finally:
                self._is_loading = False

    def registered(self) -> dict[str, T]:
        """What has been registered up to now, without loading the built-in entries, which may take seconds."""
        return dict(self._entries)

    def names(self) -> list[str]:
        """All registered names, built-in ones in the order of their definition, then the others."""
        self._load()
        return list(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._entries

    def get(self, name: str) -> T:
        """The entry called `name`.

        Raises:
            UnknownName: no such entry; the message suggests the nearest names and lists the known ones.
        """
        self._load()
        if name not in self._entries:
            near = difflib.get_close_matches(str(name), self._entries, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UnknownName(f"unknown {self.kind} {name!r}.{hint} Known: {', '.join(sorted(self._entries))}")
        return self._entries[name]

    def style(self, name: str) -> Style:
        """Legend label, colour and marker of the entry called `name`."""
        self.get(name)
        return self._styles[name]

    def knobs(self, name: str) -> dict[str, Any]:
        """The fields of an entry with their defaults, in order; `dataclasses.MISSING` where a field has none."""
        entry = self.get(name)
        if not dataclasses.is_dataclass(entry):
            return {}
        found: dict[str, Any] = {}
        for field in dataclasses.fields(entry):
            if field.init:
                factory = field.default_factory
                found[field.name] = field.default if factory is dataclasses.MISSING else factory()
        return found

    def create(self, name: str, **knobs: Any) -> Any:
        """Build the entry called `name` with the given knobs.

        Raises:
            UnknownName: no such entry.
            ConfigError: a knob that it does not have, or a value that it refuses.
        """
        entry: Any = self.get(name)
        allowed = self.knobs(name)
        for knob in knobs:
            if knob not in allowed:
                near = difflib.get_close_matches(knob, allowed, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ConfigError(
                    f"{self.kind} {name!r} has no knob {knob!r}.{hint} Its knobs: {', '.join(allowed) or 'none'}"
                )
        missing = [knob for knob, default in allowed.items() if default is dataclasses.MISSING and knob not in knobs]
        if missing:
            raise ConfigError(f"{self.kind} {name!r} needs a value for {', '.join(missing)}.")
        try:
            return entry(**knobs)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{self.kind} {name!r} refuses {knobs}: {error}") from error

    def summary(self, name: str) -> str:
        """First line of the entry's own docstring, or an empty string (a dataclass's generated one does not count)."""
        entry = self.get(name)
        text = inspect.getdoc(entry) or ""
        generated = text.startswith(f"{getattr(entry, '__name__', '')}(")
        return "" if generated else text.partition("\n")[0]


def _origin(entry: object) -> str:
    return f"{getattr(entry, '__module__', '?')}.{getattr(entry, '__qualname__', repr(entry))}"
