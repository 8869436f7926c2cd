"""The report: self-contained, navigable, escaped, the same numbers as the tables; shown by a real browser where there is one."""

import base64
import collections
import html.parser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from common.results import Row
from paper_figures import draw
from paper_figures.html import write_page
from tests.paper_figures.synthetic_runs import ttft_items, write_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(html.parser.HTMLParser):
    """Ids, links, images and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.headings: list[int] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "a":
            self.links.append(found["href"])
        if tag == "img":
            self.images.append(found)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.sources += [value for key, value in attrs if key in ("src", "srcset", "poster", "data", "action")]
        if tag == "link":
            self.sources.append(found["href"])
        if tag not in ("meta", "link", "img", "br", "input", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("report")
    write_run(root / "results", "ttft_vs_quality", ttft_items(0))
    evil = {
        "0": [
            Row("ttft", 1.0, "s", "measured", method="<script>alert(1)</script>"),
            Row("f1", 1.0, "1", "measured", method="<script>alert(1)</script>"),
        ]
    }
    write_run(root / "results", "quality_vs_ratio", evil)
    reports = [draw("cacheblend", root / "results", root / "figures")]
    return write_page(reports, root / "results", root / "figures" / "report.html", "cpu")


@pytest.fixture(scope="module")
def page(report) -> Page:
    return Page(report.read_text())


def test_nothing_is_fetched_from_elsewhere(report, page):
    assert all(source.startswith("data:") for source in page.sources)
    text = re.sub(r"data:[a-z/]+;base64,[A-Za-z0-9+/=]*", "", report.read_text())
    assert not re.search(r"@import|url\(|<script[^>]+src|fetch\(|XMLHttpRequest", text)


def test_links_resolve_ids_are_unique_tags_are_balanced(page):
    assert not page.open
    assert [name for name, count in collections.Counter(page.ids).items() if count > 1] == []
    inner = [link for link in page.links if link.startswith("#")]
    assert len(inner) > 20
    assert {link[1:] for link in inner} <= set(page.ids)
    assert all(link.startswith(("#", "data:text/csv")) for link in page.links)


def test_headings_do_not_skip_a_level_and_images_have_text(page):
    assert page.headings[0] == 1
    assert all(after <= before + 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    assert page.images
    assert all(len(image["alt"] or "") > 20 for image in page.images)


def test_names_from_results_are_escaped(report):
    assert "<script>alert" not in report.read_text()


def test_all_nine_papers_are_there_and_the_unbuilt_say_so(page, report):
    from paper_figures._index import PAPERS

    assert set(PAPERS) <= set(page.ids)
    assert "not in this report" in report.read_text()


def test_the_csv_behind_a_figure_is_the_file_beside_it(report):
    found = re.search(
        r'download="cacheblend-ttft_vs_quality.csv" href="data:text/csv;base64,([^"]+)"', report.read_text()
    )
    assert found
    beside = report.parent / "cpu" / "cacheblend" / "ttft_vs_quality.csv"
    assert base64.b64decode(found.group(1)) == beside.read_bytes()


def test_the_ledger_shows_what_the_claim_table_shows(report):
    import pandas as pd

    table = pd.read_csv(report.parent / "cpu" / "cacheblend" / "claims.csv", keep_default_na=False)
    text = report.read_text()
    start, end = text.index('<section id="claims"'), text.index('<section id="ragserve"')
    rows = re.findall(
        r'<tr data-paper="cacheblend" data-verdict="([^"]+)">(.*?)</tr>', text[start:end], flags=re.DOTALL
    )
    assert [verdict for verdict, _ in rows] == list(table["verdict"])
    for (_, cells), ours in zip(rows, table["ours"], strict=True):
        assert ours in cells


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
def test_a_browser_shows_it_without_an_error(report, tmp_path):
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"
    command = [
        CHROMIUM,
        *flags.split(),
        f"--user-data-dir={tmp_path}",
        "--enable-logging=stderr",
        "--dump-dom",
        report.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    # Filled in by the page's own script, so it ran.
    assert re.search(r'<output aria-live="polite">(\d+) of \1 claims</output>', done.stdout)
    assert '<form class="filter">' in done.stdout
