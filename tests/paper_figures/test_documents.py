"""The ledger in README.md and docs/INDEX.md are what the published runs say, and the index leaves no figure of a paper out."""

from pathlib import Path

import pytest

from common.errors import ConfigError
from common.results import Results
from paper_figures import figures_of, papers
from paper_figures._documents import update_documents
from paper_figures._index import PAPERS, load_index, parse_index, rows_of

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
