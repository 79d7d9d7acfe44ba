"""One self-contained HTML file per comparison: the answer with its intervals, figures, tables, completions, origins.

    sources (what was named) -> arms (runs of one configuration) -> outcomes, answer -> figures, tables, samples -> page

Statistics are those of `evaluation.coverage` and `algorithms.estimates`; nothing is estimated twice.
"""

from rlsys.report.writing import write_report

__all__ = ["write_report"]
