"""The results store: one directory per run, append-only, self-describing.

    <root>/<paper>/<experiment>-<config hash>-s<seed>/
        journal.jsonl    while the run is in progress: one line per finished item, each with its own checksum
        rows.parquet     when it is complete: one row = one number about one item
        run.json         written last; says what was run, with what, where, and how it ended

A run that was killed leaves its journal and is resumed from it; a run that failed also leaves `run.json` with
`"status": "failed"` and the error. Only complete runs are ever read. A directory is owned by one process at a time (a lock
file, released by the kernel even after kill -9), so any number of processes may write to one root.

Reading is done by `Results`, which refuses to average rows that differ in a key that was neither fixed nor kept.
This module imports neither torch nor any paper.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import json
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from common.errors import ConfigError, ResultsError

SCHEMA_VERSION = 1
PUBLISHED = "published"
"""Name of the folder under a results root that holds the committed results; runs never write there."""

Basis = Literal["measured", "simulated", "modelled"]
BASES: tuple[str, ...] = ("measured", "simulated", "modelled")

# Settings that say where or how often to run, not what: they never change a number, so they stay out of the run's identity.
VOLATILE_SETTINGS = ("results_dir", "figures_dir", "force", "draw", "seed", "plugins")
METHOD_SETTINGS = ("methods", "method_args")

_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("run_id", "paper", "experiment", "method", "method_args", "workload")]
    + [(name, pa.string()) for name in ("workload_args", "model", "data", "item")]
    + [("seed", pa.int64()), ("scale", pa.string()), ("factors", pa.string()), ("metric", pa.string())]
    + [("value", pa.float64()), ("unit", pa.string()), ("basis", pa.string())]
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One number about one item, as an experiment yields it.

    Attributes:
        metric: what was determined, e.g. "ttft"; the unit is a field of its own.
        value: the number. May be +inf (a frame that never arrived), never NaN.
        unit: "s", "B", "bit/s", "tokens" ...; ratios and fractions have unit "1".
        basis: "measured" (a clock or a byte count on this machine, or a score of really produced output), "simulated"
            (virtual time or a random model of the world) or "modelled" (a formula).
        method: the registered method's name; empty for numbers that belong to no method.
        factors: the swept variables, with units in their names: `{"bandwidth_mbps": 3.0}`.
        workload, method_args: override the run's own, for experiments that compare several.
    """

    metric: str
    value: float
    unit: str
    basis: Basis
    method: str = ""
    factors: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    workload: str | None = None
    method_args: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.basis not in BASES:
            raise ResultsError(f"basis {self.basis!r} of metric {self.metric!r} is not one of {', '.join(BASES)}.")
        if not self.unit:
            raise ResultsError(f"metric {self.metric!r} has no unit; use '1' for ratios and fractions.")
        if math.isnan(self.value):
            raise ResultsError(
                f"metric {self.metric!r} of method {self.method!r} is NaN; a failure must raise, not be stored."
            )
        # Numbers come from numpy and torch as types of their own, which JSON does not know.
        object.__setattr__(self, "value", float(self.value))
        factors = {name: factor.item() if hasattr(factor, "item") else factor for name, factor in self.factors.items()}
        for name, factor in factors.items():
            if not isinstance(factor, str | int | float):
                raise ResultsError(f"factor {name}={factor!r} must be a number or text.")
        object.__setattr__(self, "factors", factors)


@dataclasses.dataclass(frozen=True)
class ItemRows:
    """All rows of one finished item; committed together or not at all."""

    item: str
    rows: tuple[Row, ...]

    def __init__(self, item: str | int, rows: Iterable[Row]) -> None:
        object.__setattr__(self, "item", str(item))
        object.__setattr__(self, "rows", tuple(rows))


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. Raises TypeError for what JSON cannot hold."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def sha256_of(value: Any) -> str:
    """SHA-256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds either its former content or all of `data`, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@dataclasses.dataclass(frozen=True)
class RunIdentity:
    """What makes one run: everything that can change its numbers, and nothing else.

    Attributes:
        paper, experiment, seed, scale: as in the configuration.
        settings: the fully resolved settings, defaults included, without `VOLATILE_SETTINGS`; JSON types only.
    """

    paper: str
    experiment: str
    seed: int
    scale: str
    settings: Mapping[str, Any]

    @property
    def config_sha256(self) -> str:
        """Hash of the resolved settings: a changed default gives another id."""
        return sha256_of({"paper": self.paper, "experiment": self.experiment, "settings": dict(self.settings)})

    @property
    def base_sha256(self) -> str:
        """The same without methods and their knobs: runs that share it saw the same items and can share a figure."""
        shared = {key: value for key, value in self.settings.items() if key not in METHOD_SETTINGS}
        return sha256_of({"paper": self.paper, "experiment": self.experiment, "settings": shared})

    @property
    def run_id(self) -> str:
        """`<experiment>-<config hash, 12 digits>-s<seed>`."""
        return f"{self.experiment}-{self.config_sha256[:12]}-s{self.seed}"


class RunWriter:
    """Writes one run: a journal while it goes on, then `rows.parquet` and, last, `run.json`.

    Use as a context manager; entering takes the run's lock. Not for use by several threads.

        with RunWriter(root, identity, provenance) as run:
            if not run.is_complete:
                for item in items:
                    if item.id not in run.finished_items:
                        run.commit(ItemRows(item.id, rows))
                run.complete(wall_s=...)

    Args:
        root: results root; created if missing.
        identity: what is run.
        provenance: facts stored in run.json beside the identity (command, commit, machine, styles ...); JSON types.
        force: forget what an earlier attempt left, finished or not.
        on_wait: called once if another process has this run open, before waiting for it.
    """

    def __init__(
        self,
        root: Path,
        identity: RunIdentity,
        provenance: Mapping[str, Any],
        *,
        force: bool = False,
        on_wait: Callable[[], None] | None = None,
    ) -> None:
        if root.name == PUBLISHED:
            raise ConfigError(f"results_dir={root} is where published results live; write to another folder.")
        self.identity = identity
        self.directory = root / identity.paper / identity.run_id
        self._provenance = dict(provenance)
        self._lock = FileLock(root / identity.paper / f".{identity.run_id}.lock")
        self._force = force
        self._on_wait = on_wait
        self._finished: dict[str, list[dict[str, Any]]] = {}

    @property
    def _journal(self) -> Path:
        return self.directory / "journal.jsonl"

    def __enter__(self) -> "RunWriter":
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            if self._on_wait is not None:
                self._on_wait()
            self._lock.acquire()
        try:
            if self._force:
                for leftover in ("run.json", "rows.parquet", "journal.jsonl"):
                    (self.directory / leftover).unlink(missing_ok=True)
            if not self.is_complete:
                self._finished = dict(_read_journal(self._journal))
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()

    @property
    def is_complete(self) -> bool:
        """Whether a complete run with this identity is on disk."""
        record = _read_record(self.directory)
        return record is not None and record.get("status") == "complete"

    def read_record(self) -> dict[str, Any]:
        """The record on disk of this run.

        Raises:
            ResultsError: there is none, or it is damaged.
        """
        record = _read_record(self.directory)
        if record is None:
            raise ResultsError(f"run {self.identity.run_id} has no run.json yet.")
        return record

    @property
    def finished_items(self) -> frozenset[str]:
        """Items that an earlier, interrupted attempt or this one has committed."""
        return frozenset(self._finished)

    def commit(self, item_rows: ItemRows) -> None:
        """Append one finished item to the journal; when this returns it survives a crash of the machine.

        Raises:
            ResultsError: the item was committed before.
        """
        if item_rows.item in self._finished:
            raise ResultsError(f"item {item_rows.item!r} of {self.identity.run_id} was yielded twice.")
        rows = [dataclasses.asdict(row) for row in item_rows.rows]
        body = canonical_json({"item": item_rows.item, "rows": rows})
        line = f"{zlib.crc32(body.encode()):08x} {body}\n".encode()
        with open(self._journal, "ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._finished[item_rows.item] = rows

    def complete(self, wall_s: float, inputs: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Turn the journal into `rows.parquet`, write `run.json` last, and return the record.

        Args:
            wall_s: wall time of this attempt, in seconds.
            inputs: SHA-256 of every input (weights, traces, clips), by name.
        """
        if not any(self._finished.values()):
            raise ResultsError(f"run {self.identity.run_id} produced no rows; nothing was stored.")
        table = pa.Table.from_pylist(list(self._flat_rows()), schema=_SCHEMA)
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd")
        data = buffer.getvalue().to_pybytes()
        write_atomically(self.directory / "rows.parquet", data)
        record = self._record("complete", wall_s) | {
            "inputs": dict(inputs or {}),
            "num_items": len(self._finished),
            "num_rows": table.num_rows,
            "rows_sha256": hashlib.sha256(data).hexdigest(),
        }
        self._write_record(record)
        self._journal.unlink(missing_ok=True)
        return record

    def fail(self, error: BaseException, wall_s: float) -> None:
        """Leave `run.json` with status "failed" and the error; committed items stay for the next attempt."""
        text = f"{type(error).__name__}: {error}"
        self._write_record(self._record("failed", wall_s) | {"error": text, "num_items": len(self._finished)})

    def _write_record(self, record: Mapping[str, Any]) -> None:
        write_atomically(self.directory / "run.json", (json.dumps(record, indent=1, sort_keys=True) + "\n").encode())

    def _record(self, status: str, wall_s: float) -> dict[str, Any]:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return self._provenance | {
            "schema_version": SCHEMA_VERSION,
            "run_id": self.identity.run_id,
            "paper": self.identity.paper,
            "experiment": self.identity.experiment,
            "seed": self.identity.seed,
            "scale": self.identity.scale,
            "settings": dict(self.identity.settings),
            "config_sha256": self.identity.config_sha256,
            "base_sha256": self.identity.base_sha256,
            "status": status,
            "error": None,
            "finished_at": now,
            "wall_s": round(wall_s, 3),
        }

    def _flat_rows(self) -> Iterator[dict[str, Any]]:
        settings = self.identity.settings
        for item, rows in self._finished.items():
            for row in rows:
                args = row["method_args"]
                if args is None:
                    args = settings.get("method_args", {}).get(row["method"], {})
                yield {
                    "run_id": self.identity.run_id,
                    "paper": self.identity.paper,
                    "experiment": self.identity.experiment,
                    "method": row["method"],
                    "method_args": canonical_json(args),
                    "workload": settings.get("workload") or "" if row["workload"] is None else row["workload"],
                    "workload_args": canonical_json(settings.get("workload_args") or {}),
                    "model": (settings.get("model") or {}).get("name") or "none",
                    "data": (settings.get("data") or {}).get("name") or "none",
                    "item": item,
                    "seed": self.identity.seed,
                    "scale": self.identity.scale,
                    "factors": canonical_json(row["factors"]),
                    "metric": row["metric"],
                    "value": float(row["value"]),
                    "unit": row["unit"],
                    "basis": row["basis"],
                }


def _read_record(directory: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((directory / "run.json").read_text())
        if not isinstance(record, dict):
            raise json.JSONDecodeError("not an object", "", 0)
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ResultsError(
            f"{directory / 'run.json'} is damaged ({error}). Delete the folder and run it again."
        ) from error
    if record.get("schema_version") != SCHEMA_VERSION:
        raise ResultsError(
            f"{directory / 'run.json'} has schema version {record.get('schema_version')}, this version reads "
            f"{SCHEMA_VERSION}. Run it again with force=true."
        )
    return record


def _read_journal(path: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield (item, rows) of the intact lines, and cut off a torn tail so that appending continues after the last good line."""
    if not path.exists():
        return
    good_bytes = 0
    data = path.read_bytes()
    for line in data.splitlines(keepends=True):
        checksum, _, body = line.rstrip(b"\n").partition(b" ")
        if not line.endswith(b"\n") or checksum != f"{zlib.crc32(body):08x}".encode():
            break
        entry = json.loads(body)
        good_bytes += len(line)
        yield entry["item"], entry["rows"]
    if good_bytes < len(data):
        with open(path, "r+b") as file:
            file.truncate(good_bytes)


# ---------------------------------------------------------------------------------------------------------------- reading

SAMPLE_KEYS = ("item", "seed")
"""Keys over which numbers are samples of the same thing and may be averaged."""


class Results:
    """Stored rows of complete runs, as a frame with one column per key and one per factor (`factor.<name>`).

    Beside the stored columns there are `series` (the method, with the knobs in which stored variants of it differ), `label`,
    `base` (12 digits; the same base means the same items), `origin` ("published" or "local"), `finished_at`, `machine`.

    Does not modify what is on disk.
    """

    def __init__(
        self, frame: pd.DataFrame, records: Mapping[str, Mapping[str, Any]], skipped: Sequence[str] = ()
    ) -> None:
        self.frame = frame
        self.records = dict(records)
        self.skipped = tuple(skipped)

    @classmethod
    def load(cls, root: Path, paper: str | None = None) -> "Results":
        """Read every complete run under `root` and under `root/published`.

        Args:
            root: results root; a missing one reads as empty.
            paper: read this paper only.

        Raises:
            ResultsError: a complete run's rows do not match its record.
        """
        frames: list[pd.DataFrame] = []
        records: dict[str, dict[str, Any]] = {}
        skipped: list[str] = []
        for origin, base in (("published", root / PUBLISHED), ("local", root)):
            for path in sorted(base.glob(f"{paper or '[!.]*'}/*/run.json")):  # .publish-* is a publication in progress
                record = _read_record(path.parent)
                assert record is not None
                if record["status"] != "complete":
                    skipped.append(f"{path.parent}: {record['status']}: {record.get('error')}")
                    continue
                frames.append(_read_rows(path.parent, record, origin))
                records[f"{origin}/{record['paper']}/{record['run_id']}"] = record
        frame = pd.concat(frames, ignore_index=True) if frames else _empty_frame()
        return cls(_with_series(frame), records, skipped)

    def __len__(self) -> int:
        return len(self.frame)

    def only(self, **fixed: Any) -> "Results":
        """The rows whose keys have these values; a list allows any of several. Factors are spelt `factor.<name>`: use a dict."""
        return Results(_filter(self.frame, fixed), self.records, self.skipped)

    def newest(self, *, whole_runs: bool = False) -> "Results":
        """Keep, for each (paper, experiment, workload, model, data, scale), the newest set of runs that belong together.

        Runs belong together when they have the same `base` (items, sizes, everything but methods) and the same origin, so
        results of another machine or of an older configuration are never mixed in. Within the set a method that several
        runs contain is taken from the newest of them, seed by seed.

        Args:
            whole_runs: keep all methods of all these runs. For paired comparisons: a method may have been run again without
                the one that it is to be compared with.
        """
        frame = self.frame
        if frame.empty:
            return self
        group = ["paper", "experiment", "workload", "model", "data", "scale"]
        # Stable: runs that finished within one second keep the order of `load`, published before local.
        in_time = frame.sort_values("finished_at", kind="stable")
        newest = in_time.groupby(group, sort=False)[["base", "origin"]].last().reset_index()
        frame = frame.merge(newest, on=[*group, "base", "origin"])
        if whole_runs:
            return Results(_with_series(frame), self.records, self.skipped)
        own = [*group, "method", "method_args", "seed"]
        latest_run = (
            frame.sort_values("finished_at", kind="stable").groupby(own, sort=False)["run_key"].last().reset_index()
        )
        return Results(_with_series(frame.merge(latest_run, on=[*own, "run_key"])), self.records, self.skipped)

    def select(self, keep: Sequence[str] = (), **fixed: Any) -> pd.DataFrame:
        """Rows with the fixed keys, checked to differ only in the kept keys, in items and in seeds.

        Args:
            keep: keys that the caller plots or groups by, e.g. `("series", "factor.ratio")`. "series" covers the method
                and its knobs.
            fixed: column = value, or column = list of values (each of which must then be kept or single).

        Returns:
            The matching rows; empty if there are none.

        Raises:
            ResultsError: rows would be averaged that differ in a key neither fixed to one value nor kept.
        """
        frame = _filter(self.frame, fixed)
        kept = set(keep) | ({"method", "method_args", "label"} if "series" in keep else set())
        keys = [
            column
            for column in (
                *("paper", "experiment", "method", "method_args", "workload", "workload_args", "model", "data"),
                *("scale", "metric", "unit", "basis", "base", "origin"),
                *(name for name in frame.columns if name.startswith("factor.")),
            )
            if column not in kept and column in frame
        ]
        for column in keys:
            values = frame[column].dropna().unique() if column.startswith("factor.") else frame[column].unique()
            has_gap = column.startswith("factor.") and frame[column].isna().any() and len(values) > 0
            if len(values) > 1 or has_gap:
                shown = ", ".join(map(repr, list(values)[:5])) + (", and rows without it" if has_gap else "")
                raise ResultsError(
                    f"these rows differ in {column!r} ({shown}): fix it with {column}=..., or plot it by adding it to keep."
                )
        return frame

    def paired(self, metric: str, method: str, baseline: str, keys: Sequence[str] = (), **fixed: Any) -> pd.DataFrame:
        """Values of two methods on the same item of the same run, side by side.

        Args:
            metric: which metric.
            method, baseline: registered names. Each must have one setting of its knobs among the rows.
            keys: further keys that must agree, e.g. `("factor.ratio",)`; factors that only one side has are not compared.
            fixed: as for `select`.

        Returns:
            A frame with columns item, seed, `keys`, method_value, baseline_value; empty if no run holds both.
        """
        both = self.only(metric=metric, **fixed)
        sides = [both.select(keep=[*keys, "base", "origin"], method=name) for name in (method, baseline)]
        merged = side_by_side(sides, keys).rename(columns={"value_0": "method_value", "value_1": "baseline_value"})
        return merged[["item", "seed", *keys, "method_value", "baseline_value"]]

    def records_of(self, frame: pd.DataFrame) -> list[Mapping[str, Any]]:
        """The run records behind the rows of `frame`, oldest first."""
        found = [self.records[key] for key in frame["run_key"].unique()] if len(frame) else []
        return sorted(found, key=lambda record: record["finished_at"])


def side_by_side(sides: Sequence[pd.DataFrame], keys: Sequence[str] = ()) -> pd.DataFrame:
    """Rows of several frames joined where run, item, seed and `keys` agree: with `finished_at`, value_0, value_1, ...

    A row without a partner in every frame is left out.
    """
    on = ["run_key", "item", "seed", *keys]
    merged = sides[0][[*on, "finished_at", "value"]].rename(columns={"value": "value_0"})
    for place, side in enumerate(sides[1:], start=1):
        merged = merged.merge(side[[*on, "value"]].rename(columns={"value": f"value_{place}"}), on=on)
    return merged


def _filter(frame: pd.DataFrame, fixed: Mapping[str, Any]) -> pd.DataFrame:
    keep = np.ones(len(frame), dtype=bool)
    for column, value in fixed.items():
        if column not in frame.columns:
            raise ResultsError(f"results have no key {column!r}; known: {', '.join(map(str, frame.columns))}")
        values = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
        keep &= frame[column].isin(values).to_numpy()
    return frame[keep]


def _read_rows(directory: Path, record: Mapping[str, Any], origin: str) -> pd.DataFrame:
    path = directory / "rows.parquet"
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ResultsError(
            f"{path} is missing although run.json says complete. Run it again with force=true."
        ) from error
    if hashlib.sha256(data).hexdigest() != record["rows_sha256"]:
        raise ResultsError(
            f"{path} is not the file that run.json describes (checksum differs). Run it again with force=true."
        )
    frame = pq.read_table(pa.BufferReader(data)).to_pandas()
    # Many rows share their factors: each distinct text is parsed once.
    codes, texts = pd.factorize(frame.pop("factors"))
    factors = [json.loads(text) for text in texts]
    for name in sorted({key for entry in factors for key in entry}):
        values = pd.Series([entry.get(name) for entry in factors])
        frame[f"factor.{name}"] = values.take(codes).set_axis(frame.index)
    styles = record.get("styles") or {}
    frame["label"] = frame["method"].map(lambda method: (styles.get(method) or {}).get("label", method))
    frame["base"] = record["base_sha256"][:12]
    frame["origin"] = origin
    frame["finished_at"] = record["finished_at"]
    frame["machine"] = (record.get("machine") or {}).get("cpu_model", "")
    frame["run_key"] = f"{origin}/{record['paper']}/{record['run_id']}"
    return frame


def _with_series(frame: pd.DataFrame) -> pd.DataFrame:
    """Add `series`: the label, followed by the knobs in which the stored variants of a method differ."""
    frame = frame.copy()
    names: dict[tuple[str, str], str] = {}
    pairs = frame[["method", "method_args", "label"]].drop_duplicates()
    for method, group in pairs.groupby("method", sort=False):
        variants = {text: json.loads(text) for text in group["method_args"].unique()}
        knobs = sorted({knob for args in variants.values() for knob in args})
        differing = [knob for knob in knobs if len({canonical_json(args.get(knob)) for args in variants.values()}) > 1]
        for text, label in group[["method_args", "label"]].itertuples(index=False):
            shown = ", ".join(f"{knob}={variants[text].get(knob)}" for knob in differing)
            names[str(method), text] = f"{label} ({shown})" if shown else label
    keys = ["method", "method_args"]
    variants_in_order = frame[keys].drop_duplicates().itertuples(index=False, name=None)
    shown_names = pd.Series([names[key] for key in variants_in_order], dtype="str")
    frame["series"] = shown_names.take(frame.groupby(keys, sort=False).ngroup().to_numpy()).to_numpy()
    return frame


def _empty_frame() -> pd.DataFrame:
    extra = ("label", "base", "origin", "finished_at", "machine", "run_key")
    return pd.DataFrame(columns=[*(name for name in _SCHEMA.names if name != "factors"), *extra])


def publish(root: Path, paper: str, scale: str = "cpu") -> list[Path]:
    """Copy the newest local runs of a paper into `root/published`.

    They replace what was published before for the same experiment, workload, model, data and scale; the rest stays.

    Returns:
        All directories that are now published for the paper.

    Raises:
        ResultsError: there is no complete local run of that paper at that scale.
    """
    results = Results.load(root, paper)
    local = results.only(origin="local", scale=scale).newest() if len(results) else results
    if not len(local):
        raise ResultsError(f"no complete local run of {paper} at scale={scale} under {root}; run it first.")
    target = root / PUBLISHED / paper
    group = ["experiment", "workload", "model", "data", "scale"]
    published = results.only(origin="published").frame
    replaced = published.merge(local.frame[group].drop_duplicates(), on=group)["run_key"]
    kept = published[~published["run_key"].isin(replaced)]
    # Everything lies ready before what is published moves aside, and that goes last: interrupted anywhere, nothing is lost.
    with tempfile.TemporaryDirectory(dir=root, prefix=".publish-") as folder:
        staging, former = Path(folder) / "new", Path(folder) / "former"
        staging.mkdir()
        for base, frame in ((target, kept), (root / paper, local.frame)):
            for run_id in frame["run_id"].unique():
                (staging / run_id).mkdir()
                for name in ("rows.parquet", "run.json"):
                    shutil.copy2(base / run_id / name, staging / run_id / name)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if target.exists():
                os.replace(target, former)
            os.replace(staging, target)
        except BaseException:
            if former.exists() and not target.exists():
                os.replace(former, target)
            raise
    return sorted(target.iterdir())
