"""Claims: the file is checked strictly, numbers come from rows, verdicts from the rule, and nothing is made up."""

import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.results import Results, Row
from common.stats import Estimate
from paper_figures import papers
from paper_figures.claims import VERDICTS, Claim, PaperNumber, judge, load_claims, parse_claims
from paper_figures.claims.evaluators import EVALUATORS
from paper_figures.claims.table import count_verdicts, evaluate_claims, format_estimate, render
from tests.paper_figures.synthetic_runs import ttft_items, write_run

TTFT = """
- id: cacheblend-ttft
  statement: TTFT is lower
  paper: {low: 2.2, high: 3.3, unit: x, where: abstract}
  expect: at_least
  experiment: ttft_vs_quality
  ours: {ratio_of_medians: {metric: ttft, of: full_recompute, over: cacheblend}}
"""


def parse(text, paper="cacheblend"):
    return parse_claims(text, "claims/x.yaml", paper)


def evaluate(text, root, scale="cpu"):
    return evaluate_claims("cacheblend", parse(text), Results.load(root, "cacheblend"), scale)


# ---------------------------------------------------------------------------------------------------------------- verdicts


def claim(expect, low=None, high=None, no_effect=None):
    return Claim("p-c", "s", PaperNumber(low, high, "x", ""), expect=expect, no_effect=no_effect)


@pytest.mark.parametrize(
    ("interval", "expect", "range_", "no_effect", "verdict"),
    [
        ((2.2, 3.0), "at_least", (2.2, 3.3), 1.0, "holds"),
        ((5.0, 6.0), "at_least", (2.2, 3.3), 1.0, "holds"),  # beyond the paper's range, in the claimed direction
        ((2.19, 3.0), "at_least", (2.2, 3.3), 1.0, "same direction"),
        ((1.01, 1.2), "at_least", (2.2, 3.3), 1.0, "same direction"),
        ((1.0, 1.2), "at_least", (2.2, 3.3), 1.0, "does not hold"),  # touches "no effect"
        ((0.5, 0.6), "at_least", (2.2, 3.3), 1.0, "does not hold"),
        ((1.5, 2.0), "at_least", (2.2, 3.3), None, "does not hold"),  # without a point of no effect
        ((-math.inf, math.inf), "at_least", (2.2, 3.3), 1.0, "does not hold"),  # one item says nothing
        ((-0.01, 0.02), "at_most", (None, 0.02), None, "holds"),
        ((-0.01, 0.021), "at_most", (None, 0.02), None, "does not hold"),
        ((-0.5, -0.4), "at_most", (None, -0.3), 0.0, "holds"),
        ((-0.5, -0.1), "at_most", (None, -0.3), 0.0, "same direction"),
        ((-0.5, 0.1), "at_most", (None, -0.3), 0.0, "does not hold"),
    ],
)
def test_the_rule(interval, expect, range_, no_effect, verdict):
    estimate = Estimate(sum(interval) / 2, *interval, num_rows=10, num_units=10)
    assert judge(estimate, claim(expect, *range_, no_effect)) == verdict


@given(st.floats(-10, 10), st.floats(0, 10), st.floats(0, 10), st.floats(-5, 5))
def test_a_wider_interval_never_gives_a_better_verdict(low, width, more, bound):
    order = VERDICTS.index
    claim_ = claim("at_least", bound, None, no_effect=bound - 1)
    narrow = judge(Estimate(low, low, low + width, 9, 9), claim_)
    wide = judge(Estimate(low, low - more, low + width + more, 9, 9), claim_)
    assert order(wide) >= order(narrow)


# ------------------------------------------------------------------------------------------------------------------- files


def test_every_paper_with_figures_has_a_valid_claims_file():
    assert "cacheblend" in papers()
    for paper in papers():
        assert load_claims(paper), paper
    assert load_claims("no_such_paper") == []


def test_a_claim_is_read():
    (found,) = parse(TTFT)
    assert found.id == "cacheblend-ttft"
    assert found.bound == 2.2
    assert found.no_effect == 1.0
    assert str(found.paper) == "2.2 to 3.3x"
    assert parse("") == []


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ((2.2, 3.3, "x"), "2.2 to 3.3x"),
        ((0.71, 0.71, "%"), "71 %"),
        ((None, 0.02, "1"), "at most 0.02"),
        ((3, None, "s"), "at least 3 s"),
        ((None, None, "1"), "no number given"),
    ],
)
def test_the_papers_number_in_words(number, text):
    assert str(PaperNumber(*number, where="")) == text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("statement:", "statment:", r"unknown claim key 'statment'\. Did you mean 'statement'"),
        ("low: 2.2", "lo: 2.2", r"unknown paper key 'lo'\. Did you mean 'low'"),
        ("id: cacheblend-ttft", "id: ttft", "must start with 'cacheblend-'"),
        ("ratio_of_medians", "ratio_of_median", "Did you mean 'ratio_of_medians'"),
        ("over:", "ower:", "no knob 'ower'. Did you mean 'over'"),
        (", over: cacheblend", "", "needs a value for over"),
        ("over: cacheblend", "over: 3", "must be a method's name or a mapping"),
        ("metric: ttft", "metric: 3", "must be the name of a metric"),
        ("expect: at_least", "expect: more", "must be at_least or at_most"),
        ("low: 2.2, ", "", "needs paper.low"),
        ("low: 2.2", "low: 4.2", r"paper\.low=4\.2 is above"),
        ("low: 2.2", "low: true", "must be a number"),
        ("low: 2.2", "low: '2.2'", "must be a number"),
        (", where: abstract", "", "paper.where must be text"),
        ("experiment: ttft_vs_quality", "reason: x", "'experiment' is missing"),
        ("experiment: ttft_vs_quality", "experiment: 3", "experiment=3 must be text"),
        ("  ours:", "  not_ours:", "unknown claim key"),
        ("  ours: {ratio_of_medians: {metric: ttft, of: full_recompute, over: cacheblend}}", "", "give 'ours'"),
        (
            "{ratio_of_medians: {metric: ttft, of: full_recompute, over: cacheblend}}",
            "__import__('os')",
            "one evaluator",
        ),
        ("{metric: ttft, of: full_recompute, over: cacheblend}", "3", "needs arguments"),
        ("expect: at_least", "expect: at_least\n  expect: at_most", r"line \d+: key 'expect' is given twice"),
        ("expect: at_least", "expect: at_least\n  where: []", "'where' must be a mapping"),
        ("expect: at_least", "expect: at_least\n  pool: factor.layer", "lists of columns"),
        ("expect: at_least", "expect: at_least\n  no_effect: none", "no_effect='none' must be a number or null"),
        ("- id", "id", "is not YAML|list of mappings"),
        ("{low", "{{low", "is not YAML"),
    ],
)
def test_a_faulty_file_is_one_clear_line(old, new, message):
    assert old in TTFT
    with pytest.raises(ConfigError, match=message) as caught:
        parse(TTFT.replace(old, new))
    assert "\n" not in str(caught.value)
    assert "claims/x.yaml" in str(caught.value)


def test_an_id_is_used_once():
    with pytest.raises(ConfigError, match="used twice"):
        parse(TTFT + TTFT)


def test_a_claim_without_ours_says_why_and_nothing_else():
    text = "- {id: p-a, statement: s, paper: {unit: x, where: w}, not_testable: too small}"
    assert parse(text, "p")[0].not_testable == "too small"
    with pytest.raises(ConfigError, match="no meaning without 'ours'"):
        parse(text.replace("not_testable", "expect: at_least, not_testable"), "p")


# -------------------------------------------------------------------------------------------------------------- evaluating


def test_golden_numbers(tmp_path):
    """Two items; every evaluator's value worked out by hand."""
    values = {"a": (2.0, 6.0), "b": (1.0, 2.0), "c": (4.0, 8.0)}
    items = {
        str(item): [Row("m", values[name][item], "s", "simulated", method=name) for name in values] for item in (0, 1)
    }
    write_run(tmp_path, "e", items)
    expected = {
        "mean: {metric: m, of: a}": 4.0,
        "median: {metric: m, of: a}": 4.0,
        "ratio_of_medians: {metric: m, of: a, over: b}": 4 / 1.5,
        "median_of_ratios: {metric: m, of: a, over: b}": 2.5,
        "ratio_of_means: {metric: m, of: a, over: b}": 8 / 3,
        "relative_reduction: {metric: m, of: b, below: a}": 1 - 3 / 8,
        "difference_of_means: {metric: m, of: a, minus: b}": 2.5,
        "gap_closed: {metric: m, of: a, bottom: b, top: c}": 2.5 / 4.5,
    }
    assert {text.partition(":")[0] for text in expected} == set(EVALUATORS.names())
    for text, value in expected.items():
        body = f"{{id: cacheblend-a, statement: s, paper: {{low: 1, unit: x, where: w}}, expect: at_least, ours: {{{text}}}"
        (row,) = evaluate(f"- {body}, experiment: e}}", tmp_path)
        assert row.estimate.value == pytest.approx(value), text
        assert row.basis == "simulated"
        assert (row.num_items, row.seeds) == (2, "seed 0")
        assert row.verdict in ("holds", "same direction", "does not hold")


def test_a_ratio_from_synthetic_runs(tmp_path):
    for seed in range(3):
        write_run(tmp_path, "ttft_vs_quality", ttft_items(seed), seed=seed)
    (row,) = evaluate(TTFT, tmp_path)
    frame = Results.load(tmp_path).frame
    by_method = frame[frame["metric"] == "ttft"].groupby("method")["value"].median()
    assert row.estimate.value == pytest.approx(by_method["full_recompute"] / by_method["cacheblend"])
    assert row.estimate.low < row.estimate.value < row.estimate.high
    assert row.estimate.num_units == 20
    assert row.verdict == "holds"
    assert row.seeds == "seeds 0-2"
    assert row.basis == "measured"
    assert row.setting == {"workload": "multi_chunk_qa", "model": "small", "data": "bundled"}


def test_models_and_workloads_are_judged_apart(tmp_path):
    write_run(tmp_path, "ttft_vs_quality", ttft_items(0))
    slow = {
        item: [Row("ttft", 1.0, "s", "measured", method=m) for m in ("full_recompute", "cacheblend")] for item in "01"
    }
    write_run(tmp_path, "ttft_vs_quality", slow, model={"name": "big"})
    verdicts = {row.setting["model"]: row.verdict for row in evaluate(TTFT, tmp_path)}
    assert verdicts == {"small": "holds", "big": "does not hold"}
    (row,) = evaluate(TTFT + "  where: {model: big}\n", tmp_path)
    assert row.setting["model"] == "big"


def test_other_scales_do_not_count(tmp_path):
    write_run(tmp_path, "ttft_vs_quality", ttft_items(0), scale="smoke")
    (row,) = evaluate(TTFT, tmp_path)
    assert row.verdict == "not run"
    assert row.estimate is None
    assert row.note == "not run: `python -m experiments.run +paper=cacheblend experiment=ttft_vs_quality`"
    (row,) = evaluate(TTFT, tmp_path, scale="smoke")
    assert row.verdict == "holds"
    (row,) = evaluate(TTFT, tmp_path, scale="gpu")
    assert row.note.endswith("scale=gpu`")


@pytest.mark.parametrize("where", ["{workload: other}", "{factor.ratio: 0.15}", "{model: big}"])
def test_what_is_missing_is_not_run_and_never_a_zero(tmp_path, where):
    write_run(tmp_path, "ttft_vs_quality", ttft_items(0))
    (row,) = evaluate(TTFT + f"  where: {where}\n", tmp_path)
    assert (row.verdict, row.estimate) == ("not run", None)
    assert "+paper=cacheblend experiment=ttft_vs_quality" in row.note


def test_a_method_that_did_not_run_is_named(tmp_path):
    write_run(tmp_path, "ttft_vs_quality", ttft_items(0, methods=["cacheblend"]))
    (row,) = evaluate(TTFT, tmp_path)
    assert row.verdict == "not run"
    assert "method=full_recompute" in row.note


def test_methods_of_different_runs_are_not_paired(tmp_path):
    for method in ("cacheblend", "full_recompute"):
        write_run(tmp_path, "ttft_vs_quality", ttft_items(0, methods=[method]), methods=[method])
    (row,) = evaluate(TTFT, tmp_path)
    assert row.verdict == "not run"
    assert "run them in one command" in row.note


def test_a_method_run_again_alone_does_not_lose_the_comparison(tmp_path):
    write_run(tmp_path, "ttft_vs_quality", ttft_items(0), methods=["all"])
    write_run(tmp_path, "ttft_vs_quality", ttft_items(0, methods=["cacheblend"]), methods=["cacheblend"])
    (row,) = evaluate(TTFT, tmp_path)
    assert row.verdict == "holds"


def test_two_settings_of_a_method_are_not_mixed_and_a_knob_chooses(tmp_path):
    for ratio in (0.15, 0.3):
        args = {"cacheblend": {"ratio": ratio}}
        write_run(tmp_path, "ttft_vs_quality", ttft_items(int(ratio * 100)), method_args=args)
    (row,) = evaluate(TTFT, tmp_path)
    assert row.verdict == "cannot be computed"
    assert "differ in 'method_args'" in row.note
    chosen = TTFT.replace("over: cacheblend", "over: {method: cacheblend, knob.ratio: 0.3}")
    (row,) = evaluate(chosen, tmp_path)
    frame = Results.load(tmp_path).frame
    ours = frame[
        (frame["metric"] == "ttft") & (frame["method"] == "cacheblend") & frame["method_args"].str.contains("0.3")
    ]
    full = frame[
        frame["run_key"].isin(ours["run_key"]) & (frame["metric"] == "ttft") & (frame["method"] == "full_recompute")
    ]
    assert row.estimate.value == pytest.approx(full["value"].median() / ours["value"].median())
    (row,) = evaluate(chosen.replace("0.3", "0.7"), tmp_path)
    assert row.verdict == "not run"


def test_nothing_divided_by_nothing_is_not_testable_here_and_no_failure(tmp_path):
    names = ("full_recompute", "cacheblend")
    items = {str(item): [Row("ttft", 0.0, "s", "measured", method=name) for name in names] for item in range(6)}
    write_run(tmp_path, "ttft_vs_quality", items)
    (row,) = evaluate(TTFT, tmp_path)
    assert row.verdict == "not testable here"
    assert "0/0" in row.note


def factor_items():
    rng = np.random.default_rng(0)
    return {
        str(item): [
            Row(
                "ttft",
                speed * chunks * rng.lognormal(0, 0.05),
                "s",
                "measured",
                method=name,
                factors={"num_chunks": chunks},
            )
            for chunks in (3, 6)
            for name, speed in (("full_recompute", 1.0 * chunks), ("cacheblend", 1.0))
        ]
        for item in range(12)
    }


def test_factors_are_fixed_pooled_or_judged_apart(tmp_path):
    write_run(tmp_path, "ttft_vs_quality", factor_items())
    (row,) = evaluate(TTFT, tmp_path)
    assert row.verdict == "cannot be computed"
    assert "factor.num_chunks" in row.note
    (row,) = evaluate(TTFT + "  where: {factor.num_chunks: 6}\n", tmp_path)
    assert row.estimate.value == pytest.approx(6, rel=0.1)
    assert row.estimate.num_rows == 12
    (row,) = evaluate(TTFT + "  where: {factor.num_chunks: [3, 6]}\n", tmp_path)
    assert (row.estimate.num_rows, row.estimate.num_units) == (24, 12)
    (row,) = evaluate(TTFT + "  pool: [factor.num_chunks]\n", tmp_path)
    assert (row.estimate.num_rows, row.estimate.num_units) == (24, 12)
    assert evaluate(TTFT + "  pool: [factor.other]\n", tmp_path)[0].verdict == "not run"
    rows = evaluate(TTFT + "  per: [factor.num_chunks]\n", tmp_path)
    assert [row.setting["factor.num_chunks"] for row in rows] == [3, 6]
    assert [row.estimate.value for row in rows] == pytest.approx([3, 6], rel=0.1)


def test_sides_may_be_factors_and_metrics_of_no_method(tmp_path):
    items = {
        str(item): [
            Row("speedup", 4.0 + item / 10, "1", "measured"),
            Row("bound", 5.0, "1", "modelled"),
        ]
        for item in range(5)
    }
    write_run(tmp_path, "e", items)
    text = """
- id: cacheblend-bound
  statement: s
  paper: {low: 0.8, unit: "1", where: w}
  expect: at_least
  experiment: e
  ours: {ratio_of_medians: {metric: speedup, of: {method: ""}, over: {metric: bound}}}
"""
    (row,) = evaluate(text, tmp_path)
    assert row.estimate.value == pytest.approx(4.2 / 5)
    assert row.basis == "measured+modelled"


def test_several_values_of_one_item_are_refused(tmp_path):
    items = {
        "0": [
            Row("ttft", value, "s", "measured", method=m)
            for value in (1.0, 2.0)
            for m in ("full_recompute", "cacheblend")
        ]
    }
    write_run(tmp_path, "ttft_vs_quality", items)
    (row,) = evaluate(TTFT, tmp_path)
    assert row.verdict == "cannot be computed"
    assert "several values" in row.note


def test_not_testable_here_counts_at_gpu_scale(tmp_path):
    for scale in ("cpu", "gpu"):
        write_run(tmp_path, "ttft_vs_quality", ttft_items(0), scale=scale)
    text = TTFT + "  not_testable: needs a GPU\n"
    (row,) = evaluate(text, tmp_path)
    assert (row.verdict, row.note, row.estimate) == ("not testable here", "needs a GPU", None)
    (row,) = evaluate(text, tmp_path, scale="gpu")
    assert row.verdict == "holds"


def test_the_reason_is_shown_where_a_claim_fails_and_only_there(tmp_path):
    write_run(tmp_path, "ttft_vs_quality", ttft_items(0))
    (row,) = evaluate(TTFT + "  reason: too small\n", tmp_path)
    assert row.note == ""
    (row,) = evaluate(TTFT.replace("2.2", "22").replace("3.3", "33") + "  reason: too small\n", tmp_path)
    assert (row.verdict, row.note) == ("same direction", "too small")


# ------------------------------------------------------------------------------------------------------------------- table


def test_the_table_states_everything(tmp_path):
    write_run(tmp_path, "ttft_vs_quality", ttft_items(0))
    text = (
        TTFT
        + TTFT.replace("-ttft", "-percent")
        .replace("x, where", '"%", where')
        .replace("2.2", "0.5")
        .replace("3.3", "0.71")
        + "- {id: cacheblend-no, statement: big | models, paper: {unit: x, where: w}, not_testable: too big}\n"
        + TTFT.replace("-ttft", "-other").replace("ttft_vs_quality", "other")
    )
    rows = evaluate(text, tmp_path)
    files = render("cacheblend", rows, "cpu")
    assert sorted(files) == ["claims.csv", "claims.md", "claims.tex"]
    table = files["claims.md"]
    for needed in (
        "2 holds, 1 not testable here, 1 not run.",
        "| Claim | Paper | Setting | Ours (95 % CI) | n | Basis | Verdict |",
        "| TTFT is lower | 2.2 to 3.3x | multi_chunk_qa, model small, data bundled |",
        "20 items, seed 0 | measured | holds |",
        "| 50 to 71 % |",
        "big \\| models",
        "(not testable here): too big",
        "(not run): not run: `python -m experiments.run +paper=cacheblend experiment=other`",
        "Machine: Test CPU @ 2 GHz, 2 cores, 1 compute threads.",
        "CPU scale",
    ):
        assert needed in table, needed
    assert "x (" in format_estimate(rows[0])
    assert " % (" in format_estimate(rows[1])
    frame = pd.read_csv(io.BytesIO(files["claims.csv"].encode()))
    assert frame["value"].notna().tolist() == [True, True, False, False]
    assert frame["verdict"].tolist() == ["holds", "holds", "not testable here", "not run"]
    assert count_verdicts([]) == "no claims"


def test_one_item_decides_nothing(tmp_path):
    write_run(tmp_path, "ttft_vs_quality", ttft_items(0, num_items=1))
    (row,) = evaluate(TTFT + "  reason: too small\n", tmp_path)
    assert row.verdict == "not testable here"
    assert "experiment=ttft_vs_quality num_items=5`" in row.note
    assert "(no interval)" in format_estimate(row)


def test_few_items_are_marked(tmp_path):
    write_run(tmp_path, "ttft_vs_quality", ttft_items(0, num_items=4))
    assert "| 4 items, seed 0; too few: the interval is too narrow |" in table_of(tmp_path)
    write_run(tmp_path, "ttft_vs_quality", ttft_items(0, num_items=5))
    assert "| 5 items, seed 0 |" in table_of(tmp_path)


def table_of(root):
    return render("cacheblend", evaluate(TTFT, root), "cpu")["claims.md"]


def test_smoke_is_marked(tmp_path):
    write_run(tmp_path, "ttft_vs_quality", ttft_items(0), scale="smoke")
    table = render("cacheblend", evaluate(TTFT, tmp_path, "smoke"), "smoke")["claims.md"]
    assert "shows that it runs, not a result" in table


def test_claims_hold_no_number_of_ours():
    """What a claims file may contain is the paper's range; everything else that is a number is a filter or no_effect."""
    for paper in papers():
        for claim_ in load_claims(paper):
            assert claim_.paper.where, claim_.id
            assert claim_.ours is not None or claim_.not_testable, claim_.id
    assert Path(EVALUATORS.get("mean").__module__.replace(".", "/")).name == "evaluators"
