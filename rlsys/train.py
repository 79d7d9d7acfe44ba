"""The training loop: prompts, rollouts, rewards, advantages, update, weight sync; and again.

It knows protocols only. Synchronous training is `max_offpolicy_steps = 0`: one batch of rollouts is asked for and
waited for. With k, the engines are up to k batches ahead of the learner. There is one loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rlsys.config import Config
from rlsys.data.prompts import PromptSource
from rlsys.evaluation.evaluate import evaluate, evaluation_metrics
from rlsys.experience import Experience, Objective, judge
from rlsys.observe.clock import Clock
from rlsys.protocols import Future, Grader, Learner, MetricSink, RolloutEngine, Scorer
from rlsys.rundir.directory import RunDirectory
from rlsys.rundir.pending_files import read_pending, write_pending
from rlsys.types import Prompt, RolloutGroup
from rlsys.weights.sync import check_gap, probe_gap, sync_and_verify

NUM_PROBED_ROLLOUTS = 16


@dataclass(frozen=True, slots=True)
class Parts:
    """What a run is put together from; `build.py` makes it."""

    prompts: PromptSource
    evaluation_prompts: list[Prompt]
    engines: RolloutEngine
    grader: Grader
    reference: Scorer
    learner: Learner
    objective: Objective


@dataclass(frozen=True, slots=True)
class Ready:
    """Rollouts that are already here, as a `Future`."""

    groups: list[RolloutGroup]

    def result(self, deadline_seconds: float) -> list[RolloutGroup]:
        return self.groups


def train(parts: Parts, config: Config, run: RunDirectory, sink: MetricSink, should_stop: Callable[[], bool]) -> int:
    """Train from where `run` stands to `config.num_steps`, or until `should_stop()` is true after a step.

    Returns:
        The last step that was done; unless it is 0 there is a checkpoint of it.
    """
    engines, learner, deadlines = parts.engines, parts.learner, config.deadlines
    step, pending = _restore(parts, run)
    sync_and_verify(learner, engines, step)
    if run.start is None:
        sink.log(0, _evaluate(parts, config, run, step))
    num_asked, is_probed, stopping = step + len(pending), False, should_stop()
    while step < config.num_steps and not stopping:
        clock = Clock()
        with clock.measure("generate"):
            while len(pending) <= config.rollout.max_offpolicy_steps and num_asked < config.num_steps:
                num_asked += 1
                pending.append(engines.generate(parts.prompts.next_batch(), config.training_sampling(num_asked)))
            groups = pending.popleft().result(deadlines.generate)
        with clock.measure("reward"):
            experience = judge(groups, parts.grader, parts.reference, learner, parts.objective, deadlines.score)
        metrics = experience.metrics(policy_version=step, importance_cap=config.algorithm.importance.cap)
        step += 1
        if _is_due(step, config.logging.save_rollouts_every_num_steps, config):
            run.write_rollouts(step, groups, **experience.columns())
        if config.is_on_policy:
            gap = check_gap(experience.logprob_gap_max(), config.logprob_gap_bound, step - 1)
        else:
            gap = 0.0
            if not is_probed:  # what the engines were given at the start has not been seen at work yet
                _probe(parts, config, experience, step - 1)
        with clock.measure("learn"):
            update = learner.step(experience.training_batch())
        with clock.measure("sync"):
            sync = sync_and_verify(learner, engines, step)
            is_probed = not config.is_on_policy or step == config.num_steps  # no later rollouts show what engines hold
            if is_probed:
                gap = max(gap, _probe(parts, config, experience, step))
        metrics |= {"sync/logprob_gap_max": gap, **update.metrics_row(), **sync.metrics_row()}
        metrics |= clock.metrics(experience.num_completion_tokens(), experience.num_tokens())
        if _is_due(step, config.evaluation.every_num_steps, config):
            metrics |= _evaluate(parts, config, run, step)
        sink.log(step, metrics)
        stopping = should_stop()
        if stopping or _is_due(step, config.checkpoint.every_num_steps, config):
            pending = _checkpoint(parts, config, run, step, pending)
    return step


def _is_due(step: int, every_num_steps: int, config: Config) -> bool:
    return every_num_steps > 0 and (step % every_num_steps == 0 or step == config.num_steps)


def _probe(parts: Parts, config: Config, experience: Experience, step: int) -> float:
    """Let engines and learner, both at version `step`, score a few of the rollouts anew; the largest gap in nats."""
    rollouts = experience.rollouts[:NUM_PROBED_ROLLOUTS]
    return probe_gap(parts.learner, parts.engines, rollouts, config.logprob_gap_bound, step, config.deadlines.sync)


def _evaluate(parts: Parts, config: Config, run: RunDirectory, step: int) -> dict[str, float]:
    summary = evaluate(
        parts.evaluation_prompts, parts.engines, parts.grader, config.evaluation_sampling(step), config.deadlines
    )
    run.write_evaluation(step, summary)
    return evaluation_metrics(summary)


Pending = deque[Future[list[RolloutGroup]]]


def _restore(parts: Parts, run: RunDirectory) -> tuple[int, Pending]:
    if run.start is None:
        return 0, deque()
    state = run.start.run_state()
    parts.learner.load(run.start.path)
    parts.prompts.restore(state["prompts"])
    return run.start.step, deque(Ready(batch) for batch in read_pending(run.start.path))


def _checkpoint(parts: Parts, config: Config, run: RunDirectory, step: int, pending: Pending) -> Pending:
    """Save everything that the next step depends on; rollouts under way are waited for and saved too."""
    batches = [future.result(config.deadlines.generate) for future in pending]
    state = {"step": step, "policy_version": step, "prompts": parts.prompts.state()}
    with run.checkpoint_writer(step, state, keep_last=config.checkpoint.keep_last) as folder:
        parts.learner.save(folder)
        write_pending(folder, batches)
    return deque(Ready(batch) for batch in batches)
