"""Everything that was graded and scored of one step's rollouts, as tensors: what rewards are functions of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from rlsys.types import TokenScores, Verdict

_TASK_REWARD = {"correct": 1.0, "wrong": 0.0, "undecided": float("nan")}


@dataclass(frozen=True, slots=True)
class Signals:
    """N = groups x group_size rollouts in order, T = tokens of the longest completion; float64."""

    task_rewards: torch.Tensor  # [N] 1 right, 0 wrong, NaN undecided
    reference_logprobs: torch.Tensor  # [N T]
    policy_logprobs: torch.Tensor  # [N T]
    completion_mask: torch.Tensor  # [N T] 1 on completion tokens

    @property
    def is_decided(self) -> torch.Tensor:
        """[N] bool."""
        return ~self.task_rewards.isnan()


def gather_signals(
    verdicts: Sequence[Verdict], reference_scores: Sequence[TokenScores], policy_scores: Sequence[TokenScores]
) -> Signals:
    """One verdict and two scores per rollout, in the same order."""
    lengths = [len(score.logprobs) for score in policy_scores]
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return Signals(
        task_rewards=torch.tensor([_TASK_REWARD[verdict.label] for verdict in verdicts], dtype=torch.float64),
        reference_logprobs=_pad([score.logprobs for score in reference_scores]),
        policy_logprobs=_pad([score.logprobs for score in policy_scores]),
        completion_mask=mask.to(torch.float64),
    )


def _pad(rows: Sequence[np.ndarray]) -> torch.Tensor:
    padded = np.zeros((len(rows), max(len(row) for row in rows)))
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return torch.from_numpy(padded)
