"""From configuration to running parts: the one place that chooses implementations by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from rlsys.actors.grader_actor import RemoteGraderActor
from rlsys.actors.learner_actor import RemoteLearnerActor
from rlsys.actors.learner_group import LearnerGroup
from rlsys.actors.placement import ClusterResources, PlacementPlan, plan_placement
from rlsys.actors.reference_actor import RemoteReferenceActor
from rlsys.actors.reward_pools import GraderPool, ReferencePool
from rlsys.actors.rollout_actor import RemoteRolloutActor
from rlsys.actors.rollout_pool import RolloutPool
from rlsys.actors.seats import Seats
from rlsys.algorithms import advantages
from rlsys.config import Config
from rlsys.data.datasets import Columns, read_rows
from rlsys.data.prompts import PromptSource, check_fills_a_batch, render_prompts
from rlsys.errors import ConfigError
from rlsys.experience import AdvantageFunction, Objective, RewardFunction
from rlsys.learner.deepspeed_learner import LearnerSettings
from rlsys.learner.update import LossSettings
from rlsys.rewards.regimes import REGIMES, regime_reward
from rlsys.rollout.vllm_engine import EngineSettings
from rlsys.train import Parts
from rlsys.types import Prompt


@dataclass(frozen=True, slots=True)
class PromptSets:
    train: list[Prompt]
    evaluation: list[Prompt]

    def __iter__(self) -> Iterator[Prompt]:
        return chain(self.train, self.evaluation)

    @property
    def max_tokens(self) -> int:
        """Of the longest prompt."""
        return max(len(prompt.token_ids) for prompt in self)


@dataclass(frozen=True, slots=True)
class Actors:
    """Launched actor processes, by kind; they wait for their settings."""

    learner: Seats
    engine: Seats
    reference: Seats
    grader: Seats


@contextmanager
def launch(config: Config, resources: ClusterResources) -> Iterator[Actors]:
    """Place and launch every actor; on exit they are stopped.

    Raises:
        ConfigError: the cluster has no room.
    """
    placement = plan_placement(config.learner.num_ranks, config.rollout.num_engines, resources)
    with ExitStack() as stack:
        group = _reserve(placement, config.deadlines.start)
        stack.callback(remove_placement_group, group)

        def seats(kind: str, actor_class: Any) -> Seats:
            launched = Seats(actor_class, placement.of_kind(kind), group)
            stack.callback(launched.close)
            return launched

        engine = seats("engine", RemoteRolloutActor)  # the slowest to start goes first
        learner = seats("learner", RemoteLearnerActor)
        yield Actors(learner, engine, seats("reference", RemoteReferenceActor), seats("grader", RemoteGraderActor))


def assemble(config: Config, prompts: PromptSets, actors: Actors, logs: Path | None) -> Parts:
    """Give every actor its settings and wait until all are ready.

    Raises:
        RlsysError: an actor did not start.
    """
    deadlines, microbatch_tokens = config.deadlines, config.learner.microbatch_tokens
    engines = RolloutPool(actors.engine, _engine_settings(config, prompts.max_tokens), logs, deadlines)
    learner = LearnerGroup(actors.learner, _learner_settings(config), logs, microbatch_tokens, deadlines)
    reference_settings = [_model_path(config), config.model.dtype]
    reference = ReferencePool(actors.reference, reference_settings, logs, microbatch_tokens, deadlines)
    grader = GraderPool(actors.grader, _grader_settings(config), logs, deadlines)
    learner.begin_joining()
    for part in (learner, reference, grader, engines):
        part.wait_until_ready()
    return Parts(
        prompts=PromptSource(prompts.train, config.rollout.num_prompts_per_step, config.seed),
        evaluation_prompts=prompts.evaluation,
        engines=engines,
        grader=grader,
        reference=reference,
        learner=learner,
        objective=build_objective(config),
    )


def load_prompts(config: Config) -> PromptSets:
    """Training and evaluation prompts, checked and rendered.

    Raises:
        ConfigError, DataError: a file or a row is unusable, there are fewer problems than asked for, or prompt and
            completion do not fit into the model or into a microbatch.
    """
    from transformers import AutoTokenizer

    data = config.data
    columns = Columns(data.prompt_column, data.answer_column, data.id_column)
    tokenizer = _from_pretrained(AutoTokenizer, config.model.path)
    train, held_out = (
        render_prompts(
            read_rows(file, columns, data.on_bad_row, key),
            tokenizer,
            data.prompt_template,
            data.max_prompt_tokens,
            data.on_bad_row,
        )
        for key, file in (("data.train", data.train), ("data.eval", data.eval))
    )
    check_fills_a_batch(len(train), config.rollout.num_prompts_per_step)
    num_problems = config.evaluation.num_problems
    if len(held_out) < num_problems:
        raise ConfigError(f"evaluation.num_problems is {num_problems}, but data.eval has {len(held_out)} problems")
    prompts = PromptSets(train, held_out[:num_problems])
    _check_lengths(config, prompts.max_tokens)
    return prompts


def _from_pretrained(auto_class: Any, path: str) -> Any:
    try:
        return auto_class.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.path {path!r} does not load: {' '.join(str(error).split())}") from None


def _check_lengths(config: Config, max_prompt_tokens: int) -> None:
    from transformers import AutoConfig

    longest = max_prompt_tokens + config.rollout.max_completion_tokens
    sum_text = f"the longest prompt ({max_prompt_tokens} tokens) and rollout.max_completion_tokens"
    positions = getattr(_from_pretrained(AutoConfig, config.model.path), "max_position_embeddings", None)
    if positions is not None and longest + 1 > positions:
        raise ConfigError(
            f"rollout.max_completion_tokens is {config.rollout.max_completion_tokens}: with {sum_text} a sequence has "
            f"{longest} tokens, the model takes at most {positions - 1}"
        )
    if longest > config.learner.microbatch_tokens:
        raise ConfigError(
            f"learner.microbatch_tokens is {config.learner.microbatch_tokens}, but with {sum_text} one sequence may "
            f"have {longest}"
        )


def build_objective(config: Config) -> Objective:
    uses_task_reward = REGIMES[config.regime.name].needs_task_rewards
    return Objective(_reward(config), _advantage(config), uses_task_reward)


def _reward(config: Config) -> RewardFunction:
    regime = config.regime
    return lambda signals: regime_reward(
        regime.name,
        task_rewards=signals.task_rewards,
        reference_logprobs=signals.reference_logprobs,
        policy_logprobs=signals.policy_logprobs,
        loss_mask=signals.completion_mask,
        alpha=regime.alpha,
        kl_coef=regime.kl_coef,
        reduction=regime.reduction,
        length_power=regime.length_power,
    )


def _advantage(config: Config) -> AdvantageFunction:
    match config.algorithm.advantage:
        case "leave_one_out":
            return advantages.leave_one_out
        case "group_mean":
            return advantages.group_mean
        case "grpo":
            return advantages.grpo


def _engine_settings(config: Config, max_prompt_tokens: int) -> EngineSettings:
    # One token more than any sequence: a probe of a whole sequence samples one token, which is dropped.
    max_model_len = max_prompt_tokens + config.rollout.max_completion_tokens + 1
    return EngineSettings(_model_path(config), config.model.dtype, config.seed, max_model_len, config.rollout.engine)


def _model_path(config: Config) -> str:
    """A local folder by its whole path: actors on a cluster run elsewhere."""
    path = Path(config.model.path)
    return str(path.resolve()) if path.is_dir() else config.model.path


def _learner_settings(config: Config) -> LearnerSettings:
    learner, importance = config.learner, config.algorithm.importance
    return LearnerSettings(
        model_path=_model_path(config),
        dtype=config.model.dtype,
        seed=config.seed,
        loss=LossSettings(config.algorithm.loss, importance.cap if importance.kind == "truncated" else None),
        lr=learner.lr,
        weight_decay=learner.weight_decay,
        betas=learner.betas,
        eps=learner.eps,
        max_grad_norm=learner.max_grad_norm,
        warmup_steps=learner.warmup_steps,
        zero_stage=learner.zero_stage,
        bucket_bytes=config.sync.bucket_mib << 20,
        deepspeed=learner.deepspeed,
    )


def _grader_settings(config: Config) -> tuple[int, float, int]:
    reward = config.reward
    return reward.num_workers, reward.deadline_seconds, reward.memory_limit_mib << 20


def _reserve(placement: PlacementPlan, deadline_seconds: float) -> PlacementGroup:
    group = placement_group([dict(bundle) for bundle in placement.bundles], strategy="PACK")
    if not group.wait(deadline_seconds):
        remove_placement_group(group)
        raise ConfigError(f"the cluster did not free {list(placement.bundles)} within {deadline_seconds:g} s")
    return group
