"""How long the phases of a step take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Started when made; `measure` names a phase."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds[phase] = self._seconds.get(phase, 0.0) + time.perf_counter() - start

    def metrics(self, num_completion_tokens: int, num_tokens: int) -> dict[str, float]:
        """`time/*` of the phases and of the step so far, and the tokens per second of generation and learning."""
        metrics = {f"time/{phase}_seconds": seconds for phase, seconds in self._seconds.items()}
        metrics["time/step_seconds"] = time.perf_counter() - self._start
        metrics["throughput/completion_tokens_per_second"] = num_completion_tokens / self._seconds["generate"]
        metrics["throughput/learner_tokens_per_second"] = num_tokens / self._seconds["learn"]
        return metrics
