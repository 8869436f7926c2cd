"""Gather what the report shows, and fill in the template."""

import base64
import dataclasses
import importlib.resources
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import pandas as pd
from markdown_it import MarkdownIt

from common.plotting.save import SCALE_NOTES
from common.results import Results, write_atomically
from paper_figures._documents import format_minutes
from paper_figures._draw import FigureOutcome, Report
from paper_figures._index import PAPERS, IndexRow, PaperIndex, load_index, rows_of
from paper_figures.claims import VERDICTS
from paper_figures.claims.table import ClaimRow, format_estimate, run_command, show_setting

_SHOWN_POINTS = 40
"""Rows of a figure's points that the page shows as a table; the CSV behind the link has all."""

_VERDICT_SIGNS = {
    "holds": "✓",
    "same direction": "≈",
    "does not hold": "✗",
    "not testable here": "–",
    "not run": "…",
    "cannot be computed": "!",
}
"""Verdicts are told apart without colour."""


@dataclasses.dataclass(frozen=True)
class FigureView:
    """One figure of the page; `image` is None if it was not drawn, and `message` says why."""

    name: str
    paper_ref: str
    command: str
    title: str = ""
    caption_html: str = ""
    image: str | None = None
    csv: str = ""
    points_head: Sequence[str] = ()
    points: Sequence[Sequence[str]] = ()
    num_points: int = 0
    message: str = ""


@dataclasses.dataclass(frozen=True)
class ClaimView:
    """One line of the ledger."""

    paper: str
    statement: str
    setting: str
    paper_number: str
    where: str
    ours: str
    n: str
    basis: str
    scale: str
    verdict: str
    sign: str
    note: str


@dataclasses.dataclass(frozen=True)
class PaperView:
    """One paper of the page."""

    name: str
    index: PaperIndex
    is_built: bool
    figures: Sequence[FigureView]
    claims: Sequence[ClaimView]
    index_rows: Sequence[IndexRow]
    deviations_html: str

    @property
    def num_drawn(self) -> int:
        return sum(figure.image is not None for figure in self.figures)

    @property
    def verdicts(self) -> Mapping[str, int]:
        """Verdict -> how many claims have it, without those that none has."""
        counts = {verdict: sum(claim.verdict == verdict for claim in self.claims) for verdict in VERDICTS}
        return {verdict: count for verdict, count in counts.items() if count}


def write_page(reports: Sequence[Report], results_root: Path, path: Path, scale: str) -> Path:
    """Write the report of all nine papers.

    Args:
        reports: what `draw` returned for each paper that is to be shown; the others appear in the overview only.
        results_root: where the runs are, for the index.
        path: the file; its folder is created.
        scale: that of the reports.

    Returns:
        `path`.
    """
    drawn = {report.paper: report for report in reports}
    papers = [_paper_view(name, drawn.get(name), results_root, scale) for name in PAPERS]
    write_atomically(path, _render(papers, scale).encode())
    return path


def _render(papers: Sequence[PaperView], scale: str) -> str:
    folder = importlib.resources.files("paper_figures") / "html"
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["minutes"] = format_minutes
    template = environment.from_string((folder / "report.html.j2").read_text(encoding="utf-8"))
    return template.render(
        papers=papers,
        claims=[claim for paper in papers for claim in paper.claims],
        verdicts=VERDICTS,
        signs=_VERDICT_SIGNS,
        scale=scale,
        scale_note=SCALE_NOTES.get(scale, ""),
        shown_points=_SHOWN_POINTS,
        style=(folder / "style.css").read_text(encoding="utf-8"),
        script=(folder / "script.js").read_text(encoding="utf-8"),
    )


def _paper_view(name: str, report: Report | None, results_root: Path, scale: str) -> PaperView:
    index = load_index(name)
    return PaperView(
        name,
        index,
        report is not None,
        [] if report is None else [_figure_view(outcome, scale) for outcome in report.figures],
        [] if report is None else [_claim_view(name, row, scale) for row in report.claims],
        [] if report is None else rows_of(index, Results.load(results_root, name), scale),
        _deviations(name),
    )


def _claim_view(paper: str, row: ClaimRow, scale: str) -> ClaimView:
    return ClaimView(
        paper,
        row.claim.statement,
        show_setting(row.setting),
        str(row.claim.paper),
        row.claim.paper.where,
        format_estimate(row),
        "" if row.estimate is None else f"{row.num_items} items, {row.seeds}",
        row.basis,
        scale,
        row.verdict,
        _VERDICT_SIGNS[row.verdict],
        _inline(row.note),
    )


def _figure_view(outcome: FigureOutcome, scale: str) -> FigureView:
    spec = outcome.spec
    command = run_command(spec.paper, spec.experiments[0], scale)
    files = {path.suffix: path for path in outcome.paths}
    if outcome.status != "drawn":
        return FigureView(spec.name, spec.paper_ref, command, message=outcome.message)
    title, caption = _split_caption(files[".md"].read_text(encoding="utf-8"))
    csv = files[".csv"].read_bytes()
    points = pd.read_csv(io.BytesIO(csv), dtype=str, keep_default_na=False)
    return FigureView(
        spec.name,
        spec.paper_ref,
        command,
        title,
        _markdown().render(caption),
        _data_uri("image/png", files[".png"].read_bytes()),
        _data_uri("text/csv", csv),
        [str(column) for column in points.columns],
        points.head(_SHOWN_POINTS).values.tolist(),
        len(points),
    )


def _split_caption(text: str) -> tuple[str, str]:
    """The title and the rest of a caption file, without its image and its links to files that the page does not have."""
    heading, _, rest = text.partition("\n")
    rest = re.sub(r"^!\[.*\]\(.*\)$", "", rest, flags=re.MULTILINE)
    rest = re.sub(r"^Plotted points: .*$", "Cite as:", rest, flags=re.MULTILINE)
    return heading.removeprefix("# ").strip(), rest.strip()


def _markdown() -> MarkdownIt:
    # No raw HTML: captions hold names of plug-ins and of files, which are a stranger's.
    return MarkdownIt("commonmark", {"html": False}).enable("table")


def _inline(text: str) -> str:
    return str(_markdown().renderInline(" ".join(text.split())))


def _deviations(paper: str) -> str:
    """The deviations register of a paper as HTML; "" outside a checkout, or where there is none."""
    path = Path(__file__).resolve().parents[2] / "docs" / "deviations" / f"{paper}.md"
    if not path.is_file():
        return ""
    table = "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("# "))
    return str(_markdown().render(table))


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
