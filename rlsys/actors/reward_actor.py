"""The two kinds of reward actor: the grader (CPU, killable workers) and the frozen reference (a model)."""

from __future__ import annotations

from collections.abc import Sequence

import ray
import torch

from rlsys.actors.process import redirect_output
from rlsys.rewards.grader import GradingPool
from rlsys.scoring import CompletionScorer, load_language_model, score_microbatch
from rlsys.types import Rollout, TokenScores, Verdict


class GraderActor:
    def __init__(
        self, num_workers: int, deadline_seconds: float, memory_limit_bytes: int, log_file: str | None
    ) -> None:
        redirect_output(log_file)
        self._arguments = num_workers, deadline_seconds, memory_limit_bytes

    def start(self) -> None:
        """Start the worker processes."""
        self._pool = GradingPool(*self._arguments)

    def grade(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        return self._pool.grade(pairs)


class ReferenceActor:
    def __init__(self, model_path: str, dtype: str, log_file: str | None) -> None:
        redirect_output(log_file)
        self._arguments = model_path, dtype

    def start(self) -> None:
        """Load the model."""
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._scorer = CompletionScorer(load_language_model(*self._arguments)).to(self._device)

    def score(self, microbatches: Sequence[Sequence[Rollout]]) -> list[list[TokenScores]]:
        return [score_microbatch(self._scorer, microbatch, self._device) for microbatch in microbatches]


RemoteGraderActor = ray.remote(GraderActor)
RemoteReferenceActor = ray.remote(ReferenceActor)
