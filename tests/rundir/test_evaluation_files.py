"""Evaluation files: the promised keys, no impossible counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlsys.rundir.evaluation_files import read_evaluation, write_evaluation


def _evaluation() -> dict[str, Any]:
    return {
        "num_samples": 16,
        "problems": [
            {"id": "eval-0", "num_correct": 7, "num_undecided": 1},
            {"id": "eval-1", "num_correct": 0, "num_undecided": 16, "num_numbers": 6},
        ],
        "pass@k": {"1": {"value": 0.21875, "low": 0.1, "high": 0.4}},
        "maj@k": {"1": 0.25},
    }


def test_an_evaluation_comes_back_as_it_was(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "step-000100.json", _evaluation())
    assert read_evaluation(tmp_path / "step-000100.json") == _evaluation()
    assert list(json.loads((tmp_path / "step-000100.json").read_text())) == [
        "num_samples",
        "problems",
        "pass@k",
        "maj@k",
    ]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"pass@k": {"1": {"value": 0.5, "low": 0.1}}}, "pass@1 lacks high"),
        ({"problems": [{"id": "eval-0", "num_correct": 1}]}, "problem 'eval-0' lacks num_undecided"),
        ({"problems": [{"id": "a", "num_correct": 16, "num_undecided": 1}]}, r"counts \(16, 1\) of 16 samples"),
        ({"pass@k": {"1": {"value": float("nan"), "low": 0, "high": 1}}}, "JSON compliant"),
    ],
)
def test_a_broken_evaluation_is_not_written(tmp_path: Path, broken: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_evaluation(tmp_path / "step-000100.json", _evaluation() | broken)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    evaluation = _evaluation()
    del evaluation["problems"]
    with pytest.raises(ValueError, match=r"step-000100\.json lacks problems"):
        write_evaluation(tmp_path / "step-000100.json", evaluation)
