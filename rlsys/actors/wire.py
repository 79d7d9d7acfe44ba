"""Rollouts and scores on their way between processes: a few long arrays instead of hundreds of short ones.

Ray moves each array of a message as a buffer of its own; for a step of small completions that costs more than the data.
Packing and unpacking take about a millisecond; unpacked rows are views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TypeVar

import numpy as np

from rlsys.types import FinishReason, Rollout, RolloutGroup, TokenScores, TrainingBatch

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rows:
    """Arrays of different lengths, end to end."""

    flat: np.ndarray
    lengths: np.ndarray

    @classmethod
    def pack(cls, rows: Sequence[np.ndarray]) -> Rows:
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        return cls(np.concatenate(rows) if rows else np.empty(0), lengths)

    def unpack(self) -> list[np.ndarray]:
        return [self.flat[start:end] for start, end in pairwise(accumulate(self.lengths.tolist(), initial=0))]


@dataclass(frozen=True, slots=True)
class WireRollouts:
    prompt_ids: Rows
    completion_ids: Rows
    rollout_logprobs: Rows
    texts: list[str]
    finish_reasons: list[FinishReason]
    policy_versions: list[int]
    sample_indices: list[int]
    seeds: list[int]

    @classmethod
    def pack(cls, rollouts: Sequence[Rollout]) -> WireRollouts:
        return cls(
            prompt_ids=Rows.pack([rollout.prompt_ids for rollout in rollouts]),
            completion_ids=Rows.pack([rollout.completion_ids for rollout in rollouts]),
            rollout_logprobs=Rows.pack([rollout.rollout_logprobs for rollout in rollouts]),
            texts=[rollout.text for rollout in rollouts],
            finish_reasons=[rollout.finish_reason for rollout in rollouts],
            policy_versions=[rollout.policy_version for rollout in rollouts],
            sample_indices=[rollout.sample_index for rollout in rollouts],
            seeds=[rollout.seed for rollout in rollouts],
        )

    def unpack(self) -> list[Rollout]:
        columns = zip(
            self.prompt_ids.unpack(),
            self.completion_ids.unpack(),
            self.rollout_logprobs.unpack(),
            self.texts,
            self.finish_reasons,
            self.policy_versions,
            self.sample_indices,
            self.seeds,
            strict=True,
        )
        return [Rollout(*values) for values in columns]


@dataclass(frozen=True, slots=True)
class WireScores:
    logprobs: Rows
    entropies: Rows

    @classmethod
    def pack(cls, scores: Sequence[TokenScores]) -> WireScores:
        return cls(Rows.pack([score.logprobs for score in scores]), Rows.pack([score.entropies for score in scores]))

    def unpack(self) -> list[TokenScores]:
        pairs = zip(self.logprobs.unpack(), self.entropies.unpack(), strict=True)
        return [TokenScores(logprobs, entropies) for logprobs, entropies in pairs]


@dataclass(frozen=True, slots=True)
class WireBatch:
    rollouts: WireRollouts
    old_logprobs: Rows
    advantages: np.ndarray
    loss_mask: np.ndarray

    @classmethod
    def pack(cls, batch: TrainingBatch) -> WireBatch:
        return cls(WireRollouts.pack(batch.rollouts), Rows.pack(batch.old_logprobs), batch.advantages, batch.loss_mask)

    def unpack(self) -> TrainingBatch:
        return TrainingBatch(
            tuple(self.rollouts.unpack()), tuple(self.old_logprobs.unpack()), self.advantages, self.loss_mask
        )


def flatten_groups(groups: Sequence[RolloutGroup]) -> list[Rollout]:
    return [rollout for group in groups for rollout in group.rollouts]


def cut(flat: Sequence[T], sizes: Sequence[int]) -> list[list[T]]:
    """Consecutive pieces of the given sizes."""
    return [list(flat[start:end]) for start, end in pairwise(accumulate(sizes, initial=0))]
