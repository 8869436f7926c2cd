"""Readers of recorded network traces. A bad line is refused with its number; nothing is repaired silently.

mahimahi         time in ms of one 1500-byte delivery opportunity
seconds_mbps     time in s and Mbit/s (Oboe, FCC, Norway 3G, Puffer); row i holds from the time before it to its own
per_second_mbps  "value,unit", one line a second (NYU-METS)
lll_cadvise      JSON list of {duration s, clientIngress kbit/s, serverLatency and clientLatency ms}
gnettrack        G-NetTrack CSV (5G, UCC): DL_bitrate, UL_bitrate in kbit/s once a second, PINGAVG ms, PINGLOSS %
loss_pattern     0 or 1: whether that audio packet was lost
network          our own CSV: t_s, down_kbps, up_kbps, owd_ms, loss; row i holds until the time of the next one
"""

import csv
import dataclasses
import io
import itertools
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path

from common.errors import ConfigError, CorruptBitstream, DataUnavailable
from common.net.loss import SlottedLoss
from common.net.rate import DeliveryTrace, Rate, SteppedRate


class BadTrace(CorruptBitstream):
    """A trace file that does not hold what its format says."""


@dataclasses.dataclass(frozen=True)
class Trace:
    """What a trace file says about a network; None where it says nothing.

    Attributes:
        name: the file's name.
        format: as in this module's list.
        down, up: rates towards the client and towards the server.
        delay_s: median one-way delay, half of the recorded round trip.
        loss: loss over time.
        num_missing: lines without a value, where the format allows that; the value before them holds on.
    """

    name: str
    format: str
    down: Rate | None = None
    up: Rate | None = None
    delay_s: float | None = None
    loss: SlottedLoss | None = None
    num_missing: int = 0


Lines = list[tuple[int, str]]


def read_trace(path: Path, format: str | None = None) -> Trace:
    """Read one trace file.

    Args:
        path: the file.
        format: a format of the list above; None: recognised from the first lines and the file's name.

    Raises:
        DataUnavailable: there is no such file.
        ConfigError: there is no such format, or it cannot be recognised.
        BadTrace: a line is not what the format says; the message names it.
    """
    if not path.is_file():
        raise DataUnavailable(f"trace {str(path)!r} does not exist.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadTrace(f"{path.name}: not a text file (byte {error.start}).") from error
    chosen = format or recognise(text, path.name)
    if chosen not in _READERS:
        raise ConfigError(f"trace format {chosen!r} is not known. Known: {', '.join(_READERS)}.")
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise BadTrace(f"{path.name}: the file is empty.")
    try:
        trace = _READERS[chosen](lines, path.name)
    except ConfigError as error:  # the values are readable but make no trace: all rates 0, say
        raise BadTrace(f"{path.name}: {error}") from error
    return dataclasses.replace(trace, name=path.name, format=chosen)


def recognise(text: str, name: str = "") -> str:
    """The format of a trace, from its beginning.

    Raises:
        ConfigError: it looks like none of them.
    """
    start = [line.strip() for line in text.splitlines()[:50] if line.strip()]
    if not start:
        raise BadTrace(f"{name or 'trace'}: the file is empty.")
    if start[0].startswith("["):
        return "lll_cadvise"
    if start[0].startswith("Timestamp,"):
        return "gnettrack"
    if start[0].replace(" ", "").startswith("t_s,"):
        return "network"
    if all(line in ("0", "1") for line in start) and (name.endswith("_is_lost.txt") or "1" in start[:40]):
        is_monotone = all(a <= b for a, b in itertools.pairwise(start))
        if name.endswith("_is_lost.txt") or not is_monotone:
            return "loss_pattern"
    if all(_is_whole(line) for line in start):
        return "mahimahi"
    if all(line.count(",") == 1 and not line.split(",")[1].strip()[:1].isdigit() for line in start):
        return "per_second_mbps"
    if len(start[0].replace(",", " ").split()) == 2:
        return "seconds_mbps"
    raise ConfigError(f"the format of {name or 'the trace'} is not recognised. Name one: {', '.join(_READERS)}.")


def _is_whole(text: str) -> bool:
    # isdigit alone also takes superscripts, which int() refuses.
    return text.isascii() and text.isdigit()


def _number(text: str, what: str, line: int, name: str, low: float = 0.0) -> float:
    try:
        value = float(text)
    except ValueError:
        raise BadTrace(f"{name}, line {line}: {what} is {text!r}, not a number.") from None
    if not math.isfinite(value) or value < low:
        raise BadTrace(f"{name}, line {line}: {what} is {text}; it must be finite and >= {low:g}.")
    return value


def _read_mahimahi(lines: Lines, name: str) -> Trace:
    times: list[int] = []
    for line, text in lines:
        if not _is_whole(text):
            raise BadTrace(f"{name}, line {line}: {text!r} is not a time in whole ms >= 0.")
        if times and int(text) < times[-1]:
            raise BadTrace(f"{name}, line {line}: time {text} ms lies before {times[-1]} ms of the line above.")
        times.append(int(text))
    return Trace(name, "", down=DeliveryTrace(tuple(times)))


def _read_seconds_mbps(lines: Lines, name: str) -> Trace:
    rows: list[tuple[float, float]] = []
    for line, text in lines:
        parts = text.replace(",", " ").split()
        if len(parts) != 2:
            raise BadTrace(f"{name}, line {line}: {text!r} is not a time in s and a rate in Mbit/s.")
        time_s, mbps = _number(parts[0], "time", line, name), _number(parts[1], "rate", line, name)
        if rows and time_s <= rows[-1][0]:
            raise BadTrace(f"{name}, line {line}: time {time_s} s is not after {rows[-1][0]} s of the line above.")
        rows.append((time_s, mbps))
    if rows[0][0] == 0:  # the recording's start: no interval ends there
        rows = rows[1:]
    return Trace(name, "", down=_stepped(rows))


def _stepped(rows: Iterable[tuple[float, float]], scale: float = 1e6) -> SteppedRate:
    pairs = list(rows)
    return SteppedRate(tuple(end for end, _ in pairs), tuple(value * scale for _, value in pairs))


def _read_per_second(lines: Lines, name: str) -> Trace:
    units = {"mbits/sec": 1.0, "kbits/sec": 1e-3, "bits/sec": 1e-6, "gbits/sec": 1e3}
    values = []
    for line, text in lines:
        value, _, unit = text.partition(",")
        if unit.strip().lower() not in units:
            raise BadTrace(f"{name}, line {line}: unit {unit.strip()!r} is none of {', '.join(units)}.")
        values.append(_number(value, "rate", line, name) * units[unit.strip().lower()])
    return Trace(name, "", down=_stepped(enumerate(values, 1)))


def _read_lll_cadvise(lines: Lines, name: str) -> Trace:
    text = "\n".join(line for _, line in lines)
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadTrace(f"{name}, line {lines[min(error.lineno, len(lines)) - 1][0]}: not JSON: {error.msg}.") from error
    except RecursionError as error:
        raise BadTrace(f"{name}: brackets within brackets, too deep for a trace.") from error
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise BadTrace(f"{name}: not a list of objects.")
    rows: list[tuple[float, float]] = []
    delays_ms, missing, end_s = [], 0, 0.0
    for place, entry in enumerate(entries):
        where = f"{name}, entry {place}"
        kbps = entry.get("clientIngress")
        if kbps is None:
            missing += 1
            kbps = rows[-1][1] if rows else 0.0
        latencies_ms = [entry.get(key) or 0.0 for key in ("serverLatency", "clientLatency")]
        for key, value in (
            ("duration", entry.get("duration")),
            ("clientIngress", kbps),
            ("serverLatency", latencies_ms[0]),
            ("clientLatency", latencies_ms[1]),
        ):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise BadTrace(f"{where}: {key} is {value!r}, not a number >= 0.")
        if entry["duration"] == 0:
            raise BadTrace(f"{where}: a duration of 0 s.")
        end_s += entry["duration"]
        rows.append((end_s, float(kbps)))
        delays_ms.append(float(sum(latencies_ms)))
    return Trace(name, "", down=_stepped(rows, 1e3), delay_s=_median(delays_ms) / 1000 or None, num_missing=missing)


def _read_gnettrack(lines: Lines, name: str) -> Trace:
    table = csv.DictReader(io.StringIO("\n".join(text for _, text in lines)))
    needed = ("DL_bitrate", "UL_bitrate", "PINGAVG", "PINGLOSS")
    absent = [column for column in needed if column not in (table.fieldnames or ())]
    if absent:
        raise BadTrace(f"{name}, line {lines[0][0]}: no column {', '.join(absent)}.")
    down: list[float] = []
    up: list[float] = []
    pings_ms: list[float] = []
    losses: list[float] = []
    missing = 0
    for (line, _), row in zip(lines[1:], table, strict=False):
        for column, values in (("DL_bitrate", down), ("UL_bitrate", up)):
            if row[column] in (None, "", "-"):
                missing += 1
                values.append(values[-1] if values else 0.0)
            else:
                values.append(_number(row[column], column, line, name))
        if row["PINGAVG"] not in (None, "", "-"):
            pings_ms.append(_number(row["PINGAVG"], "PINGAVG", line, name))
        if row["PINGLOSS"] not in (None, "", "-"):
            share = _number(row["PINGLOSS"], "PINGLOSS", line, name) / 100
            if share > 1:
                raise BadTrace(f"{name}, line {line}: PINGLOSS is {row['PINGLOSS']} %, more than 100.")
            losses.append(share)
        else:
            losses.append(losses[-1] if losses else 0.0)
    if not down:
        raise BadTrace(f"{name}: a header and no rows.")
    return Trace(
        name,
        "",
        down=_stepped(enumerate(down, 1), 1e3),
        # A log of a download may show no upload at all: then nothing is known about that direction.
        up=_stepped(enumerate(up, 1), 1e3) if max(up) > 0 else None,
        delay_s=_median(pings_ms) / 2000 if pings_ms else None,
        loss=SlottedLoss(tuple(losses), 1.0) if any(losses) else None,
        num_missing=missing,
    )


def _read_loss_pattern(lines: Lines, name: str) -> Trace:
    for line, text in lines:
        if text not in ("0", "1"):
            raise BadTrace(f"{name}, line {line}: {text!r} is neither 0 (received) nor 1 (lost).")
    # One line per audio packet; 20 ms is the packet length of the call that was recorded.
    return Trace(name, "", loss=SlottedLoss(tuple(float(text) for _, text in lines), 0.02))


def _read_network(lines: Lines, name: str) -> Trace:
    header = [column.strip() for column in lines[0][1].split(",")]
    expected = ["t_s", "down_kbps", "up_kbps", "owd_ms", "loss"]
    if header != expected:
        raise BadTrace(f"{name}, line {lines[0][0]}: the header is {','.join(header)}, not {','.join(expected)}.")
    rows: list[list[float]] = []
    for line, text in lines[1:]:
        parts = text.split(",")
        if len(parts) != len(expected):
            raise BadTrace(f"{name}, line {line}: {len(parts)} columns instead of {len(expected)}.")
        row = [_number(part.strip(), column, line, name) for part, column in zip(parts, expected, strict=True)]
        if row[4] > 1:
            raise BadTrace(f"{name}, line {line}: loss is {row[4]}, not a probability.")
        if rows and row[0] <= rows[-1][0]:
            raise BadTrace(f"{name}, line {line}: time {row[0]} s is not after {rows[-1][0]} s of the line above.")
        if not rows and row[0] != 0:
            raise BadTrace(f"{name}, line {line}: the first time is {row[0]} s, not 0.")
        rows.append(row)
    if len(rows) < 2:
        raise BadTrace(f"{name}: at least two rows are needed; the last one says where the trace ends.")
    # Row i holds from its own time to that of the next row; the last row only ends the trace.
    ends = [row[0] for row in rows[1:]]
    down, up = (tuple(row[column] for row in rows[:-1]) for column in (1, 2))
    slot_s = _common_step(ends)
    losses: list[float] = []
    for row, end in zip(rows[:-1], ends, strict=True):
        losses += [row[4]] * (round(end / slot_s) - len(losses))
    return Trace(
        name,
        "",
        down=_stepped(zip(ends, down, strict=True), 1e3),
        up=_stepped(zip(ends, up, strict=True), 1e3),
        delay_s=_median([row[3] for row in rows[:-1]]) / 1000,
        loss=SlottedLoss(tuple(losses), slot_s, random_phase=False) if any(losses) else None,
    )


def _common_step(ends_s: list[float]) -> float:
    step_ms = math.gcd(*(round(end * 1000) for end in ends_s))
    return max(step_ms, 1) / 1000


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


_READERS: dict[str, Callable[[Lines, str], Trace]] = {
    "mahimahi": _read_mahimahi,
    "seconds_mbps": _read_seconds_mbps,
    "per_second_mbps": _read_per_second,
    "lll_cadvise": _read_lll_cadvise,
    "gnettrack": _read_gnettrack,
    "loss_pattern": _read_loss_pattern,
    "network": _read_network,
}
FORMATS = tuple(_READERS)
