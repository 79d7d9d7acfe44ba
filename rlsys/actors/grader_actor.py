"""The grader as a Ray actor: CPU only, its answers checked in worker processes that can be killed."""

from __future__ import annotations

from collections.abc import Sequence

import ray

from rlsys.actors.process import redirect_output
from rlsys.rewards.grader import GradingPool
from rlsys.types import Verdict


class GraderActor:
    def start(self, num_workers: int, deadline_seconds: float, memory_limit_bytes: int, log_file: str | None) -> None:
        """Start the worker processes."""
        redirect_output(log_file)
        self._pool = GradingPool(num_workers, deadline_seconds, memory_limit_bytes)

    def grade(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        return self._pool.grade(pairs)


RemoteGraderActor = ray.remote(GraderActor)
