"""One step's rollouts with everything that was found out about them: verdicts, scores, rewards, advantages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rlsys.observe.metrics import logprob_gap_max, offpolicy_metrics, policy_age_max, rollout_metrics
from rlsys.protocols import Grader, Learner, Scorer
from rlsys.rewards.signals import Signals, gather_signals
from rlsys.types import Rollout, RolloutGroup, TokenScores, TrainingBatch, Verdict

RewardFunction = Callable[[Signals], torch.Tensor]
"""[N] rewards of a step's rollouts."""

AdvantageFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Rewards [num_groups G] and their mask [num_groups G] to advantages [num_groups G]."""


@dataclass(frozen=True, slots=True)
class Objective:
    """How signals become advantages; `uses_task_reward`: undecided rollouts are left out of learning."""

    reward: RewardFunction
    advantage: AdvantageFunction
    uses_task_reward: bool


@dataclass(frozen=True, slots=True)
class Experience:
    """B groups of G rollouts; per-rollout arrays are [B G], lists are flat in the same order (N = B x G)."""

    groups: list[RolloutGroup]
    verdicts: list[list[Verdict]]
    old_scores: list[TokenScores]
    reference_scores: list[TokenScores]
    task_rewards: np.ndarray
    rewards: np.ndarray
    advantages: np.ndarray
    loss_mask: np.ndarray

    @property
    def rollouts(self) -> list[Rollout]:
        return [rollout for group in self.groups for rollout in group.rollouts]

    @property
    def old_logprobs(self) -> list[np.ndarray]:
        return [score.logprobs for score in self.old_scores]

    @property
    def rollout_logprobs(self) -> list[np.ndarray]:
        return [rollout.rollout_logprobs for rollout in self.rollouts]

    def num_completion_tokens(self) -> int:
        return sum(len(rollout.completion_ids) for rollout in self.rollouts)

    def num_tokens(self) -> int:
        """Prompts included."""
        return self.num_completion_tokens() + sum(len(rollout.prompt_ids) for rollout in self.rollouts)

    def training_batch(self) -> TrainingBatch:
        return TrainingBatch(
            rollouts=tuple(self.rollouts),
            old_logprobs=tuple(self.old_logprobs),
            advantages=self.advantages.reshape(-1).astype(np.float32),
            loss_mask=self.loss_mask.reshape(-1).astype(np.float32),
        )

    def columns(self) -> dict[str, Any]:
        """What the Parquet file of the step holds beside the rollouts, nested per group."""
        return {
            "verdicts": self.verdicts,
            "old_scores": self._nested(self.old_scores),
            "reference_scores": self._nested(self.reference_scores),
            "task_rewards": self.task_rewards,
            "rewards": self.rewards,
            "advantages": self.advantages,
        }

    def metrics(self, policy_version: int, importance_cap: float) -> dict[str, float]:
        """`reward/*`, `policy/*`, `completion/*` and `offpolicy/*` of the step."""
        metrics = rollout_metrics(
            self.groups,
            self.verdicts,
            self.rewards,
            self._nested(self.old_scores),
            self._nested(self.reference_scores),
            self.loss_mask,
        )
        metrics |= offpolicy_metrics(self.old_logprobs, self.rollout_logprobs, importance_cap)
        return metrics | {"policy/age_max": float(policy_age_max(self.groups, policy_version))}

    def logprob_gap_max(self) -> float:
        """Between the engines that sampled and the learner, in nats; telling where both were at the same version."""
        return logprob_gap_max(self.old_logprobs, self.rollout_logprobs)

    def _nested(self, flat: Sequence[Any]) -> list[list[Any]]:
        size = self.rewards.shape[1]
        return [list(flat[start : start + size]) for start in range(0, len(flat), size)]


def judge(
    groups: list[RolloutGroup],
    grader: Grader,
    reference: Scorer,
    learner: Learner,
    objective: Objective,
    deadline_seconds: float,
) -> Experience:
    """Grade and score the rollouts, and turn that into rewards and advantages.

    Grading goes on beside the scoring. Reference and policy share a device, so they score one after the other: at once,
    their threads would spend the time waiting for each other.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    grading = grader.grade(groups)
    reference_scores = reference.score(rollouts).result(deadline_seconds)
    old_scores = learner.score(rollouts).result(deadline_seconds)
    verdicts = grading.result(deadline_seconds)

    signals = gather_signals([verdict for group in verdicts for verdict in group], reference_scores, old_scores)
    shape = (len(groups), len(groups[0].rollouts))
    counts = signals.is_decided if objective.uses_task_reward else torch.ones_like(signals.is_decided)
    loss_mask = counts.to(torch.float64).reshape(shape)
    rewards = objective.reward(signals).reshape(shape)
    advantages = objective.advantage(rewards, loss_mask)
    return Experience(
        groups=groups,
        verdicts=verdicts,
        old_scores=old_scores,
        reference_scores=reference_scores,
        task_rewards=signals.task_rewards.reshape(shape).numpy(),
        rewards=rewards.numpy(),
        advantages=advantages.numpy(),
        loss_mask=loss_mask.numpy(),
    )
