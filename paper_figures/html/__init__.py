"""The report: one self-contained page with every paper's claims, figures, index and deviations.

    python -m paper_figures --html [FILE]

stored runs --> draw() --> figures, captions, CSV --+
            --> claims, judged ---------------------+--> view of each paper --> report.html.j2 --> one file, no external asset
index/*.yaml, docs/deviations/*.md -----------------+
"""

from paper_figures.html.page import write_page

__all__ = ["write_page"]
