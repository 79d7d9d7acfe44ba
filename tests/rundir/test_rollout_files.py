"""Rollout files: exactly the promised columns, in the order of the groups, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rlsys.rundir.rollout_files import read_rollouts, write_rollouts
from rlsys.types import RolloutGroup, TokenScores, Verdict

MakeScores = Callable[[RolloutGroup, float], list[TokenScores]]

COLUMNS = [
    *["step", "prompt_id", "sample_index", "seed", "prompt", "completion", "prompt_ids", "completion_ids"],
    *["finish_reason", "policy_version", "rollout_logprobs", "old_logprobs", "reference_logprobs"],
    *["verdict", "task_reward", "reward", "advantage"],
]


def test_a_step_comes_back_as_it_was(tmp_path: Path, groups: list[RolloutGroup], make_scores: MakeScores) -> None:
    path = tmp_path / "step-000012.parquet"
    labels = [["correct", "wrong"], ["undecided", "correct"]]
    write_rollouts(
        path,
        12,
        groups,
        verdicts=[[Verdict(label, "because") for label in row] for row in labels],
        old_scores=[make_scores(group, 0.5) for group in groups],
        reference_scores=[make_scores(group, -0.25) for group in groups],
        task_rewards=[[1.0, 0.0], [float("nan"), 1.0]],
        rewards=np.array([[1.5, 0.5], [0.25, 2.0]]),
        advantages=[[1.0, -1.0], [-1.75, 1.75]],
    )
    table = read_rollouts(path)
    assert table.column_names == COLUMNS
    rows = table.to_pylist()
    assert [(row["prompt_id"], row["sample_index"]) for row in rows] == [
        ("train-1", 0),
        ("train-1", 1),
        ("train-2", 0),
        ("train-2", 1),
    ]
    assert rows[2] == {
        "step": 12,
        "prompt_id": "train-2",
        "sample_index": 0,
        "seed": 2**62,
        "prompt": "3+4=",
        "completion": "answer 0 \N{SQUARE ROOT}",
        "prompt_ids": [5, 12, 6, 14],
        "completion_ids": [100, 101, 102, 103, 104],
        "finish_reason": "length",
        "policy_version": 3,
        "rollout_logprobs": [-0.125, -0.25, -0.375, -0.5, -0.625],
        "old_logprobs": [0.375, 0.25, 0.125, 0.0, -0.125],
        "reference_logprobs": [-0.375, -0.5, -0.625, -0.75, -0.875],
        "verdict": "undecided",
        "task_reward": None,
        "reward": 0.25,
        "advantage": -1.75,
    }
    assert rows[1]["completion_ids"] == [100]
    assert rows[3]["task_reward"] == 1.0


def test_what_was_not_computed_is_a_column_of_nulls(tmp_path: Path, groups: list[RolloutGroup]) -> None:
    write_rollouts(tmp_path / "step-000001.parquet", 1, groups)
    table = read_rollouts(tmp_path / "step-000001.parquet")
    assert table.column_names == COLUMNS
    empty = [name for name in COLUMNS if table[name].null_count == 4]
    assert empty == ["old_logprobs", "reference_logprobs", "verdict", "task_reward", "reward", "advantage"]


def test_a_step_without_rollouts_has_the_same_columns(tmp_path: Path) -> None:
    write_rollouts(tmp_path / "step-000001.parquet", 1, [], rewards=[], old_scores=[])
    table = read_rollouts(tmp_path / "step-000001.parquet")
    assert (table.num_rows, table.column_names) == (0, COLUMNS)


def test_scores_of_other_tokens_fail(tmp_path: Path, groups: list[RolloutGroup], make_scores: MakeScores) -> None:
    path = tmp_path / "step-000001.parquet"
    swapped = [make_scores(groups[0], 0.0)[::-1], make_scores(groups[1], 0.0)]
    with pytest.raises(ValueError, match=r"old_logprobs of rollout 0 has shape \(1,\), its completion 3 tokens"):
        write_rollouts(path, 1, groups, old_scores=swapped)
    with pytest.raises(ValueError, match="reward is not nested as the rollout groups are"):
        write_rollouts(path, 1, groups, rewards=[[1.0, 2.0, 3.0], [4.0]])
    assert not path.exists()
