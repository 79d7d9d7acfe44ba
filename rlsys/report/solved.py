"""Which problems training won and lost: the 2x2 table of each run, and examples with what was written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rlsys.errors import ConfigError
from rlsys.evaluation.coverage import Crossing, SolvedTable, crossing_point, solved_table
from rlsys.report.arms import Arm
from rlsys.report.runs import Run

Evaluation = dict[str, Any]

_NUM_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Example:
    """A problem that one of the two solved: `answers` are texts where completions were kept."""

    problem_id: str
    base_correct: int
    trained_correct: int
    prompt: str | None = None
    base_text: str | None = None
    trained_text: str | None = None


@dataclass(frozen=True, slots=True)
class Solved:
    """One run's table at k = all samples, its crossing, and examples of what it won and lost."""

    arm: Arm
    run: Run
    num_samples: int
    table: SolvedTable
    crossing: Crossing | None
    won: tuple[Example, ...]
    lost: tuple[Example, ...]

    @property
    def crossing_text(self) -> str:
        """When the base overtakes, with how sure that is."""
        crossing = self.crossing
        if crossing is None:
            return f"The base does not overtake up to k = {self.num_samples}."
        return (
            f"The base overtakes at k = {crossing.k:.1f} [{crossing.low:.1f}, {crossing.high:.1f}], "
            f"in {crossing.share:.0%} of the resamples."
        )


def solved_problems(arms: Sequence[Arm], fallback_base: Evaluation | None) -> list[Solved]:
    """Every run that has a first and a last evaluation with equally many samples."""
    found = []
    for arm in arms:
        for run in arm.runs:
            base, last = run.base or fallback_base, run.last
            if base is None or last is None:
                continue
            try:
                table = solved_table(base, last[1])
            except ConfigError:  # another number of samples: nothing to compare at equal k
                continue
            crossing = crossing_point(base, last[1])
            won, lost = _examples(run, last[0], base, last[1], table)
            found.append(Solved(arm, run, base["num_samples"], table, crossing, won, lost))
    return found


def _examples(
    run: Run, step: int, base: Evaluation, last: Evaluation, table: SolvedTable
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """The surest of each kind."""
    counts = [{problem["id"]: problem["num_correct"] for problem in each["problems"]} for each in (base, last)]
    won = sorted(table.only_trained, key=lambda id_: -counts[1][id_])[:_NUM_EXAMPLES]
    lost = sorted(table.only_base, key=lambda id_: -counts[0][id_])[:_NUM_EXAMPLES]
    ids = [*won, *lost]
    texts = [_texts(run.evaluation_file(each), ids) for each in (0, step)]
    made = {id_: _example(id_, counts, texts, id_ in won) for id_ in ids}
    return tuple(made[id_] for id_ in won), tuple(made[id_] for id_ in lost)


def _example(
    id_: str, counts: list[dict[str, int]], texts: Sequence[Mapping[str, list[dict[str, Any]]]], won: bool
) -> Example:
    rows = [each.get(id_, []) for each in texts]
    shown = [_first(own, "correct" if (side == 1) == won else "wrong") for side, own in enumerate(rows)]
    prompt = next((row["prompt"] for own in rows for row in own), None)
    return Example(id_, counts[0][id_], counts[1][id_], prompt, *shown)


def _first(rows: Sequence[dict[str, Any]], verdict: str) -> str | None:
    """A text with that verdict, else any."""
    ordered = sorted(rows, key=lambda row: row["verdict"] != verdict)
    return ordered[0]["completion"] if ordered else None


def _texts(path: Path | None, ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    if path is None or not ids:
        return {}
    columns = ["prompt_id", "prompt", "completion", "verdict"]
    try:
        table = pq.read_table(path, columns=columns, filters=[("prompt_id", "in", list(ids))], partitioning=None)
    except (OSError, ValueError, pa.ArrowException):  # the examples are then shown without texts
        return {}
    by_id: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        by_id.setdefault(row["prompt_id"], []).append(row)
    return by_id
