"""The configuration: one frozen tree, read from one YAML file plus `key.sub=value` overrides.

Unknown keys are errors, derived values are properties, and every message names the key, the value and what is allowed.
Components receive their own part, never the root.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rlsys.errors import ConfigError
from rlsys.types import Sampling

ENGINE_KEYS_SET_BY_RLSYS = {
    "model": "model.path",
    "tokenizer": "model.path",
    "dtype": "model.dtype",
    "seed": "seed",
    "max_model_len": "the longest prompt and rollout.max_completion_tokens",
    "weight_transfer_config": "rlsys itself",
    "logprobs_mode": "rlsys itself",
    "trust_remote_code": "rlsys itself: it stays off",
    "tensor_parallel_size": "rollout.num_engines: one engine per device",
    "pipeline_parallel_size": "rollout.num_engines: one engine per device",
    "data_parallel_size": "rollout.num_engines: one engine per device",
}


class Section(BaseModel):
    """A part of the configuration: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


DEEPSPEED_KEYS_SET_BY_RLSYS = {
    "train_batch_size": "rollout.num_prompts_per_step and rollout.group_size",
    "train_micro_batch_size_per_gpu": "learner.microbatch_tokens",
    "gradient_accumulation_steps": "learner.microbatch_tokens",
    "managed_gradient_accumulation": "rlsys itself",
    "gradient_clipping": "learner.max_grad_norm",
    "optimizer": "learner.lr and its neighbours",
    "scheduler": "learner.warmup_steps",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
}
DEEPSPEED_KEYS = {
    "activation_checkpointing", "aio", "comms_logger", "communication_data_type", "data_types", "flops_profiler",
    "gradient_predivide_factor", "memory_breakdown", "prescale_gradients", "steps_per_print",
    "wall_clock_breakdown", "zero_force_ds_cpu_optimizer", "zero_optimization",
}  # fmt: skip


class ModelConfig(Section):
    path: str
    """A Hugging Face model folder or hub id."""
    dtype: Literal["float32", "bfloat16"] = "float32"


class DataConfig(Section):
    train: str
    eval: str
    prompt_column: str = "problem"
    answer_column: str = "answer"
    id_column: str | None = "id"
    prompt_template: str = "{problem}"
    """The user's turn; `{problem}` is replaced by the prompt column. The model's chat template goes around it."""
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    """Longer prompts are bad rows; None: as long as the longest prompt is."""
    on_bad_row: Literal["error", "skip"] = "error"

    @model_validator(mode="after")
    def _template_holds_problem(self) -> Self:
        if "{problem}" not in self.prompt_template:
            raise ValueError("prompt_template must contain {problem}")
        return self


class RolloutConfig(Section):
    num_prompts_per_step: int = Field(default=32, ge=1)
    group_size: int = Field(default=8, ge=1)
    max_completion_tokens: int = Field(default=32, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    ignore_eos: bool = False
    num_engines: int = Field(default=1, ge=1)
    max_offpolicy_steps: int = Field(default=0, ge=0)
    engine: dict[str, Any] = Field(default_factory=dict)
    """Settings passed through to vLLM's engine, by vLLM's names."""

    @model_validator(mode="after")
    def _engine_keys_are_free(self) -> Self:
        for key in self.engine:
            if key in ENGINE_KEYS_SET_BY_RLSYS:
                raise ValueError(f"engine.{key} is set by {ENGINE_KEYS_SET_BY_RLSYS[key]}")
        return self

    @property
    def num_rollouts_per_step(self) -> int:
        return self.num_prompts_per_step * self.group_size


class RegimeConfig(Section):
    name: Literal["task", "sharpening", "blended", "tempered", "tilted"] = "task"
    alpha: float = Field(default=1.0, gt=0)
    kl_coef: float = Field(default=1e-4, gt=0)
    reduction: Literal["sum", "mean", "power_mean"] = "sum"
    length_power: float = 0.5


class ImportanceConfig(Section):
    kind: Literal["truncated", "none"] = "truncated"
    cap: float = Field(default=20.0, gt=0)


class AlgorithmConfig(Section):
    loss: Literal["reinforce"] = "reinforce"
    advantage: Literal["leave_one_out", "group_mean", "grpo"] = "leave_one_out"
    importance: ImportanceConfig = ImportanceConfig()


Beta = Annotated[float, Field(ge=0, lt=1)]


class LearnerConfig(Section):
    lr: float = Field(default=2e-4, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    num_ranks: int = Field(default=1, ge=1)
    zero_stage: Literal[0, 1, 2, 3] = 1
    microbatch_tokens: int = Field(default=8192, ge=1)
    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """Settings merged into DeepSpeed's own configuration, by DeepSpeed's names."""

    @model_validator(mode="after")
    def _deepspeed_keys_are_free(self) -> Self:
        for key in self.deepspeed:
            if key in DEEPSPEED_KEYS_SET_BY_RLSYS:
                raise ValueError(f"deepspeed.{key} is set by {DEEPSPEED_KEYS_SET_BY_RLSYS[key]}")
            if key not in DEEPSPEED_KEYS:
                raise ValueError(f"deepspeed.{key} is not known; allowed: {', '.join(sorted(DEEPSPEED_KEYS))}")
        if "stage" in self.deepspeed.get("zero_optimization", {}):
            raise ValueError("deepspeed.zero_optimization.stage is set by learner.zero_stage")
        return self


class RewardConfig(Section):
    num_workers: int = Field(default=1, ge=1)
    deadline_seconds: float = Field(default=5.0, gt=0)
    memory_limit_mib: int = Field(default=1024, ge=64)


class EvaluationConfig(Section):
    every_num_steps: int = Field(default=20, ge=1)
    num_problems: int = Field(default=200, ge=1)
    num_samples: int = Field(default=16, ge=1)


class CheckpointConfig(Section):
    every_num_steps: int = Field(default=40, ge=1)
    keep_last: int = Field(default=2, ge=1)


class SyncConfig(Section):
    bucket_mib: int = Field(default=64, ge=1)
    logprob_gap_bound: float | None = Field(default=None, gt=0)
    """Nats; None: 1e-4 in float32, 0.5 in bfloat16."""


class DeadlineConfig(Section):
    """Seconds that each wait may take before the run stops (or the actor is replaced)."""

    start: float = Field(default=600.0, gt=0)
    generate: float = Field(default=1800.0, gt=0)
    score: float = Field(default=1800.0, gt=0)
    step: float = Field(default=1800.0, gt=0)
    sync: float = Field(default=600.0, gt=0)
    checkpoint: float = Field(default=1800.0, gt=0)


class LoggingConfig(Section):
    save_rollouts_every_num_steps: int = Field(default=1, ge=0)
    """0: never."""


class Config(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(default=42, ge=0)
    num_steps: int = Field(ge=1)
    run_dir: str = "runs"
    model: ModelConfig
    data: DataConfig
    rollout: RolloutConfig = RolloutConfig()
    regime: RegimeConfig = RegimeConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    learner: LearnerConfig = LearnerConfig()
    reward: RewardConfig = RewardConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    sync: SyncConfig = SyncConfig()
    deadlines: DeadlineConfig = DeadlineConfig()
    logging: LoggingConfig = LoggingConfig()

    @model_validator(mode="after")
    def _batch_arithmetic_is_possible(self) -> Self:
        rollout, learner = self.rollout, self.learner
        if self.algorithm.advantage in ("leave_one_out", "grpo") and rollout.group_size < 2:
            raise ValueError(
                f"rollout.group_size is {rollout.group_size}, but algorithm.advantage "
                f"'{self.algorithm.advantage}' compares the completions of one prompt: use 2 or more"
            )
        if rollout.num_rollouts_per_step < learner.num_ranks:
            raise ValueError(
                f"learner.num_ranks is {learner.num_ranks}, but a step has only "
                f"{rollout.num_rollouts_per_step} rollouts (num_prompts_per_step x group_size)"
            )
        if rollout.num_prompts_per_step < rollout.num_engines:
            raise ValueError(
                f"rollout.num_engines is {rollout.num_engines}, but a step has only "
                f"{rollout.num_prompts_per_step} prompts (rollout.num_prompts_per_step)"
            )
        return self

    @property
    def path(self) -> Path:
        """The run directory: `<run_dir>/<name>`."""
        return Path(self.run_dir) / self.name

    def training_sampling(self, step: int) -> Sampling:
        rollout = self.rollout
        return Sampling(
            num_samples=rollout.group_size,
            max_completion_tokens=rollout.max_completion_tokens,
            seed=self.seed,
            step=step,
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            ignore_eos=rollout.ignore_eos,
        )

    def evaluation_sampling(self, step: int) -> Sampling:
        """At temperature 1 with normal stops, whatever training does."""
        return Sampling(self.evaluation.num_samples, self.rollout.max_completion_tokens, self.seed, step)

    @property
    def is_on_policy(self) -> bool:
        """Whether rollouts come from the very policy that is updated, so that their log-probs must be the learner's."""
        rollout = self.rollout
        return rollout.max_offpolicy_steps == 0 and rollout.temperature == 1.0 and rollout.top_p == 1.0

    @property
    def logprob_gap_bound(self) -> float:
        """Nats that engine and learner may differ by on one token at the same weights."""
        if self.sync.logprob_gap_bound is not None:
            return self.sync.logprob_gap_bound
        return {"float32": 1e-4, "bfloat16": 0.5}[self.model.dtype]


def load_config(file: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file, apply `key.sub=value` overrides, validate.

    Raises:
        ConfigError: one line that names the key, the value and what is allowed.
    """
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"{path}: no such configuration file")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date or number that is none
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of keys, found {type(tree).__name__}")
    apply_overrides(tree, overrides)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{path}: {describe_validation_error(error, Config)}") from None


def apply_overrides(tree: dict[str, Any], overrides: Iterable[str]) -> None:
    """Set `key.sub=value` in a nested dict; values are YAML.

    Raises:
        ConfigError: an override is not of that form.
    """
    for override in overrides:
        _apply_override(tree, override)


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r}: write it as key.sub=value")
    *parents, leaf = key.split(".")
    node: Any = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"override {override!r}: {parent!r} is a value, not a section")
    try:
        node[leaf] = _parse_value(text)
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"override {override!r}: {text!r} is not a YAML value") from None


def _parse_value(text: str) -> Any:
    value = yaml.safe_load(text)
    if isinstance(value, str):  # YAML 1.1 reads 1e-4 as text
        try:
            return float(value)
        except ValueError:
            return value
    return value


def describe_validation_error(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem that pydantic found, in one line that a person can act on."""
    first = error.errors()[0]
    location = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _keys_beside(model, first["loc"])
        close = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(sorted(known))}"
        return f"unknown key {location!r}; {hint}"
    if first["type"] == "missing":
        return f"key {location!r} is missing"
    message = first["msg"].removeprefix("Value error, ")
    if not location:
        return message
    if first["type"] == "value_error":
        return f"{location}.{message}"  # a section's own checks begin with the key
    return f"{location} is {first['input']!r}: {message[0].lower()}{message[1:]}"


def _keys_beside(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location[:-1]:
        annotation = model.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
