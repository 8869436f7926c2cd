"""Each `# DEVIATION paper-n:` in the code has a row in docs/deviations/paper.md, and each row its place in the code."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def tags() -> set[str]:
    found: set[str] = set()
    for package in ROOT.glob("*/__init__.py"):
        for path in package.parent.rglob("*.py"):
            found |= set(re.findall(r"# DEVIATION ([a-z]+-\d+):", path.read_text()))
    return found


def rows() -> dict[str, Path]:
    return {
        row: path
        for path in (ROOT / "docs" / "deviations").glob("*.md")
        for row in re.findall(r"^\| ?([a-z]+-\d+) ?\|", path.read_text(), flags=re.MULTILINE)
    }


def test_every_tag_has_a_row_and_every_row_a_tag():
    assert tags() == set(rows())


def test_rows_stand_in_their_papers_register():
    for row, path in rows().items():
        assert row.rpartition("-")[0] == path.stem
