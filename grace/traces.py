"""Bandwidth over time: seeded stand-ins for LTE and broadband traces, and recorded ones, scaled to the size of the pictures.

The paper streams 720p over 0.2 to 8 Mbit/s. Smaller pictures need less, so rates are scaled by a factor that every result names;
queue lengths and delays are not.
"""

import dataclasses
from pathlib import Path

import numpy as np
from numpy.random import Generator

from common.errors import ConfigError, DataUnavailable
from common.net.rate import DeliveryTrace, Rate, SteppedRate
from common.net.traces import read_trace

KINDS = ("lte", "broadband")
RECORDED = (
    "mahimahi/ATT-LTE-driving.down",
    "fcc/trace_12858_http---www.yahoo.com",
    "mahimahi/Verizon-LTE-short.down",
    "5g_ucc/Download_Driving_B_2020.02.13_13.03.24.csv",
    "mahimahi/ATT-LTE-driving-2016.down",
    "fcc/trace_5596_http---www.yahoo.com",
    "nyu_mets/7Train1.csv",
    "5g_ucc/Netflix_Driving_StrangerThings_B_2019.11.23_12.27.34.csv",
)
"""Recorded traces of a data root, relative to its folder traces/: LTE, broadband and 5G."""
STEP_S = 0.1
LEAST_BPS, MOST_BPS = 0.2e6, 8e6


def generated_rate(rng: Generator, kind: str, duration_s: float, scale: float) -> SteppedRate:
    """A random walk of the logarithm of the rate in steps of 100 ms, within the paper's 0.2 to 8 Mbit/s (inferred).

    Args:
        rng: of this trace.
        kind: "lte": strong variation and fades of 0.3 to 1.5 s to the lowest rates, every ten seconds or so; "broadband": mild.
        duration_s: length; it repeats.
        scale: factor on all rates.

    Raises:
        ConfigError: an unknown kind, or a scale that is not positive.
    """
    if kind not in KINDS or scale <= 0 or duration_s < STEP_S:
        raise ConfigError(f"no trace of kind {kind!r}, {duration_s} s, scale {scale}; kinds are {', '.join(KINDS)}.")
    steps = round(duration_s / STEP_S)
    is_lte = kind == "lte"
    correlation, spread = (0.97, 0.55) if is_lte else (0.99, 0.2)
    centre = np.log(3e6) + rng.normal() * 0.35
    noise = rng.normal(size=steps) * spread * np.sqrt(1 - correlation**2)
    value = rng.normal() * spread
    logs = np.empty(steps)
    for step in range(steps):
        value = correlation * value + noise[step]
        logs[step] = centre + value
    rates = np.exp(logs)
    if is_lte:
        at = rng.exponential(5.0)
        while at < duration_s:
            length = rng.uniform(0.3, 1.5)
            rates[int(at / STEP_S) : int((at + length) / STEP_S) + 1] *= rng.uniform(0.08, 0.3)
            at += length + rng.exponential(10.0)
    rates = np.clip(rates, LEAST_BPS, MOST_BPS) * scale
    ends = tuple((step + 1) * STEP_S for step in range(steps))
    return SteppedRate(ends, tuple(float(rate) for rate in rates))


def recorded_rate(path: Path, scale: float) -> SteppedRate:
    """A recorded trace's downward rate, scaled and held within 0.2 to 8 Mbit/s (times the scale), as the paper's traces are.

    Raises:
        DataUnavailable: no such file, or it says nothing about a downward rate.
    """
    trace = read_trace(path)
    if trace.down is None:
        raise DataUnavailable(
            f"trace {path} says nothing about a downward rate; give one of the formats in docs/net.md."
        )
    stepped = _stepped(trace.down)
    return dataclasses.replace(
        stepped, bps=tuple(float(np.clip(rate, LEAST_BPS, MOST_BPS)) * scale for rate in stepped.bps)
    )


def excerpt(rate: SteppedRate, start_s: float, length_s: float) -> SteppedRate:
    """So many seconds of a rate from a time on; it goes on from its beginning where it ends."""
    at = start_s % rate.duration_s
    place = int(np.searchsorted(rate.ends_s, at, side="right"))
    ends: list[float] = []
    rates: list[float] = []
    passed = 0.0
    while passed < length_s:
        passed += rate.ends_s[place] - at
        ends.append(min(passed, length_s))
        rates.append(rate.bps[place])
        at = rate.ends_s[place]
        place += 1
        if place == len(rate.ends_s):
            place, at = 0, 0.0
    return SteppedRate(tuple(ends), tuple(rates))


def _stepped(rate: Rate) -> SteppedRate:
    if isinstance(rate, SteppedRate):
        return rate
    if isinstance(rate, DeliveryTrace):
        steps = int(np.ceil(rate.duration_s / STEP_S))
        counts = np.bincount(
            (np.array(rate.opportunities_ms) / 1000 / STEP_S).astype(int).clip(0, steps - 1), minlength=steps
        )
        bps = counts * rate.OPPORTUNITY_BYTES * 8 / STEP_S
        return SteppedRate(tuple((step + 1) * STEP_S for step in range(steps)), tuple(float(value) for value in bps))
    return SteppedRate((1.0,), (rate.mean_bps,))


def step_drop(high_bps: float, low_bps: float, drops_s: tuple[tuple[float, float], ...], end_s: float) -> SteppedRate:
    """A high rate that falls to a low one in the given intervals (start, length)."""
    ends, rates = [], []
    for start, length in drops_s:
        ends += [start, start + length]
        rates += [high_bps, low_bps]
    return SteppedRate((*ends, end_s), (*rates, high_bps))
