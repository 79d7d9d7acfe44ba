"""`rollouts/step-000012.parquet`: every completion of a step with all that was scored of it, one row per rollout.

Columns are built from whole arrays (no Python per token), so 256 rollouts cost a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlsys.rundir.atomic import write_bytes
from rlsys.types import RolloutGroup, TokenScores, Verdict

_TOKENS = pa.list_(pa.int32())
_LOGPROBS = pa.list_(pa.float32())

Scores = Sequence[Sequence[TokenScores]] | Sequence[Sequence[np.ndarray]]
"""Scores of each rollout of each group, or the log-probs [T] alone."""

ROLLOUT_SCHEMA = pa.schema(
    {
        "step": pa.int32(),
        "prompt_id": pa.string(),
        "sample_index": pa.int32(),
        "seed": pa.int64(),
        "prompt": pa.string(),
        "completion": pa.string(),
        "prompt_ids": _TOKENS,
        "completion_ids": _TOKENS,
        "finish_reason": pa.string(),
        "policy_version": pa.int64(),
        "rollout_logprobs": _LOGPROBS,
        "old_logprobs": _LOGPROBS,
        "reference_logprobs": _LOGPROBS,
        "verdict": pa.string(),
        "task_reward": pa.float32(),
        "reward": pa.float32(),
        "advantage": pa.float32(),
    }
)


def write_rollouts(
    path: Path,
    step: int,
    groups: Sequence[RolloutGroup],
    *,
    verdicts: Sequence[Sequence[Verdict]] | None = None,
    old_scores: Scores | None = None,
    reference_scores: Scores | None = None,
    task_rewards: Sequence[Sequence[float]] | np.ndarray | None = None,
    rewards: Sequence[Sequence[float]] | np.ndarray | None = None,
    advantages: Sequence[Sequence[float]] | np.ndarray | None = None,
) -> None:
    """Write the rollouts of `step` atomically; everything is nested as `groups` is: [prompt][completion].

    What is None becomes a column of nulls, and so does a single number that is NaN (an undecided task reward).

    Raises:
        DiskFullError: there was no room.
        ValueError: an argument does not match the rollouts in number or length; the message names the column.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    num_tokens = np.array([len(rollout.completion_ids) for rollout in rollouts], dtype=np.int32)
    sizes = [len(group.rollouts) for group in groups]
    columns = {
        "step": pa.array(np.full(len(rollouts), step, dtype=np.int32)),
        "prompt_id": pa.array([group.prompt.id for group in groups for _ in group.rollouts], pa.string()),
        "sample_index": pa.array([rollout.sample_index for rollout in rollouts], pa.int32()),
        "seed": pa.array([rollout.seed for rollout in rollouts], pa.int64()),
        "prompt": pa.array([group.prompt.text for group in groups for _ in group.rollouts], pa.string()),
        "completion": pa.array([rollout.text for rollout in rollouts], pa.string()),
        "prompt_ids": _token_column([rollout.prompt_ids for rollout in rollouts], np.int32),
        "completion_ids": _token_column([rollout.completion_ids for rollout in rollouts], np.int32),
        "finish_reason": pa.array([rollout.finish_reason for rollout in rollouts], pa.string()),
        "policy_version": pa.array([rollout.policy_version for rollout in rollouts], pa.int64()),
        "rollout_logprobs": _logprobs("rollout_logprobs", (r.rollout_logprobs for r in rollouts), num_tokens),
        "old_logprobs": _scored("old_logprobs", old_scores, sizes, num_tokens),
        "reference_logprobs": _scored("reference_logprobs", reference_scores, sizes, num_tokens),
        "verdict": _labels(verdicts, sizes),
        "task_reward": _numbers("task_reward", task_rewards, sizes),
        "reward": _numbers("reward", rewards, sizes),
        "advantage": _numbers("advantage", advantages, sizes),
    }
    buffer = pa.BufferOutputStream()
    # Encoded in memory, so that a full disk is met, and reported, in one place for all files.
    pq.write_table(pa.table(columns, schema=ROLLOUT_SCHEMA), buffer, compression="zstd")
    write_bytes(path, memoryview(buffer.getvalue()), sync=False)


def read_rollouts(path: Path) -> pa.Table:
    """The rows of one step, in the order of the groups, with the columns of `ROLLOUT_SCHEMA`."""
    return pq.read_table(path, partitioning=None)


def _token_column(arrays: Sequence[np.ndarray], dtype: type[np.generic]) -> pa.ListArray:
    """One list per rollout out of arrays [T]."""
    offsets = np.zeros(len(arrays) + 1, dtype=np.int32)
    np.cumsum([len(array) for array in arrays], out=offsets[1:])
    values = np.concatenate(arrays).astype(dtype, copy=False) if arrays else np.empty(0, dtype)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def _logprobs(name: str, arrays: Iterable[np.ndarray], num_tokens: np.ndarray) -> pa.ListArray:
    arrays = list(arrays)
    for index, (array, length) in enumerate(zip(arrays, num_tokens, strict=True)):
        if array.shape != (length,):
            raise ValueError(f"{name} of rollout {index} has shape {array.shape}, its completion {length} tokens")
    return _token_column(arrays, np.float32)


def _scored(name: str, scores: Scores | None, sizes: Sequence[int], num_tokens: np.ndarray) -> pa.Array:
    if scores is None:
        return pa.nulls(len(num_tokens), _LOGPROBS)
    _check_nesting(name, scores, sizes)
    flat = (score.logprobs if isinstance(score, TokenScores) else score for group in scores for score in group)
    return _logprobs(name, flat, num_tokens)


def _labels(verdicts: Sequence[Sequence[Verdict]] | None, sizes: Sequence[int]) -> pa.Array:
    if verdicts is None:
        return pa.nulls(sum(sizes), pa.string())
    _check_nesting("verdict", verdicts, sizes)
    return pa.array([verdict.label for group in verdicts for verdict in group], pa.string())


def _numbers(name: str, values: Sequence[Sequence[float]] | np.ndarray | None, sizes: Sequence[int]) -> pa.Array:
    if values is None:
        return pa.nulls(sum(sizes), pa.float32())
    _check_nesting(name, values, sizes)
    flat = np.concatenate([np.asarray(group, dtype=np.float32) for group in values]) if len(values) else np.empty(0)
    return pa.array(flat, pa.float32(), from_pandas=True)


def _check_nesting(name: str, nested: Sequence[Sequence[object]] | np.ndarray, sizes: Sequence[int]) -> None:
    if [len(group) for group in nested] != list(sizes):
        raise ValueError(f"{name} is not nested as the rollout groups are")
