"""Which of a run's checkpoints did best on the held-out problems; picked on those, so the last is shown beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlsys.rundir.checkpoints import Checkpoint, list_checkpoints
from rlsys.rundir.evaluation_files import read_evaluation
from rlsys.rundir.names import step_name


def accuracy(evaluation: Mapping[str, Any]) -> float:
    """pass@1, or the mean task reward where that is not simply right or wrong."""
    return float(evaluation.get("mean_task_reward", evaluation["pass@k"]["1"]["value"]))


def best_step(evals: Path, steps: Iterable[int]) -> int | None:
    """The one of `steps` with the highest accuracy, the earliest of equals; None where none was evaluated."""
    files = {step: evals / step_name(step, ".json") for step in sorted(steps)}
    accuracies = {step: accuracy(read_evaluation(file)) for step, file in files.items() if file.is_file()}
    return max(accuracies, key=accuracies.__getitem__, default=None)


def best_checkpoint(run: Path) -> Checkpoint | None:
    """The best of the checkpoints that the run in folder `run` has kept."""
    kept = {checkpoint.step: checkpoint for checkpoint in list_checkpoints(run / "checkpoints")}
    step = best_step(run / "evals", kept)
    return None if step is None else kept[step]
