"""GRACE's figures of the committed results show something in every panel."""

from pathlib import Path

import pytest

from common.results import Results
from paper_figures import figures_of

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = Results.load(ROOT / "results" / "published", "grace").only(scale="cpu")


@pytest.mark.parametrize("spec", figures_of("grace"), ids=lambda spec: spec.name)
def test_every_panel_shows_something(spec):
    stored = PUBLISHED.only(experiment=list(spec.experiments))
    if stored.frame.empty:
        pytest.skip(f"{spec.name} has no committed results")
    drawing = spec.draw(stored.newest())
    panels = [axes for axes in drawing.figure.axes if axes.get_visible() and axes.axison]
    assert panels
    assert all(axes.has_data() for axes in panels)
    assert len(drawing.points)
