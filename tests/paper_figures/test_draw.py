"""Drawing: from stored rows to files, without torch; what is missing is named with its command."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pytest

import paper_figures
from common.errors import ConfigError, ResultsError, UnknownName
from common.plotting import Drawing, panels
from paper_figures import _registry, draw, figure, figures_of, papers
from paper_figures.__main__ import main
from tests.paper_figures.synthetic_runs import STYLES, ttft_items, write_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def stored(tmp_path):
    root = tmp_path / "results"
    for seed in range(2):
        write_run(root, "ttft_vs_quality", ttft_items(seed), seed=seed)
    return root


@pytest.fixture
def registered():
    """Registrations made in a test are undone."""
    before = dict(_registry._figures)
    yield
    _registry._figures.clear()
    _registry._figures.update(before)


def outcome_of(report, name):
    return next(outcome for outcome in report.figures if outcome.spec.name == name)


def test_the_main_figure(stored, tmp_path):
    report = draw("cacheblend", stored, tmp_path / "figures")
    outcome = outcome_of(report, "ttft_vs_quality")
    assert outcome.status == "drawn"
    folder = tmp_path / "figures" / "cpu" / "cacheblend"
    assert [path.parent for path in outcome.paths] == [folder] * 4
    assert (folder / "claims.md").exists()
    points = pd.read_csv(folder / "ttft_vs_quality.csv")
    assert set(points["series"]) == {style["label"] for style in STYLES.values()}, "a stranger's method is drawn too"
    assert set(points["y_metric"]) == {"f1", "kl_to_full"}
    assert (points["x_low"] <= points["x"]).all()
    assert (points["x"] <= points["x_high"]).all()
    caption = (folder / "ttft_vs_quality.md").read_text()
    assert "(Fig. 12)" in caption
    assert "cacheblend|ttft@1|multi_chunk_qa|model:small|scale:cpu|n:20|s:0-1|basis:measured|v:0.1.0" in caption
    assert "figures drawn" in str(report)
    assert "holds" in str(report)


def test_points_are_what_the_rows_say(stored, tmp_path):
    draw("cacheblend", stored, tmp_path)
    points = pd.read_csv(tmp_path / "cpu" / "cacheblend" / "ttft_vs_quality.csv")
    from common.results import Results

    frame = Results.load(stored).frame
    own = frame[frame["method"] == "cacheblend"]
    (point,) = points[(points["series"] == "CacheBlend") & (points["y_metric"] == "f1")].to_dict("records")
    assert point["x"] == pytest.approx(own.loc[own["metric"] == "ttft", "value"].median())
    assert point["y"] == pytest.approx(own.loc[own["metric"] == "f1", "value"].mean())


def test_models_get_panels_of_their_own(stored, tmp_path):
    write_run(stored, "ttft_vs_quality", ttft_items(5), model={"name": "big"})
    draw("cacheblend", stored, tmp_path)
    points = pd.read_csv(tmp_path / "cpu" / "cacheblend" / "ttft_vs_quality.csv")
    assert points["panel"].nunique() == 2


def test_knob_variants_are_drawn_apart(stored, tmp_path):
    write_run(
        stored, "ttft_vs_quality", ttft_items(0, methods=["cacheblend"]), method_args={"cacheblend": {"ratio": 0.3}}
    )
    draw("cacheblend", stored, tmp_path)
    points = pd.read_csv(tmp_path / "cpu" / "cacheblend" / "ttft_vs_quality.csv")
    assert {"CacheBlend (ratio=0.15)", "CacheBlend (ratio=0.3)"} <= set(points["series"])


def test_an_older_configuration_is_not_mixed_in(stored, tmp_path):
    write_run(stored, "ttft_vs_quality", ttft_items(7), num_items=9)
    report = draw("cacheblend", stored, tmp_path)
    assert outcome_of(report, "ttft_vs_quality").status == "drawn"
    assert pd.read_csv(tmp_path / "cpu" / "cacheblend" / "ttft_vs_quality.csv")["panel"].nunique() == 1


def test_what_was_not_run_is_named_and_its_old_files_go(tmp_path):
    folder = tmp_path / "figures" / "cpu" / "cacheblend"
    folder.mkdir(parents=True)
    (folder / "ttft_vs_quality.png").write_bytes(b"old")
    report = draw("cacheblend", tmp_path / "missing", tmp_path / "figures")
    outcome = outcome_of(report, "ttft_vs_quality")
    assert outcome.status == "not run"
    assert "python -m experiments.run +paper=cacheblend experiment=ttft_vs_quality" in str(report)
    assert not (folder / "ttft_vs_quality.png").exists()
    assert not report.is_complete
    assert not report.has_failures
    table = (folder / "claims.md").read_text()
    assert "not run" in table
    assert "measured" not in table.partition("## What the columns mean")[0]
    assert not any(row.estimate for row in report.claims)


def test_smoke_results_are_drawn_only_when_asked_for(tmp_path):
    root = tmp_path / "results"
    write_run(root, "ttft_vs_quality", ttft_items(0, num_items=2), scale="smoke")
    assert outcome_of(draw("cacheblend", root, tmp_path), "ttft_vs_quality").status == "not run"
    report = draw("cacheblend", root, tmp_path, "smoke")
    assert outcome_of(report, "ttft_vs_quality").status == "drawn"
    assert "not a result" in (tmp_path / "smoke" / "cacheblend" / "ttft_vs_quality.md").read_text()
    assert "not a result" in str(report)


def test_one_item_is_enough_to_draw(tmp_path):
    root = tmp_path / "results"
    write_run(root, "ttft_vs_quality", ttft_items(0, num_items=1))
    assert outcome_of(draw("cacheblend", root, tmp_path), "ttft_vs_quality").status == "drawn"


def test_rows_that_cannot_be_drawn_fail_with_a_reason(tmp_path, registered):
    root = tmp_path / "results"
    write_run(root, "ttft_vs_quality", ttft_items(0))

    @figure("cacheblend", "unlike", experiment="ttft_vs_quality")
    def unlike(results):
        return Drawing(panels()[0], results.select(metric="ttft"), results.frame, "mixes methods")

    report = draw("cacheblend", root, tmp_path)
    outcome = outcome_of(report, "unlike")
    assert outcome.status == "failed"
    assert "differ in 'method'" in outcome.message
    assert report.has_failures
    assert not (tmp_path / "cpu" / "cacheblend" / "unlike.png").exists()
    assert outcome_of(report, "ttft_vs_quality").status == "drawn", "one failure does not stop the others"


def test_damaged_results_are_an_error(stored, tmp_path):
    next(stored.rglob("rows.parquet")).write_bytes(b"x")
    with pytest.raises(ResultsError, match="checksum"):
        draw("cacheblend", stored, tmp_path)


@pytest.mark.parametrize(
    ("paper", "scale", "error", "message"),
    [
        ("cachblend", "cpu", UnknownName, "Did you mean 'cacheblend'"),
        ("claims", "cpu", UnknownName, "unknown paper 'claims'"),
        ("cacheblend", "small", ConfigError, "Choose one of smoke, cpu, gpu"),
    ],
)
def test_wrong_names(tmp_path, paper, scale, error, message):
    with pytest.raises(error, match=message):
        draw(paper, tmp_path, tmp_path, scale)


def test_a_figure_name_is_taken_once(registered):
    figures_of("cacheblend")

    def other(results):
        raise AssertionError

    with pytest.raises(ConfigError, match=r"already registered by paper_figures\.cacheblend"):
        figure("cacheblend", "ttft_vs_quality", experiment="e")(other)


def test_every_public_module_is_a_paper_that_can_be_run():
    assert set(paper_figures.papers()) == set(papers())
    for paper in papers():
        assert (ROOT / paper / "api.py").exists()
        assert figures_of(paper)


# ----------------------------------------------------------------------------------------------------------- command line


def test_command_line(stored, tmp_path, capsys):
    out = str(tmp_path / "figures")
    assert main(["cacheblend", "--results", str(stored), "--out", out]) == 0
    assert "1 of " in capsys.readouterr().out.replace("2 of ", "1 of ")
    assert main(["cacheblend", "--results", str(stored), "--out", out, "--scale", "smoke", "--check"]) == 1
    assert main(["cacheblend", "--results", str(stored), "--out", out, "--scale", "smoke"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cachblend"], "Did you mean 'cacheblend'"),
        (["--scale", "big"], "scale='big' is not a scale"),
        (["--results", "/no/such/folder"], "is not a folder"),
        (["--chek"], "unrecognized arguments: --chek"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(arguments, message, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_nowhere_to_write_is_one_line(stored, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["cacheblend", "--results", str(stored), "--out", str(tmp_path / "file" / "figures")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_drawing_needs_no_torch(stored, tmp_path):
    """A machine without torch, without paper packages on the path of imports, and with another working directory."""
    code = f"""
        import sys
        BLOCKED = ("torch", "transformers", "datasets", "cacheblend", "chatterbox", "experiments", "hydra")

        class Blocked:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in BLOCKED:
                    raise ImportError(f"{{name}} is blocked in this test")
        sys.meta_path.insert(0, Blocked())
        sys.path.insert(0, {str(ROOT)!r})
        from paper_figures.__main__ import main
        sys.exit(main(["--results", {str(stored)!r}, "--out", "figures"]))
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert (tmp_path / "figures" / "cpu" / "cacheblend" / "ttft_vs_quality.png").exists()


def test_module_is_runnable(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "paper_figures", "--out", str(tmp_path), "cachblend"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("UnknownName: unknown paper 'cachblend'.")
