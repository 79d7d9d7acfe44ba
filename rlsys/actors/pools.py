"""The driver's view of the actors: each pool keeps its members' protocol, shares out the work and replaces the dead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlsys.actors.futures import ActorFuture, get
from rlsys.actors.seats import Actor, ObjectRef, Seats
from rlsys.actors.wire import WireBatch, WireRollouts, WireScores, cut
from rlsys.config import DeadlineConfig
from rlsys.data.packing import num_tokens, plan_microbatches
from rlsys.errors import ActorLostError, DeadlineError, LearnerError, RlsysError, RolloutError, ScoringError
from rlsys.learner.deepspeed_learner import LearnerSettings, Rendezvous
from rlsys.learner.update import count_loss_tokens, select
from rlsys.protocols import Future
from rlsys.rollout.vllm_engine import EngineSettings
from rlsys.types import (
    Prompt,
    Rollout,
    RolloutGroup,
    Sampling,
    StepResult,
    TokenScores,
    TrainingBatch,
    Verdict,
    WeightReceipt,
    WeightUpdate,
)
from rlsys.weights.sync import verify_receipt

_PING_SECONDS = 30.0
MAX_ATTEMPTS = 3
"""How often one piece of work is given out before the run stops."""


class RolloutPool:
    """Rollout actors behind the `RolloutEngine` protocol; a dead or silent one is replaced, its prompts re-issued."""

    def __init__(self, seats: Seats, settings: EngineSettings, logs: Path | None, deadlines: DeadlineConfig) -> None:
        self._seats = seats
        self._deadlines = deadlines
        self._last_update: WeightUpdate | None = None
        self._num_outstanding = 0
        self.num_restarts = 0
        self._starting = seats.start_all([settings], logs)

    @property
    def members(self) -> list[Actor]:
        return self._seats.actors

    def wait_until_ready(self) -> None:
        get(self._starting, self._deadlines.start, "start of the rollout engines", RolloutError)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Future[list[RolloutGroup]]:
        """Share the prompts out in order, in equal parts; the groups come back in the prompts' order."""
        bounds = np.linspace(0, len(prompts), len(self.members) + 1).round().astype(int)
        parts = [
            _Part(self, index, prompts[bounds[index] : bounds[index + 1]], sampling)
            for index in range(len(self.members))
            if bounds[index] < bounds[index + 1]
        ]
        self._num_outstanding += 1
        return _PendingRollouts(self, parts)

    def settle(self) -> None:
        """One request less that loads and probes queue behind."""
        self._num_outstanding -= 1

    def _patience(self) -> float:
        """Seconds that a load or probe may take: each waits its turn behind the batches that are out."""
        return self._deadlines.sync + self._num_outstanding * self._deadlines.generate

    def load(self, update: WeightUpdate) -> list[WeightReceipt]:
        """Load into every engine; the pool keeps the update for engines that start later."""
        self._last_update = update
        seconds = self._deadlines.sync
        references: list[ObjectRef] = [member.load.remote(update, seconds) for member in self.members]
        return [self._receipt(index, reference, update) for index, reference in enumerate(references)]

    def _receipt(self, index: int, reference: ObjectRef, update: WeightUpdate) -> WeightReceipt:
        what = f"weights of version {update.policy_version} into engine {index}"
        try:
            return get([reference], self._patience(), what, RolloutError)[0]
        except (ActorLostError, DeadlineError):
            return self.restart(index)

    def probe(self, rollouts: Sequence[Rollout]) -> list[list[np.ndarray]]:
        """Every engine's own log-probs of the given completions: engines x rollouts x [T]."""
        sequences = [(rollout.prompt_ids, rollout.completion_ids) for rollout in rollouts]
        references = [member.probe.remote(sequences) for member in self.members]
        return get(references, self._patience(), "log-prob probe of the engines", RolloutError)

    def restart(self, index: int) -> WeightReceipt:
        """Replace engine `index` by a fresh one that holds the last update, and give its receipt for it."""
        assert self._last_update is not None, "every run begins with a weight sync"
        self.num_restarts += 1
        get([self._seats.replace(index)], self._deadlines.start, f"restart of engine {index}", RolloutError)
        seconds, what = self._deadlines.sync, f"weights into the restarted engine {index}"
        loading = self.members[index].load.remote(self._last_update, seconds)
        [receipt] = get([loading], seconds, what, RolloutError)
        verify_receipt(self._last_update, receipt, f"restarted engine {index}")
        return receipt


@dataclass(slots=True)
class _Part:
    """One engine's share of the prompts, and the request that is out for it."""

    pool: RolloutPool
    index: int
    prompts: Sequence[Prompt]
    sampling: Sampling
    member: Actor = field(init=False)
    reference: ObjectRef = field(init=False)

    def __post_init__(self) -> None:
        self.issue()

    def issue(self) -> None:
        self.member = self.pool.members[self.index]
        self.reference = self.member.generate.remote(self.prompts, self.sampling)

    def result(self, deadline_seconds: float) -> list[RolloutGroup]:
        what = f"rollouts of step {self.sampling.step} from engine {self.index}"
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                [rollouts] = get([self.reference], deadline_seconds, what, RolloutError)
                groups = cut(rollouts.unpack(), [self.sampling.num_samples] * len(self.prompts))
                return [RolloutGroup(prompt, tuple(group)) for prompt, group in zip(self.prompts, groups, strict=True)]
            except (ActorLostError, DeadlineError):
                if attempt == MAX_ATTEMPTS:
                    raise
                if self.member is self.pool.members[self.index]:
                    self.pool.restart(self.index)
                self.issue()
        raise AssertionError("unreachable")


@dataclass(frozen=True, slots=True)
class _PendingRollouts:
    pool: RolloutPool
    parts: list[_Part]

    def result(self, deadline_seconds: float) -> list[RolloutGroup]:
        groups = [group for part in self.parts for group in part.result(deadline_seconds)]
        self.pool.settle()
        return groups


class GraderPool:
    """The grader actor behind the `Grader` protocol; a dead one is replaced once per request."""

    def __init__(self, seats: Seats, settings: Sequence[Any], logs: Path | None, deadlines: DeadlineConfig) -> None:
        self._seats = seats
        self._deadlines = deadlines
        self._starting = seats.start_all(settings, logs)

    @property
    def member(self) -> Actor:
        return self._seats.actors[0]

    def wait_until_ready(self) -> None:
        get(self._starting, self._deadlines.start, "start of the grader", ScoringError)

    def grade(self, groups: Sequence[RolloutGroup]) -> Future[list[list[Verdict]]]:
        pairs = [(rollout.text, group.prompt.gold) for group in groups for rollout in group.rollouts]
        return _PendingVerdicts(self, pairs, [len(group.rollouts) for group in groups])

    def replace(self) -> None:
        get([self._seats.replace(0)], self._deadlines.start, "restart of the grader", ScoringError)


class _PendingVerdicts:
    def __init__(self, pool: GraderPool, pairs: list[tuple[str, str]], sizes: list[int]) -> None:
        self._pool, self._pairs, self._sizes = pool, pairs, sizes
        self._reference = pool.member.grade.remote(pairs)

    def result(self, deadline_seconds: float) -> list[list[Verdict]]:
        what = f"verdicts on {len(self._pairs)} completions"
        try:
            [verdicts] = get([self._reference], deadline_seconds, what, ScoringError)
        except (ActorLostError, DeadlineError):
            self._pool.replace()
            retry = self._pool.member.grade.remote(self._pairs)
            [verdicts] = get([retry], deadline_seconds, f"{what}, second try", ScoringError)
        return cut(verdicts, self._sizes)


class ReferencePool:
    """Frozen references behind the `Scorer` protocol."""

    def __init__(
        self,
        seats: Seats,
        settings: Sequence[Any],
        logs: Path | None,
        microbatch_tokens: int,
        deadlines: DeadlineConfig,
    ) -> None:
        self._deadlines = deadlines
        self._microbatch_tokens = microbatch_tokens
        self._starting = seats.start_all(settings, logs)
        self.members = seats.actors

    def wait_until_ready(self) -> None:
        get(self._starting, self._deadlines.start, "start of the frozen reference", ScoringError)

    def score(self, rollouts: Sequence[Rollout]) -> Future[list[TokenScores]]:
        return _score(self.members, rollouts, self._microbatch_tokens, "reference log-probs", ScoringError)


class LearnerGroup:
    """Learner ranks behind the `Learner` protocol: shares out microbatches, answers with one voice."""

    def __init__(
        self,
        seats: Seats,
        settings: LearnerSettings,
        logs: Path | None,
        microbatch_tokens: int,
        deadlines: DeadlineConfig,
    ) -> None:
        self._deadlines = deadlines
        self._microbatch_tokens = microbatch_tokens
        self.members = seats.actors
        self._joining: list[ObjectRef] = []
        self._starting = seats.start_all([settings], logs)

    def begin_joining(self) -> None:
        """Let the ranks meet; `wait_until_ready` waits for it, so that other actors can start meanwhile."""
        get(self._starting, self._deadlines.start, "launch of the learner", LearnerError)
        address_of_first = self.members[0].find_address.remote()
        [address] = get([address_of_first], self._deadlines.start, "address of learner rank 0", LearnerError)
        timeout = max(self._deadlines.step, self._deadlines.start)
        num_ranks = len(self.members)
        self._joining = [
            member.join.remote(Rendezvous(address, rank, num_ranks, timeout))
            for rank, member in enumerate(self.members)
        ]

    def wait_until_ready(self) -> None:
        get(self._joining, self._deadlines.start, "start of the learner", LearnerError)

    def score(self, rollouts: Sequence[Rollout]) -> Future[list[TokenScores]]:
        return _score(self.members, rollouts, self._microbatch_tokens, "policy log-probs", LearnerError)

    def step(self, batch: TrainingBatch) -> StepResult:
        shares = _share(batch.rollouts, self._microbatch_tokens, len(self.members))
        denominator = float(count_loss_tokens(batch))
        references = [
            member.step.remote(WireBatch.pack(select(batch, share.indices)), share.sizes, denominator)
            for member, share in zip(self.members, shares, strict=True)
        ]
        return self._get(references, self._deadlines.step, "optimizer step of the learner")[0]

    def publish(self, policy_version: int) -> WeightUpdate:
        references = [member.publish.remote(policy_version) for member in self.members]
        what = f"publication of version {policy_version}"
        return self._get(references, self._deadlines.sync, what)[0]

    def save(self, directory: Path) -> None:
        references = [member.save.remote(directory.resolve()) for member in self.members]
        self._get(references, self._deadlines.checkpoint, f"checkpoint into {directory}")
        if not ((directory / "model").is_dir() and (directory / "state").is_dir()):
            raise LearnerError(f"{directory}: the learner wrote its checkpoint on another disk; run_dir must be shared")

    def load(self, directory: Path) -> None:
        references = [member.load.remote(directory.resolve()) for member in self.members]
        self._get(references, self._deadlines.checkpoint, f"checkpoint from {directory}")

    def _get(self, references: Sequence[ObjectRef], deadline_seconds: float, waiting_for: str) -> list[Any]:
        """As `get`; where one rank complains because another is gone, the loss is what is reported."""
        try:
            return get(references, deadline_seconds, waiting_for, LearnerError)
        except LearnerError:
            pings = [member.ping.remote() for member in self.members]
            get(pings, _PING_SECONDS, f"{waiting_for}: looking for lost ranks", LearnerError)
            raise


@dataclass(frozen=True, slots=True)
class _Share:
    """One member's part of some rollouts: their indices, microbatch after microbatch, and the microbatches' sizes."""

    indices: list[int]
    sizes: list[int]


def _share(rollouts: Sequence[Rollout], microbatch_tokens: int, num_members: int) -> list[_Share]:
    plan = plan_microbatches([num_tokens(rollout) for rollout in rollouts], microbatch_tokens, num_members)
    per_member = [plan[rank::num_members] for rank in range(num_members)]
    return [
        _Share([index for microbatch in own for index in microbatch], [len(microbatch) for microbatch in own])
        for own in per_member
    ]


def _score(
    members: Sequence[Actor],
    rollouts: Sequence[Rollout],
    microbatch_tokens: int,
    what: str,
    failure: type[RlsysError],
) -> ActorFuture[list[TokenScores]]:
    """Score over all members; with equally many members, policy and reference see the very same microbatches."""
    shares = _share(rollouts, microbatch_tokens, len(members))
    references = [
        member.score.remote(WireRollouts.pack([rollouts[index] for index in share.indices]), share.sizes)
        for member, share in zip(members, shares, strict=True)
    ]

    def combine(answers: list[WireScores]) -> list[TokenScores]:
        scores: dict[int, TokenScores] = {}
        for share, answer in zip(shares, answers, strict=True):
            scores |= zip(share.indices, answer.unpack(), strict=True)
        return [scores[index] for index in range(len(rollouts))]

    return ActorFuture(references, combine, what, failure)
