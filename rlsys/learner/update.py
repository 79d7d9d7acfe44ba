"""Loss over one microbatch: from log-probs to the number that is differentiated. No optimizer, no process group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rlsys.algorithms.importance import truncated
from rlsys.algorithms.losses import reinforce
from rlsys.data.packing import PLACEHOLDER, Microbatch, pad_rows
from rlsys.types import TrainingBatch


@dataclass(frozen=True, slots=True)
class LossSettings:
    """The loss by name, and the cap of the truncated importance weights (None: no weights)."""

    loss: str
    importance_cap: float | None


PLACEHOLDER_BATCH = TrainingBatch(
    (PLACEHOLDER,), (np.zeros(1, np.float32),), np.zeros(1, np.float32), np.zeros(1, np.float32)
)
"""What a rank with an empty microbatch computes: a loss, a gradient and metrics of exactly 0."""


def select(batch: TrainingBatch, indices: Sequence[int]) -> TrainingBatch:
    """The rollouts at `indices`, with all that belongs to them."""
    return TrainingBatch(
        rollouts=tuple(batch.rollouts[index] for index in indices),
        old_logprobs=tuple(batch.old_logprobs[index] for index in indices),
        advantages=batch.advantages[list(indices)],
        loss_mask=batch.loss_mask[list(indices)],
    )


def count_loss_tokens(batch: TrainingBatch) -> int:
    """Completion tokens that are learned from: the global denominator of the loss; at least 1, where none counts."""
    pairs = zip(batch.rollouts, batch.loss_mask, strict=True)
    return max(1, sum(len(rollout.completion_ids) for rollout, weight in pairs if weight > 0))


def microbatch_loss(
    settings: LossSettings,
    logprobs: torch.Tensor,
    batch: TrainingBatch,
    microbatch: Microbatch,
    denominator: float,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """This microbatch's share of the global loss.

    Args:
        logprobs: [B T], of the policy that is being updated, with gradient.
        denominator: loss tokens of the whole step over all ranks, so that shares add up to the loss.

    Returns:
        The scalar share and the metrics that the loss reports, each a share too.
    """
    device, num_columns = logprobs.device, logprobs.shape[1]
    rows = torch.from_numpy(np.asarray(batch.loss_mask, dtype=np.float32)).to(device)
    loss_mask = microbatch.completion_mask.to(logprobs.dtype) * rows[:, None]
    advantages = torch.from_numpy(np.asarray(batch.advantages, dtype=np.float32)).to(device)
    weights = None
    if settings.importance_cap is not None:
        old = pad_rows(batch.old_logprobs, num_columns).to(device)
        rollout = pad_rows([rollout.rollout_logprobs for rollout in batch.rollouts], num_columns).to(device)
        weights = truncated(old, rollout, settings.importance_cap)
    match settings.loss:
        case "reinforce":
            return reinforce(logprobs, advantages, loss_mask, denominator, weights)
        case other:
            raise ValueError(f"unknown loss {other!r}")
