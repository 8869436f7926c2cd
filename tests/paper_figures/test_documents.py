"""The ledger in README.md and docs/INDEX.md are what the published runs say, and the index leaves no figure of a paper out."""

from pathlib import Path

import pytest

from common.errors import ConfigError
from common.results import Results
from common.stats import Estimate
from paper_figures import figures_of, papers
from paper_figures._documents import full_ledger_markdown, ledger_markdown, update_documents
from paper_figures._index import PAPERS, load_index, parse_index, rows_of
from paper_figures.claims import parse_claims
from paper_figures.claims.table import ClaimRow

ROOT = Path(__file__).resolve().parents[2]
HEAD = "title: T\nvenue: V\nlink: L\nsummary: S\nentries:\n"


def test_readme_and_index_are_current():
    assert update_documents(ROOT, check=True) == [], "run: python -m paper_figures --update-docs"


@pytest.mark.parametrize("paper", PAPERS)
def test_every_entry_is_a_figure_or_says_why_not(paper):
    index = load_index(paper)
    rows = rows_of(index, Results.load(ROOT / "none", paper), "cpu")  # raises for a figure that does not exist
    assert all(row.command or row.note for row in rows)
    if paper in papers():
        assert index.entries, f"{paper} is built; index/{paper}.yaml must list the paper's tables and figures"
        listed = {entry.figure for entry in index.entries}
        numbered = {spec.name for spec in figures_of(paper) if spec.paper_ref}
        assert len(rows) >= len(index.entries) + len({spec.name for spec in figures_of(paper)} - listed)
        assert numbered & listed, f"none of {sorted(numbered)} stands in the index"


def test_faulty_index_files_are_refused_in_one_line():
    for body, part in (
        ("- {ref: Fig. 1, shows: x}", "exactly one of"),
        ("- {ref: Fig. 1, shows: x, figure: a, not_reproduced: b}", "exactly one of"),
        ("- {shows: x, figure: a}", "needs 'ref'"),
    ):
        with pytest.raises(ConfigError, match=part):
            parse_index("cacheblend", HEAD + body)
    with pytest.raises(ConfigError, match="exactly the keys"):
        parse_index("cacheblend", "title: T\n")
    with pytest.raises(ConfigError, match="is no figure"):
        rows_of(
            parse_index("cacheblend", HEAD + "- {ref: Fig. 1, shows: x, figure: nonsense}"),
            Results.load(ROOT / "none"),
            "cpu",
        )


def test_a_readme_without_its_markers_is_refused(tmp_path):
    (tmp_path / "README.md").write_text("nothing here")
    with pytest.raises(ConfigError, match="claims:begin"):
        update_documents(tmp_path)


def test_a_claim_in_several_settings_is_one_row_of_the_short_ledger_and_all_rows_of_the_long_one():
    text = """
- {id: cacheblend-a, statement: First, paper: {low: 2, high: 3, unit: x, where: here}, not_testable: "no"}
- {id: cacheblend-b, statement: Second, paper: {low: 0.1, unit: "%", where: there}, not_testable: "no"}
"""
    first, second = parse_claims(text, "claims.yaml", "cacheblend")

    def row(claim, verdict, value, n):
        estimate = None if value is None else Estimate(value, value / 2, value * 2, n, n)
        return ClaimRow(
            claim, verdict, {"workload": f"w{n}"}, estimate, n, "seed 0", "measured" if value else "", note="why"
        )

    rows = [row(first, "holds", 4.0, 10), row(first, "does not hold", 0.5, 8), row(first, "holds", 9.0, 10)]
    rows += [row(second, "not run", None, 0)]
    short = ledger_markdown({"cacheblend": rows}).splitlines()
    assert short[0] == "2 claims, judged in 4 settings: 2 holds, 1 does not hold, 1 not run."
    assert short[4] == (
        "| cacheblend | First | 2 to 3x | 0.500x to 9.00x in 3 settings | 8 to 10 | measured | holds in 2, does not hold in 1 |"
    )
    assert short[5] == "| cacheblend | Second | at least 10 % |  |  |  | not run |"
    long = full_ledger_markdown({"cacheblend": rows})
    assert long.count("| First | 2 to 3x | w") == 3
    assert "4.00x (2.00 to 8.00) | 10 items, seed 0" in long
    assert "**First** (does not hold): why" in long
