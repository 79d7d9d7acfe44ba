"""The grader as a Ray actor: CPU only, its answers checked in worker processes that can be killed."""

from __future__ import annotations

from collections.abc import Sequence

import ray

from rlsys.actors.process import redirect_output
from rlsys.rewards.grader import GradingPool
from rlsys.types import Verdict


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


RemoteGraderActor = ray.remote(GraderActor)
