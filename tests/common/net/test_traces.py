import json
import os
from pathlib import Path

import pytest

from common.errors import ConfigError, DataUnavailable
from common.net.presets import PRESETS, link_from_traces, preset
from common.net.rate import ConstantRate, DeliveryTrace, SteppedRate
from common.net.traces import FORMATS, BadTrace, read_trace

HEADER = "Timestamp,DL_bitrate,UL_bitrate,PINGAVG,PINGLOSS\n"
GOOD = {
    "mahimahi": "0\n0\n3\n10\n",
    "seconds_mbps": "0.0\t1.0\n1.5\t2.0\n2.0\t0.5\n",
    "per_second_mbps": "0.5,Mbits/sec\n250,Kbits/sec\n",
    "lll_cadvise": json.dumps([{"duration": 1, "clientIngress": 8000, "serverLatency": 80}] * 2, indent=1),
    "gnettrack": HEADER + "t0,1000,100,-,-\nt1,2000,0,80,10\nt2,0,50,-,-\n",
    "loss_pattern": "0\n1\n0\n0\n1\n",
    "network": "t_s,down_kbps,up_kbps,owd_ms,loss\n0,1000,100,50,0\n1,2000,200,50,0.5\n3,0,0,0,0\n",
}


def write(tmp_path, text, name="trace"):
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("format", FORMATS)
def test_each_format_is_recognised_and_read(tmp_path, format):
    trace = read_trace(write(tmp_path, GOOD[format]))
    assert trace.format == format
    assert read_trace(write(tmp_path, GOOD[format]), format) == trace


def test_values_by_hand(tmp_path):
    read = {format: read_trace(write(tmp_path, text)) for format, text in GOOD.items()}
    assert read["mahimahi"].down == DeliveryTrace((0, 0, 3, 10))
    assert read["seconds_mbps"].down == SteppedRate((1.5, 2.0), (2e6, 0.5e6))
    assert read["per_second_mbps"].down == SteppedRate((1.0, 2.0), (0.5e6, 0.25e6))
    assert read["lll_cadvise"].down == SteppedRate((1.0, 2.0), (8e6, 8e6))
    assert read["lll_cadvise"].delay_s == 0.08
    phone = read["gnettrack"]
    assert phone.down == SteppedRate((1.0, 2.0, 3.0), (1e6, 2e6, 0.0))
    assert (phone.delay_s, phone.loss.p) == (0.04, (0.0, 0.1, 0.1))
    assert read["loss_pattern"].loss.p == (0, 1, 0, 0, 1)
    own = read["network"]
    assert (own.down, own.up) == (SteppedRate((1.0, 3.0), (1e6, 2e6)), SteppedRate((1.0, 3.0), (1e5, 2e5)))
    assert (own.delay_s, own.loss.p, own.loss.slot_s) == (0.05, (0.0, 0.5, 0.5), 1.0)


@pytest.mark.parametrize(
    ("format", "text", "where"),
    [
        ("mahimahi", "0\n5\n4\n", "line 3"),
        ("mahimahi", "0\n-5\n", "line 2"),
        ("mahimahi", "0\n0\n", "> 0"),
        ("seconds_mbps", "0.0 1\n1.0 2\n0.5 3\n", "line 3"),
        ("seconds_mbps", "1.0 2\n2.0 -1\n", "line 2"),
        ("seconds_mbps", "1.0 2\n\n2.0 nan\n", "line 3"),
        ("seconds_mbps", "1.0 2\n2.0\n", "line 2"),
        ("per_second_mbps", "1,Mbits/sec\n1,furlongs\n", "line 2"),
        ("per_second_mbps", "1,Mbits/sec\nx,Mbits/sec\n", "line 2"),
        ("lll_cadvise", '[{"duration": 1}, ', "line 1"),
        ("lll_cadvise", '[{"duration": -1, "clientIngress": 1}]', "entry 0"),
        ("lll_cadvise", '[{"duration": 1, "clientIngress": "fast"}]', "entry 0"),
        ("gnettrack", "Timestamp,DL_bitrate\nt,1\n", "UL_bitrate"),
        ("gnettrack", HEADER + "t,1,1,-,-\nt,1,1,-,250\n", "line 3"),
        ("gnettrack", HEADER + "t,fast,1,-,-\n", "line 2"),
        ("loss_pattern", "0\n1\n2\n", "line 3"),
        ("network", "t_s,down_kbps\n0,1\n", "line 1"),
        ("network", "t_s,down_kbps,up_kbps,owd_ms,loss\n0,1,1,1,0\n2,1,1,1,0\n1,1,1,1,0\n", "line 4"),
        ("network", "t_s,down_kbps,up_kbps,owd_ms,loss\n0,1,1,1,1.5\n1,1,1,1,0\n", "line 2"),
        ("network", "t_s,down_kbps,up_kbps,owd_ms,loss\n0,1,1,1\n", "line 2"),
    ],
)
def test_bad_lines_are_refused_with_their_number(tmp_path, format, text, where):
    with pytest.raises(BadTrace, match=where):
        read_trace(write(tmp_path, text), format)


def test_missing_empty_unknown_and_binary(tmp_path):
    with pytest.raises(DataUnavailable, match="nowhere"):
        read_trace(tmp_path / "nowhere")
    with pytest.raises(BadTrace, match="empty"):
        read_trace(write(tmp_path, "\n\n"))
    with pytest.raises(ConfigError, match="not recognised"):
        read_trace(write(tmp_path, "hello world and more\n"))
    with pytest.raises(ConfigError, match="known"):
        read_trace(write(tmp_path, "1\n"), "pcap")
    path = tmp_path / "bytes"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadTrace, match="not a text file"):
        read_trace(path)


def test_missing_values_hold_on_and_are_counted(tmp_path):
    entries = [{"duration": 1, "clientIngress": 100}, {"duration": 1, "clientIngress": None}]
    trace = read_trace(write(tmp_path, json.dumps(entries)))
    assert (trace.down.bps, trace.num_missing) == ((1e5, 1e5), 1)


def test_links_from_traces_and_presets(tmp_path):
    down = write(tmp_path, GOOD["seconds_mbps"], "down")
    spec = link_from_traces(down, rtt_s=0.06)
    assert spec.rtt_s == pytest.approx(0.06)
    assert spec.up.rate == ConstantRate(spec.down.rate.mean_bps / 10)
    up = write(tmp_path, GOOD["mahimahi"], "up")
    assert link_from_traces(down, up).up.rate == DeliveryTrace((0, 0, 3, 10))
    # a download log's upload column is what was used, not what there was
    assert isinstance(link_from_traces(write(tmp_path, GOOD["gnettrack"], "log")).up.rate, ConstantRate)
    assert preset("train").link(1).rtt_s == pytest.approx(0.1)
    assert set(PRESETS) == {"stable", "walk", "bus", "train"}
    with pytest.raises(ConfigError, match="boat"):
        preset("boat")


@pytest.mark.skipif("NINEFOLD_DATA" not in os.environ, reason="NINEFOLD_DATA names no folder with recorded traces")
def test_every_recorded_trace_reads():
    paths = [path for path in (Path(os.environ["NINEFOLD_DATA"]) / "traces").rglob("*") if path.is_file()]
    assert paths
    for path in paths:
        trace = read_trace(path)
        assert trace.down is not None or trace.loss is not None


def test_a_byte_order_mark_is_no_part_of_a_trace(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf10\r\n20\r\n")
    assert read_trace(path).format == "mahimahi"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 100_000, "too deep"),
        ('[{"duration": 1, "clientIngress": 5, "serverLatency": "x"}]', "serverLatency is 'x'"),
        ('[{"duration": 1, "clientIngress": 5, "clientLatency": -9}]', "clientLatency is -9"),
        ('[{"duration": 1, "clientIngress": 5, "serverLatency": NaN}]', "serverLatency is nan"),
        ("\u00b2\n\u00b3\n", "not recognised"),
    ],
)
def test_odd_numbers_are_refused(tmp_path, text, problem):
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises((ConfigError, BadTrace), match=problem):
        read_trace(path)
