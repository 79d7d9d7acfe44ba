"""Runs grouped into arms: one arm is one configuration, run with one or several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from rlsys.report.runs import Run
from rlsys.report.theme import DASHES, assign_colours
from rlsys.rundir.config_file import changed_keys

TASK_REGIMES = ("task", "tilted", "blended")
"""Those that see whether an answer is right; the purest first."""

LABEL_FREE_REGIMES = (
    "sharpening",
    "tempered",
    "negative_token_entropy",
    "negative_entropy_sum",
    "policy_logprob",
    "self_certainty",
    "answer_frequency",
    "majority_vote",
)
"""Those that see only what the model itself prefers."""

_ORDER = ("task", "tilted", "blended", *LABEL_FREE_REGIMES, "unlikeliness", "random_reward")
_USES_ALPHA = ("sharpening", "blended", "tempered", "tilted")
_USES_B = ("blended", "tilted")

# What may differ between two runs of one arm: who they are, where they ran, what they measured on the way.
_NOT_THE_ARM = (
    "name",
    "seed",
    "run_dir",
    "evaluation.*",
    "checkpoint.*",
    "logging.*",
    "deadlines.*",
    "oracle.*",
    "sync.*",
    "rollout.num_engines",
    "rollout.engine*",
    "learner.num_ranks",
    "learner.zero_stage",
    "learner.microbatch_tokens",
    "learner.deepspeed*",
    "reward.num_workers",
    "reward.calls.*",
)


@dataclass(frozen=True, slots=True)
class Arm:
    """Runs that differ in their seeds alone: `Arm("tempered \\u03b1 4", "tempered", runs, "tempered", "solid")`."""

    label: str
    regime: str
    runs: tuple[Run, ...]
    colour: str
    dash: str

    @property
    def id(self) -> str:
        """What the page calls it: `arm-tempered-a-4`, made of plain characters alone."""
        return "arm-" + "".join(char if char.isascii() and char.isalnum() else "-" for char in self.label)

    @property
    def is_control(self) -> bool:
        """`tempered` at alpha 1: its exact gradient is zero, so what moves is noise."""
        return self.regime == "tempered" and self.runs[0].config["regime"].get("alpha") == 1

    @property
    def knows_answers(self) -> bool:
        """Whether its reward depends on the task."""
        return self.regime in TASK_REGIMES

    @property
    def is_label_free(self) -> bool:
        """Whether its reward is what the model prefers already."""
        return self.regime in LABEL_FREE_REGIMES and not self.is_control


def group_runs(runs: Sequence[Run]) -> list[Arm]:
    """Arms in the order task, tilted, blended, sharpening, tempered, others; then by their settings."""
    groups: list[list[Run]] = []
    for run in runs:
        for group in groups:
            if not _arm_changes(group[0].config, run.config):
                group.append(run)
                break
        else:
            groups.append([run])
    groups.sort(key=lambda group: (_rank(group[0].regime), _settings(group[0].config)))
    labels = _labels(groups)
    colours = assign_colours([group[0].regime for group in groups])
    arms, num_seen = [], dict.fromkeys(colours, 0)
    for group, label in zip(groups, labels, strict=True):
        regime = group[0].regime
        dash = DASHES[num_seen[regime] % len(DASHES)]
        num_seen[regime] += 1
        members = tuple(sorted(group, key=lambda run: (run.seed is None, run.seed, run.label)))
        arms.append(Arm(label, regime, members, colours[regime], dash))
    return arms


def _arm_changes(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    changes = changed_keys(first, second)
    uses_alpha, uses_b = (_regime_of(first) in users for users in (_USES_ALPHA, _USES_B))
    ignored = [*_NOT_THE_ARM, *([] if uses_alpha else ["regime.alpha"]), *([] if uses_b else ["regime.kl_coef"])]
    return {key: pair for key, pair in changes.items() if not any(fnmatchcase(key, pattern) for pattern in ignored)}


def _regime_of(config: Mapping[str, Any]) -> str:
    return str(config.get("regime", {}).get("name", "task"))


def _rank(regime: str) -> int:
    return _ORDER.index(regime) if regime in _ORDER else len(_ORDER)


def _settings(config: Mapping[str, Any]) -> tuple[float, float]:
    regime = config.get("regime", {})
    return float(regime.get("alpha", 1.0)), float(regime.get("kl_coef", 0.0))


def settings_text(config: Mapping[str, Any]) -> tuple[str, str]:
    """alpha and b as they are shown; a dash where the regime does not use them."""
    regime, (alpha, b) = _regime_of(config), _settings(config)
    return f"{alpha:g}" if regime in _USES_ALPHA else "\u2013", short_number(b) if regime in _USES_B else "\u2013"


def short_number(value: float) -> str:
    """`0.5`, `1e-4`."""
    text = f"{value:g}" if value >= 1e-2 or value == 0 else f"{value:e}"
    mantissa, _, exponent = text.partition("e")
    return f"{float(mantissa):g}e{int(exponent)}" if exponent else text


def _labels(groups: Sequence[Sequence[Run]]) -> list[str]:
    """`tempered \u03b1 4`; where that names two arms, what else differs follows: `task, learner.lr 0.001`."""
    configs = [group[0].config for group in groups]
    plain = [_plain_label(config) for config in configs]
    labels = []
    for config, label in zip(configs, plain, strict=True):
        twins = [other for other, name in zip(configs, plain, strict=True) if name == label and other is not config]
        keys = dict.fromkeys(key for twin in twins for key in _arm_changes(config, twin))
        values = {key: changed_keys(config, twin)[key][0] for twin in twins for key in _arm_changes(config, twin)}
        labels.append(", ".join([label, *(f"{key} {values[key]}" for key in keys)]))
    return labels


def _plain_label(config: Mapping[str, Any]) -> str:
    regime, (alpha, b) = _regime_of(config), settings_text(config)
    parts = [f"\u03b1 {alpha}"] if regime in ("blended", "tempered", "tilted") else []
    parts += [f"b {b}"] if regime in _USES_B else []
    return " ".join([regime.replace("_", " "), ", ".join(parts)]).strip()
