"""Everything that was graded and scored of one step's rollouts, as tensors: what rewards are functions of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from rlsys.data.packing import pad_rows

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
    longest = max(lengths)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return Signals(
        task_rewards=torch.tensor([_TASK_REWARD[verdict.label] for verdict in verdicts], dtype=torch.float64),
        reference_logprobs=pad_rows([score.logprobs for score in reference_scores], longest, np.float64),
        policy_logprobs=pad_rows([score.logprobs for score in policy_scores], longest, np.float64),
        completion_mask=mask.to(torch.float64),
    )
