"""From every table and figure of the nine papers to one command: what is regenerated, and what is not, with the reason.

Each `index/<paper>.yaml` says what the paper is and lists its tables and figures:

    title: "CacheBlend: ..."
    venue: EuroSys 2025
    link: arXiv 2405.16444
    summary: One sentence on what the system does.
    entries:
      - {ref: Fig. 12, shows: TTFT against quality, figure: ttft_vs_quality}      # a registered figure of ours
      - {ref: Table 1, shows: TTFT by model, claims: true}                        # rows of the claim table
      - {ref: Fig. 16, shows: user study, not_reproduced: needs people}           # the reason

Minutes and basis are never written down: they come from the stored runs.
"""

import dataclasses
import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from common.errors import ConfigError
from common.results import Results
from paper_figures._registry import FigureSpec, figures_of
from paper_figures.claims.table import run_command

PAPERS = (
    "ragserve",
    "llmsteer",
    "cacheblend",
    "cachegen",
    "chatterbox",
    "chameleonapi",
    "oneadapt",
    "accmpeg",
    "grace",
)
"""All nine, in the order in which the repository names them, built or not."""

_KINDS = ("figure", "claims", "not_reproduced")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One table or figure of a paper.

    Attributes:
        ref: the paper's own number or name for it, e.g. "Fig. 12".
        shows: what it shows, in a few words.
        figure: the registered figure that regenerates it, or None.
        in_claims: whether it is regenerated as rows of the claim table.
        not_reproduced: why it is not regenerated, or "".
    """

    ref: str
    shows: str
    figure: str | None = None
    in_claims: bool = False
    not_reproduced: str = ""


@dataclasses.dataclass(frozen=True)
class PaperIndex:
    """What a paper is, and its tables and figures."""

    paper: str
    title: str
    venue: str
    link: str
    summary: str
    entries: Sequence[Entry]


@dataclasses.dataclass(frozen=True)
class IndexRow:
    """One line of the index table.

    Attributes:
        ref, shows: as in `Entry`; `ref` is "ours" for a figure that the paper does not have.
        command: the command that makes its results; "" if it is not reproduced.
        minutes: wall time of the stored runs on the machine that made them; None if none is stored.
        output: the file, relative to the repository.
        basis: "measured", "simulated", "modelled", or several joined with "+"; "" if nothing is stored.
        note: why it is not reproduced or not stored; "" otherwise.
    """

    ref: str
    shows: str
    command: str = ""
    minutes: float | None = None
    output: str = ""
    basis: str = ""
    note: str = ""


def load_index(paper: str) -> PaperIndex:
    """The index of one of the nine papers.

    Raises:
        ConfigError: the file is missing, has an unknown key, or an entry says none or several of figure, claims, not_reproduced.
    """
    source = importlib.resources.files("paper_figures") / "index" / f"{paper}.yaml"
    if not source.is_file():
        raise ConfigError(f"paper_figures/index/{paper}.yaml does not exist; papers are {', '.join(PAPERS)}.")
    return parse_index(paper, source.read_text(encoding="utf-8"))


def parse_index(paper: str, text: str) -> PaperIndex:
    """Parse and check an index file; errors as in `load_index`."""
    where = f"index/{paper}.yaml"
    data = yaml.safe_load(text)
    keys = {field.name for field in dataclasses.fields(PaperIndex)} - {"paper"}
    if not isinstance(data, dict) or set(data) != keys:
        raise ConfigError(f"{where}: needs exactly the keys {', '.join(sorted(keys))}.")
    entries = [_parse_entry(where, entry) for entry in data["entries"]]
    return PaperIndex(paper, data["title"], data["venue"], data["link"], data["summary"], entries)


def _parse_entry(where: str, entry: Any) -> Entry:
    if not isinstance(entry, Mapping) or not {"ref", "shows"} <= set(entry):
        raise ConfigError(f"{where}: entry {entry!r} needs 'ref' and 'shows'.")
    kinds = [key for key in _KINDS if key in entry]
    if len(kinds) != 1 or len(entry) != 3:
        raise ConfigError(
            f"{where}: entry {entry['ref']!r} needs exactly one of {', '.join(_KINDS)}, and no other key."
        )
    return Entry(
        str(entry["ref"]),
        str(entry["shows"]),
        entry.get("figure"),
        bool(entry.get("claims")),
        str(entry.get("not_reproduced", "")),
    )


def rows_of(index: PaperIndex, results: Results, scale: str, out_dir: str = "figures") -> list[IndexRow]:
    """One row per table and figure of the paper, then one per figure of ours.

    Args:
        index: from `load_index`.
        results: the paper's stored results.
        scale: of this scale.
        out_dir: where figures are written.

    Raises:
        ConfigError: an entry names a figure that is not registered.
    """
    specs = {spec.name: spec for spec in figures_of(index.paper)} if _is_built(index.paper) else {}
    folder = f"{out_dir}/{scale}/{index.paper}"
    rows = []
    for entry in index.entries:
        if entry.not_reproduced:
            rows.append(IndexRow(entry.ref, entry.shows, note=entry.not_reproduced))
        elif entry.in_claims:
            command = f"python -m paper_figures {index.paper}"
            rows.append(
                IndexRow(entry.ref, entry.shows, command, output=f"{folder}/claims.md", note="from stored runs")
            )
        elif entry.figure in specs:
            rows.append(_figure_row(entry.ref, entry.shows, specs[entry.figure], results, scale, folder))
        else:
            raise ConfigError(f"index/{index.paper}.yaml: {entry.ref!r} names {entry.figure!r}, which is no figure.")
    listed = {entry.figure for entry in index.entries}
    rows += [
        _figure_row("ours", _first_line(spec), spec, results, scale, folder)
        for name, spec in specs.items()
        if name not in listed
    ]
    return rows


def _is_built(paper: str) -> bool:
    from paper_figures._registry import papers

    return paper in papers()


def _first_line(spec: FigureSpec) -> str:
    return (spec.draw.__doc__ or spec.name).strip().partition("\n")[0].rstrip(".")


def _figure_row(ref: str, shows: str, spec: FigureSpec, results: Results, scale: str, folder: str) -> IndexRow:
    command = run_command(spec.paper, spec.experiments[0], scale)
    own = results.only(experiment=list(spec.experiments), scale=scale).newest() if len(results) else results
    if not len(own):
        return IndexRow(ref, shows, command, None, f"{folder}/{spec.name}.png", "", "no stored run yet")
    wall_s = sum(float(record["wall_s"]) for record in results.records_of(own.frame))
    basis = "+".join(sorted(own.frame["basis"].unique()))
    return IndexRow(ref, shows, command, wall_s / 60, f"{folder}/{spec.name}.png", basis)
