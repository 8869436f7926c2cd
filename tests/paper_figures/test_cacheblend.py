"""Each figure of CacheBlend, from small synthetic runs of every experiment: the plotted points are what the rows say."""

import pandas as pd
import pytest

from common.results import Results
from paper_figures import draw, figures_of
from tests.paper_figures.synthetic_runs import write_all_cacheblend, write_all_cacheblend_storage

FIGURES = [spec.name for spec in figures_of("cacheblend")]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("cacheblend")
    write_all_cacheblend(root / "results")
    write_all_cacheblend_storage(root / "results")
    return draw("cacheblend", root / "results", root / "figures"), Results.load(root / "results")


def points(report, name):
    return pd.read_csv(report.folder / f"{name}.csv")


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_and_stated(drawn, name):
    report, _ = drawn
    (outcome,) = (found for found in report.figures if found.spec.name == name)
    assert outcome.status == "drawn", outcome.message
    own = points(report, name)
    assert len(own) >= 2
    caption = (report.folder / f"{name}.md").read_text()
    for needed in (
        "| basis |",
        "measured",
        "| items (n) |",
        "| seeds | 0 |",
        "cacheblend|",
        "95 % bootstrap",
        "CPU scale",
    ):
        assert needed in caption, needed
    if name not in ("pipeline_gantt", "ttft_breakdown"):  # one request; sums that are shown with intervals elsewhere
        assert "95 % bootstrap intervals over items" in caption


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("quality_vs_ratio", ["series", "ratio"]),
        ("selectors_at_equal_work", ["series", "share"]),
        ("quality_vs_chunks", ["series", "num_chunks"]),
        ("attention_deviation", ["series", "ratio"]),
        ("rank_correlation", ["layer"]),
        ("kv_deviation", ["layer", "token_share"]),
    ],
)
def test_points_are_means_over_items(drawn, name, keys):
    report, results = drawn
    stored = results.frame[results.frame["experiment"] == name].rename(columns=lambda c: c.removeprefix("factor."))
    expected = stored.groupby(["metric", *keys], dropna=False)["value"].mean()
    for row in points(report, name).to_dict("records"):
        key = (row["metric"], *(row[key] for key in keys))
        matches = expected[
            [all(a == b or (pd.isna(a) and pd.isna(b)) for a, b in zip(key, k, strict=True)) for k in expected.index]
        ]
        assert row["value"] == pytest.approx(matches.iloc[0]), key
        assert row["low"] <= row["value"] <= row["high"]


def test_methods_without_the_factor_are_points_too(drawn):
    report, _ = drawn
    level = points(report, "quality_vs_ratio")
    assert set(level.loc[level["ratio"].isna(), "series"]) == {"Full recompute", "Full KV reuse"}


def test_question_families_are_told_apart(drawn):
    report, _ = drawn
    own = points(report, "quality_by_family")
    assert set(own["family"]) == {"coreference", "single fact", "comparison"}
    assert (own["num_rows"] == 4).all()


def test_measured_and_modelled_speed_are_labelled(drawn):
    report, _ = drawn
    own = points(report, "speed_vs_ratio")
    assert dict(own[["metric", "basis"]].drop_duplicates().itertuples(index=False)) == {
        "speedup": "measured",
        "speedup_bound": "modelled",
        "speedup_formula": "modelled",
    }


def test_the_sweeps_of_sensitivity_are_apart(drawn):
    report, _ = drawn
    own = points(report, "sensitivity")
    sizes = own.groupby(["sweep", "metric"]).size().to_dict()
    assert sizes == {("chunks", "ttft"): 6, ("length", "ttft"): 6, ("batch", "ttft"): 6, ("batch", "throughput"): 6}
    throughput = own[(own["metric"] == "throughput") & (own["batch"] == 2)].set_index("series")["value"]
    assert throughput["Full recompute"] == pytest.approx(2 / 3.6)
    assert (own["num_rows"] == 5).all()


def test_attention_maps_are_those_of_one_request(drawn):
    report, results = drawn
    own = points(report, "attention_map")
    maps = own[own["metric"] == "attention"]
    assert not maps.duplicated(["variant", "query_bin", "key_bin"]).any()
    stored = results.frame[(results.frame["metric"] == "attention") & (results.frame["item"] == "0000-coreference")]
    assert sorted(maps["value"]) == pytest.approx(sorted(stored["value"]))
    assert own.loc[own["metric"] == "cross_chunk_mass"].set_index("variant")["value"].to_dict() == {
        "full_recompute": 0.5,
        "full_reuse": 0.0,
        "cacheblend": 0.3,
    }


def test_devices_and_ways_of_running_are_told_apart(drawn):
    report, results = drawn
    own = points(report, "storage_device")
    ttft = own[own["metric"] == "ttft"].set_index(["variant", "place"])["value"]
    slow = "slow device,\nload = 5.3 x\nrecompute"
    assert {place for _, place in ttft.index} == {"no cache", "memory", "this disk", slow, slow.replace("5.3", "0.57")}
    frame = results.frame[(results.frame["experiment"] == "storage_device") & (results.frame["metric"] == "ttft")]
    blend = frame[(frame["method"] == "cacheblend") & (frame["factor.load_over_recompute"] > 5)]
    plain = blend[blend["factor.pipelined"] == 0]["value"].median()
    assert ttft["CacheBlend, not pipelined", slow] == pytest.approx(plain)
    by_controller = blend[blend["factor.ratio_by"] == "controller"]["value"].median()
    assert ttft["CacheBlend, ratio by the controller", slow] == pytest.approx(by_controller)


def test_phases_add_up_to_the_whole(drawn):
    report, results = drawn
    own = points(report, "ttft_breakdown")
    stored = results.frame[(results.frame["metric"] == "phase_time") & (results.frame["method"] == "cacheblend")]
    in_memory = stored[stored["factor.load_over_recompute"] == 0]
    total = in_memory.groupby("item")["value"].sum().mean()
    assert own.loc[own["bar"] == "CacheBlend, memory", "value"].sum() == pytest.approx(total)


def test_load_is_simulated_and_says_so(drawn):
    report, _ = drawn
    for name in ("ttft_vs_rate", "capacity"):
        assert set(points(report, name)["basis"]) == {"simulated"}


def test_claims_find_their_rows(drawn):
    report, _ = drawn
    verdicts = {row.claim.id: row.verdict for row in report.claims}
    assert "cannot be computed" not in verdicts.values()
    assert "not run" not in verdicts.values()
    assert verdicts["cacheblend-ttft-full-recompute"] == "holds"
    assert verdicts["cacheblend-ttft-full-recompute-long"] == "holds"
    assert verdicts["cacheblend-map-reduce"] == "holds"
    assert verdicts["cacheblend-hkvd-attention"] == "holds"
    assert verdicts["cacheblend-map-reduce-quality"] == "not testable here"
    by_chunks = [row for row in report.claims if row.claim.id == "cacheblend-chunks"]
    assert [row.setting["factor.num_chunks"] for row in by_chunks] == [3, 6, 9]
