"""Tables to the letter, figures by their points and bytes, captions by what they must state."""

import hashlib
import io
import itertools
import math
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import plotting
from common.errors import ResultsError
from common.plotting import Column, Drawing, SeriesStyle, interval, number, to_csv, to_latex, to_markdown

ROOT = Path(__file__).resolve().parents[2]
RECORD = {
    "command": "python -m experiments.run +paper=p",
    "version": "0.1.0",
    "git": {"commit": "0123456789abcdef", "is_dirty": True},
    "machine": {"cpu_model": "Test | CPU", "threads_used": 2},
    "finished_at": "2026-01-02T00:00:00+00:00",
    "inputs": {"weights": "ab" * 32},
    "styles": {"ours": {"label": "Ours", "color": "#0072B2", "marker": "o"}},
}


def rows(**columns):
    base = {
        "paper": "p",
        "experiment": "e",
        "method": "ours",
        "method_args": "{}",
        "series": "Ours",
        "workload": "w",
        "model": "small",
        "data": "bundled",
        "item": ["0", "1", "0", "1"],
        "seed": [0, 0, 1, 1],
        "scale": "cpu",
        "metric": "ttft",
        "value": [1.0, 2.0, 3.0, 4.0],
        "unit": "s",
        "basis": "measured",
    }
    return pd.DataFrame(base | columns)


def drawing(**changes):
    with plotting.use_style():
        figure, grid = plotting.panels()
        grid[0, 0].plot([1, 2], [3, 4], label="x")
        plotting.legend(figure)
    points = pd.DataFrame({"x": [1.0, 2.0], "value": [3.0, 1 / 3]})
    return Drawing(**{"figure": figure, "points": points, "rows": rows(), "title": "Title", "text": "Text."} | changes)


# ----------------------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.4123, "0.412"),
        (0.9996, "1.00"),
        (2.0, "2.00"),
        (1234.5, "1,234"),
        (0.00012345, "0.000123"),
        (0.00001234, "1.23e-05"),
        (12345678.0, "1.23e+07"),
        (-0.5, "-0.500"),
        (math.inf, "∞"),
        (-math.inf, "-∞"),
    ],
)
def test_number(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("triple", "text"),
    [
        ((2.613, 2.479, 2.752), "2.61 (2.48 to 2.75)"),
        ((0.013, -0.0624, 0.0999), "0.0130 (-0.0624 to 0.0999)"),
        ((99.2, 98.4, 100.7), "99 (98 to 101)"),
        ((0.0, 0.0, 0.0), "0 (0 to 0)"),
        ((1.0, -math.inf, math.inf), "1.00 (no interval)"),
        ((0.0001, -0.00001, 1.5), "0.00 (0.00 to 1.50)"),
        ((1.2e-6, 1.1e-6, 1.3e-6), "1.20e-06 (1.10e-06 to 1.30e-06)"),
    ],
)
def test_interval(triple, text):
    assert interval(*triple) == text


def test_interval_with_unit():
    assert interval(2.6, 2.5, 2.7, suffix="x") == "2.60x (2.50 to 2.70)"


@given(st.floats(-1e300, 1e300))
def test_a_number_as_shown_is_near_the_number(value):
    shown = float(number(value).replace(",", ""))
    assert shown == pytest.approx(value, rel=0.006)


TABLE = pd.DataFrame(
    {"method": ["a|b", "50 %_x"], "ttft": [0.4123, math.nan], "lo": [0.4, 0.0], "hi": [0.5, 0.0], "n": [12345, 3]}
)
COLUMNS = [
    Column("method", "Method"),
    Column("ttft", "TTFT", unit="s", low="lo", high="hi"),
    Column("n", unit="1"),
]


def test_markdown_table():
    assert to_markdown(TABLE, COLUMNS) == (
        "| Method | TTFT [s] | n |\n"
        "| --- | ---: | ---: |\n"
        "| a\\|b | 0.412 (0.400 to 0.500) | 12,345 |\n"
        "| 50 %_x |  | 3 |\n"
    )


def test_latex_table():
    text = to_latex(TABLE, COLUMNS)
    assert text.startswith("\\begin{tabular}{lrr}\n\\toprule\nMethod & TTFT [s] & n \\\\\n\\midrule\n")
    assert "50 \\%\\_x &  & 3 \\\\" in text
    assert text.endswith("\\bottomrule\n\\end{tabular}\n")
    assert plotting.tables.latex_escape("\\{}~^&#$") == (
        "\\textbackslash{}\\{\\}\\textasciitilde{}\\textasciicircum{}\\&\\#\\$"
    )


def test_csv_keeps_full_precision():
    frame = pd.DataFrame({"x": [0.1 + 0.2, 1 / 3], "name": ["a,b", 'c"d']})
    text = to_csv(frame)
    assert "\r" not in text
    back = pd.read_csv(io.StringIO(text))
    pd.testing.assert_frame_equal(back, frame, check_exact=True)


# ----------------------------------------------------------------------------------------------------------------- styles


def test_styles_come_from_the_record():
    styles = plotting.series_styles(rows(), [RECORD])
    assert styles == {"Ours": SeriesStyle("Ours", "#0072b2", "o")}
    newer = RECORD | {"styles": {"ours": {"label": "Ours", "color": "#ff0000", "marker": "s"}}}
    assert plotting.series_styles(rows(), [RECORD, newer])["Ours"].color == "#ff0000"


def test_variants_of_a_method_share_a_marker_and_differ_in_shade():
    variants = pd.concat(
        rows(series=f"Ours (ratio={ratio})", method_args=f'{{"ratio":{ratio}}}') for ratio in (0.5, 0.15, 1)
    )
    styles = plotting.series_styles(variants, [RECORD])
    assert list(styles) == ["Ours (ratio=0.15)", "Ours (ratio=0.5)", "Ours (ratio=1)"]
    assert {style.marker for style in styles.values()} == {"o"}
    assert len({style.color for style in styles.values()}) == 3
    assert styles["Ours (ratio=0.15)"].color == "#0072b2"


def test_methods_that_registered_the_same_look_are_told_apart():
    record = RECORD | {"styles": {name: {"label": name, "color": "#0072B2", "marker": "o"} for name in ("a", "b")}}
    both = pd.concat([rows(method="a", series="a"), rows(method="b", series="b")])
    styles = plotting.series_styles(both, [record])
    assert styles["a"].marker != styles["b"].marker


def test_a_method_without_a_registered_look_is_drawn_too():
    styles = plotting.series_styles(rows(method="stranger", series="stranger"), [RECORD])
    assert styles["stranger"].color
    assert styles["stranger"].marker


def test_the_basis_shows():
    assert plotting.linestyle("measured") == "-"
    assert plotting.linestyle("simulated") == "--"
    assert plotting.linestyle("measured+modelled") == plotting.linestyle("modelled") == ":"
    assert plotting.hatch("measured") == ""
    assert plotting.hatch("modelled") == "////"
    assert plotting.basis_suffix("measured") == ""
    assert plotting.basis_suffix("modelled+simulated") == " (modelled, simulated)"


POINTS = pd.DataFrame(
    {
        "series": ["m", "m", "s", "s"],
        "x": [2.0, 1.0, 1.0, 2.0],
        "value": [4.0, 3.0, 1.0, 2.0],
        "low": [3.0, 2.0, -math.inf, -math.inf],
        "high": [5.0, 3.5, math.inf, math.inf],
        "basis": ["measured", "measured", "simulated", "simulated"],
    }
)
STYLES = {
    "s": SeriesStyle("S", "#009e73", "s"),
    "m": SeriesStyle("M", "#0072b2", "o"),
    "absent": SeriesStyle("A", "k", "x"),
}


def test_lines_draw_the_points_in_order_with_dashes_for_simulated_ones():
    with plotting.use_style():
        figure, grid = plotting.panels()
        axes = grid[0, 0]
        plotting.lines(axes, POINTS, STYLES, "x")
        plotting.legend(figure)
    simulated, measured = axes.get_lines()
    assert list(measured.get_xdata()) == [1.0, 2.0]
    assert list(measured.get_ydata()) == [3.0, 4.0]
    assert measured.get_linestyle() == "-"
    assert simulated.get_linestyle() == "--"
    assert simulated.get_markerfacecolor() == "white"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["S (simulated)", "M"]


def test_error_bars_end_where_the_interval_does_and_unknown_ones_are_not_drawn():
    lengths = plotting.error_range(POINTS["value"], POINTS["low"], POINTS["high"])
    np.testing.assert_array_equal(lengths, [[1, 1, 0, 0], [1, 0.5, 0, 0]])


def test_bars_are_grouped_and_hatched():
    points = POINTS.assign(basis=["measured", "measured", "modelled", "modelled"])
    with plotting.use_style():
        _, grid = plotting.panels()
        plotting.grouped_bars(grid[0, 0], points, STYLES, "x")
    modelled, measured = (container for container in grid[0, 0].containers if hasattr(container, "patches"))
    assert {bar.get_hatch() for bar in modelled} == {"////"}
    assert not any(bar.get_hatch() for bar in measured)
    assert [bar.get_height() for bar in measured] == [4.0, 3.0]


def test_stacked_bars_start_where_the_last_part_ended():
    points = POINTS.assign(x=["top", "bottom", "bottom", "top"])
    with plotting.use_style():
        _, grid = plotting.panels()
        plotting.stacked_bars(grid[0, 0], points, STYLES, "x")
    bars = [(bar.get_x(), bar.get_width()) for bar in grid[0, 0].patches]
    assert bars == [(0, 1.0), (0, 2.0), (2.0, 4.0), (1.0, 3.0)]


def test_cdf_points():
    points = plotting.cdf_points([3.0, 1.0, 1.0, 2.0])
    assert points["x"].tolist() == [1.0, 2.0, 3.0]
    assert points["share"].tolist() == [0.5, 0.75, 1.0]


def test_numbers_of_a_paper_are_grey_and_say_so():
    with plotting.use_style():
        figure, grid = plotting.panels()
        plotting.paper_band(grid[0, 0], 2.2, 3.3, "2.2 to 3.3x")
        plotting.paper_band(grid[0, 0], 0.15, 0.15, "r = 15 %", vertical=True)
        plotting.legend(figure)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["paper: 2.2 to 3.3x", "paper: r = 15 %"]
    assert mpl.colors.to_hex(grid[0, 0].get_lines()[0].get_color()).upper() == plotting.PAPER_GREY


def test_the_style_ends_with_its_block(tmp_path):
    before = dict(mpl.rcParams)
    with plotting.use_style():
        assert mpl.rcParams["axes.grid"]
    assert dict(mpl.rcParams) == before


# ----------------------------------------------------------------------------------------------------------------- saving


def test_a_figure_is_saved_with_its_points_and_caption(tmp_path):
    paths = plotting.save_figure(drawing(), tmp_path / "out", "name", [RECORD], paper_ref="Fig. 12")
    assert [path.name for path in paths] == ["name.png", "name.pdf", "name.csv", "name.md"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in paths)
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert paths[1].read_bytes().startswith(b"%PDF")
    assert paths[2].read_text() == "x,value\n1.0,3.0\n2.0,0.3333333333333333\n"
    text = paths[3].read_text()
    for needed in (
        "# Title (Fig. 12)",
        "![Title](name.png)",
        "Text.",
        "| items (n) | w: 2 |",
        "| seeds | 0-1 |",
        "| basis | ttft: measured |",
        "| scale | cpu |",
        "| machine | Test \\| CPU, 2 compute threads |",
        "commit 0123456789ab with uncommitted changes",
        "finished 2026-01-02",
        "`python -m experiments.run +paper=p`",
        "weights abababababab",
        "p|ttft@1|w|model:small|scale:cpu|n:2|s:0-1|basis:measured|v:0.1.0",
    ):
        assert needed in text, needed


def test_smoke_results_are_marked_as_none(tmp_path):
    assert "shows that it runs, not a result" in plotting.caption(drawing(rows=rows(scale="smoke")), "n", [RECORD])
    assert "shows that it runs" not in plotting.caption(drawing(), "n", [RECORD])


def test_signature_of_mixed_rows_hides_nothing():
    mixed = rows(metric=["ttft", "ttft", "f1@2", "f1@2"], basis=["measured", "modelled", "measured", "measured"])
    assert plotting.signatures(mixed, []) == [
        "p|f1@2|w|model:small|scale:cpu|n:2|s:1|basis:measured|v:?",
        "p|ttft@1|w|model:small|scale:cpu|n:2|s:0|basis:measured,modelled|v:?",
    ]


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([3], "3"), ([2, 0, 1], "0-2"), ([0, 1, 5, 7, 8], "0-1,5,7-8"), ([1, 1], "1")]
)
def test_compact_range(numbers, text):
    assert plotting.compact_range(numbers) == text


def test_seeds_in_words():
    assert plotting.describe_seeds([3, 3]) == "seed 3"
    assert plotting.describe_seeds([1, 0]) == "seeds 0-1"
    assert plotting.sample_size(rows()) == "n = 2, seeds 0-1"


SAVE = """
import sys; sys.path.insert(0, "tests/common")
from pathlib import Path
import test_plotting as t
for path in t.plotting.save_figure(t.drawing(), Path(sys.argv[1]), "name", [t.RECORD]):
    print(t.hashlib.sha256(path.read_bytes()).hexdigest())
"""


def test_the_same_points_give_the_same_bytes_in_every_process(tmp_path):
    assert hashlib
    runs = [
        subprocess.run(
            [sys.executable, "-c", SAVE, str(tmp_path / name)],
            cwd=ROOT,
            env={"PATH": "/usr/bin", "HOME": str(tmp_path), "TZ": zone, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for name, zone, hash_seed in (("a", "UTC", "1"), ("b", "Asia/Tokyo", "2"))
    ]
    assert runs[0] == runs[1]
    assert len(runs[0].split()) == 4


def test_a_figure_that_cannot_be_rendered_leaves_the_old_files(tmp_path, monkeypatch):
    paths = plotting.save_figure(drawing(), tmp_path, "name", [RECORD])
    before = [path.read_bytes() for path in paths]

    def broken(*_args, **_more):
        raise OSError("no space left")

    monkeypatch.setattr(plotting.save, "caption", broken)
    with pytest.raises(OSError, match="no space"):
        plotting.save_figure(drawing(points=pd.DataFrame({"x": [9.0]})), tmp_path, "name", [RECORD])
    assert [path.read_bytes() for path in paths] == before


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.011, 0.08, {"0.02", "0.05"}),
        (0.01, 3.0, {"0.01", "0.1", "1"}),
        (1.0, 1e5, {"1", "100", "$10^{4}$"}),
        (1e-7, 10.0, {"$10^{-5}$", "0.1"}),
    ],
)
def test_a_log_axis_has_few_plain_labels(low, high, labels):
    with plotting.use_style():
        _, grid = plotting.panels(1, 1, width_in=2.2)
        axes = grid[0, 0]
        axes.plot([low, high], [low, high])
        plotting.log_axis(axes, "x", "y")
        axes.figure.canvas.draw()
        shown = [label for label in axes.get_xticklabels() if label.get_text()]
        boxes = [label.get_window_extent() for label in shown if low / 2 <= label.get_position()[0] <= high * 2]
    assert {label.get_text() for label in axes.get_yticklabels()} >= labels
    assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(boxes))


def test_a_chart_that_would_be_empty_is_refused():
    points = pd.DataFrame(
        {"layer": [1.0, 2.0], "x": [1, 2], "value": [1, 2], "low": [1, 2], "high": [1, 2], "basis": "measured"}
    )
    styles = {"1": SeriesStyle("one", "#000000", "o")}  # the names of numbers, not the numbers
    with plotting.use_style():
        _, grid = plotting.panels(1, 1)
        with pytest.raises(ResultsError, match="has a style"):
            plotting.lines(grid[0, 0], points, styles, "x", by="layer")
