"""`python -m paper_figures [PAPER ...]`: redraw figures and claim tables from stored results.

Exit codes: 0 done (missing results are named, with the command that makes them); 1 stored results could not be drawn, or
`--check` was given and something is missing; 2 a wrong argument.
"""

import argparse
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from common.errors import ConfigError, ReproError
from paper_figures._draw import SCALES, draw
from paper_figures._registry import check_paper, papers


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise ConfigError(f"{message}. `python -m paper_figures --help` lists the arguments.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = _Parser(prog="python -m paper_figures", description="Redraw figures and claim tables from stored results.")
    parser.add_argument("papers", nargs="*", metavar="PAPER", help="only these papers (default: all)")
    parser.add_argument(
        "--scale", default="cpu", help=f"draw results of this scale: {', '.join(SCALES)} (default: cpu)"
    )
    parser.add_argument("--results", type=Path, default=None, help="where runs are stored (default: results)")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="where to write (default: figures)")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a result is missing")
    parser.add_argument(
        "--html",
        nargs="?",
        type=Path,
        const=Path(),
        metavar="FILE",
        help="also write the report, one offline page (default: OUT/report.html)",
    )
    parser.add_argument(
        "--open", action="store_true", help="with --html: show the report in a browser, if there is one"
    )
    parser.add_argument(
        "--update-docs",
        action="store_true",
        help="only rewrite README.md's ledger, docs/LEDGER.md and docs/INDEX.md (--check: are they current?)",
    )
    try:
        options = parser.parse_args(arguments)
        if options.update_docs:
            return _update_docs(options.check)
        for paper in options.papers:
            check_paper(paper)
        if options.scale not in SCALES:
            raise ConfigError(f"scale={options.scale!r} is not a scale. Choose one of {', '.join(SCALES)}.")
        if options.results is not None and not options.results.is_dir():
            raise ConfigError(f"--results {options.results} is not a folder.")
        root = options.results or Path("results")
        reports = [draw(paper, root, options.out, options.scale) for paper in options.papers or papers()]
        page = None
        if options.html is not None:
            from paper_figures.html import write_page

            file = options.out / "report.html" if options.html == Path() else options.html
            page = write_page(reports, root, file, options.scale)
    except ReproError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except OSError as error:  # nowhere to write, a full disk
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    for report in reports:
        print(report)
    if page is not None:
        print(f"report: {page} ({page.stat().st_size / 1e6:.1f} MB, opens in any browser)")
        if options.open:
            webbrowser.open(page.resolve().as_uri())
    if any(report.has_failures for report in reports):
        return 1
    return 1 if options.check and not all(report.is_complete for report in reports) else 0


def _update_docs(is_check: bool) -> int:
    from paper_figures._documents import update_documents

    root = Path(__file__).resolve().parents[1]
    changed = update_documents(root, check=is_check)
    for path in changed:
        print(f"{path.relative_to(root)}: {'not current; run it without --check' if is_check else 'updated'}")
    if not changed:
        print("README.md, docs/LEDGER.md and docs/INDEX.md are current")
    return 1 if changed and is_check else 0


if __name__ == "__main__":
    sys.exit(main())
