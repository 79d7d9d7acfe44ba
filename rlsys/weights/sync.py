"""Publish, load, prove: the event that moves a new policy version into the engines. No transport in here."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlsys.errors import WeightSyncError
from rlsys.protocols import Learner, RolloutEngine
from rlsys.types import Rollout, WeightReceipt, WeightUpdate

_COPY_MARKS = "#@"  # "<parameter>#packed@lm_head": a copy that an engine keeps of a parameter


@dataclass(frozen=True, slots=True)
class SyncReport:
    policy_version: int
    num_bytes: int
    seconds: float

    def metrics_row(self) -> dict[str, float]:
        return {"sync/checksum_ok": 1.0, "sync/bytes": float(self.num_bytes), "sync/seconds": self.seconds}


def sync_and_verify(learner: Learner, engines: RolloutEngine, policy_version: int) -> SyncReport:
    """Give the engines the learner's weights and check what each of them read back.

    Raises:
        WeightSyncError: an engine stamps another version, lacks a parameter, or holds other bits than were published.
    """
    start = time.perf_counter()
    update = learner.publish(policy_version)
    receipts = engines.load(update)
    if not receipts:
        raise WeightSyncError(f"version {policy_version}: no engine answered for it")
    for index, receipt in enumerate(receipts):
        verify_receipt(update, receipt, f"engine {index}")
    return SyncReport(policy_version, update.num_bytes, time.perf_counter() - start)


def verify_receipt(update: WeightUpdate, receipt: WeightReceipt, holder: str) -> None:
    """Compare an engine's receipt with what was published; raises `WeightSyncError` with the parameters' names."""
    if receipt.policy_version != update.policy_version:
        raise WeightSyncError(
            f"{holder} stamps policy version {receipt.policy_version}, published was {update.policy_version}"
        )
    if missing := sorted(update.checksums.keys() - receipt.checksums.keys()):
        raise WeightSyncError(f"{holder}, version {update.policy_version}: lacks {_some(missing)}")
    stale = [name for name, value in receipt.checksums.items() if _expected(update.checksums, name) != value]
    if stale:
        raise WeightSyncError(
            f"{holder}, version {update.policy_version}: does not hold what was published: {_some(stale)}"
        )


def check_gap(gap: float, bound: float, policy_version: int) -> float:
    """Return `gap`, the largest difference in nats between engine and learner on a token at the same version.

    Raises:
        WeightSyncError: it exceeds `bound`, or is not a number.
    """
    if not gap <= bound:
        raise WeightSyncError(
            f"version {policy_version}: engine and learner differ by {gap:.3g} nats on a token, allowed are {bound:g}: "
            "the engine does not compute with the published weights (sync.logprob_gap_bound sets the bound)"
        )
    return gap


def probe_gap(
    learner: Learner,
    engines: RolloutEngine,
    rollouts: Sequence[Rollout],
    bound: float,
    policy_version: int,
    deadline_seconds: float,
) -> float:
    """Let every engine and then the learner score the same completions now, and check the largest gap."""
    per_engine = engines.probe(rollouts)
    scores = learner.score(rollouts).result(deadline_seconds)
    expected = np.concatenate([score.logprobs for score in scores])
    gap = float(np.max([np.abs(np.concatenate(logprobs) - expected).max() for logprobs in per_engine]))
    return check_gap(gap, bound, policy_version)


def _expected(checksums: Mapping[str, int], name: str) -> int | None:
    return checksums.get(_parameter_of(name))


def _parameter_of(name: str) -> str:
    for mark in _COPY_MARKS:
        name = name.partition(mark)[0]
    return name


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
