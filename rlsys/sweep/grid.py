"""From a sweep file to its runs: every combination, each a validated configuration with a name of its own.

Order: the values of `cross` are the outermost loop, so that a sweep stopped early leaves whole grids; then the entries
of `runs` as written; within an entry the last axis turns fastest.
"""

from __future__ import annotations

import copy
import difflib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlsys.config import Config
from rlsys.config.reading import flatten, read_yaml, set_key, validate_config
from rlsys.errors import ConfigError
from rlsys.sweep.spec import Assignments, SweepSpec

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run of a sweep: its configuration, and what of it the sweep set (`set` included)."""

    config: Config
    overrides: Assignments

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def path(self) -> Path:
        return self.config.path


def expand(spec: SweepSpec, folder: Path) -> list[PlannedRun]:
    """All runs of a sweep whose file lies in `folder`.

    Raises:
        ConfigError: a configuration is not valid, or two runs are the same or are called the same.
    """
    base_file = folder / spec.config
    base = read_yaml(base_file)
    combinations = list(combine(spec))
    varying = [*varying_keys(combinations), *spec.cross]  # an axis cut down to one value keeps its part of the names
    runs = [_plan(spec, base, str(base_file), chosen, varying) for chosen in combinations]
    _check_different(runs)
    return runs


def combine(spec: SweepSpec) -> Iterator[Assignments]:
    """What each run sets beside `spec.set`, in the order of the runs.

    Raises:
        ConfigError: a key stands in `runs` and in `cross`.
    """
    for shared in _grid(spec.cross):
        for entry in spec.runs:
            if twice := sorted(entry.keys() & spec.cross.keys()):
                raise ConfigError(f"{spec.name}: {twice[0]} stands in runs: and in cross: of the sweep; give it once")
            yield from (own | shared for own in _grid(entry))


def varying_keys(combinations: Sequence[Assignments]) -> list[str]:
    """The keys in which the runs differ, in the order in which they are first met."""
    keys = dict.fromkeys(key for chosen in combinations for key in chosen)
    return [key for key in keys if len({repr(chosen.get(key, _Unset)) for chosen in combinations}) > 1]


class _Unset:
    """What a run has for a key that only others set."""


def _grid(axes: Mapping[str, Any]) -> Iterator[Assignments]:
    values = [axis if isinstance(axis, list) else [axis] for axis in axes.values()]
    return (dict(zip(axes, chosen, strict=True)) for chosen in itertools.product(*values))


def _plan(
    spec: SweepSpec, base: dict[str, Any], base_file: str, chosen: Assignments, varying: Sequence[str]
) -> PlannedRun:
    overrides = spec.set | chosen
    tree = copy.deepcopy(base)
    if spec.run_dir is not None:
        tree["run_dir"] = spec.run_dir
    parts = [name_part(key, value, varying) for key, value in chosen.items() if key in varying and key != "name"]
    tree["name"] = "-".join([spec.name, *parts])
    where = f"{base_file} as run {chosen.get('name', tree['name'])!r}"
    for key, value in overrides.items():
        set_key(tree, key, copy.deepcopy(value), where)
    config = validate_config(tree, where)
    if spec.names is not None and "name" not in overrides:
        tree["name"] = fill_names(spec.names, config)
        config = validate_config(tree, where)
    return PlannedRun(config, overrides)


def name_part(key: str, value: Any, varying: Sequence[str]) -> str:
    """What a value adds to a run's name: `tempered`, `alpha4`, `seed1`, `ignore_eos`, `Qwen2.5-3B`.

    Two keys that end alike get one part more: `rollout.temperature` and `judge.temperature`.
    """
    parts = key.split(".")
    same_end = [other for other in varying if other != key and other.split(".")[-1] == parts[-1]]
    label = parts[-1] if not same_end or parts[-1] in ("name", "path") else "-".join(parts[-2:])
    text = as_text(value)
    if value is True:
        return safe(label)
    if label in ("name", "path"):
        return safe(text.rstrip("/").rsplit("/", 1)[-1])
    return safe(f"{label}{text}" if text[:1].isdigit() else f"{label}-{text}")


def as_text(value: Any) -> str:
    """A value as it stands in names: `4`, `0.0001`, `true`."""
    match value:
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def safe(text: str) -> str:
    """Only what a file name takes everywhere."""
    return _UNSAFE.sub("-", text).strip("-.")


def fill_names(template: str, config: Config) -> str:
    """`"arithmetic-{regime.name}"` with the configuration's values.

    Raises:
        ConfigError: it names a key that there is not.
    """
    values = flatten(config.model_dump(mode="json"))

    def value(match: re.Match[str]) -> str:
        key = match.group(1)
        if key not in values:
            close = difflib.get_close_matches(key, values, n=1)
            hint = f"; did you mean {{{close[0]}}}?" if close else ""
            raise ConfigError(f"names is {template!r}: the configuration has no value {{{key}}}{hint}")
        return safe(as_text(values[key]).rstrip("/").rsplit("/", 1)[-1])

    return _PLACEHOLDER.sub(value, template)


def _check_different(runs: Sequence[PlannedRun]) -> None:
    """No two runs are one and the same, or write into one folder.

    Raises:
        ConfigError: both are named, with what they set.
    """
    by_content: dict[str, PlannedRun] = {}
    by_path: dict[Path, PlannedRun] = {}
    for run in runs:
        content = repr(run.config.model_dump(mode="json", exclude={"name", "run_dir"}))
        if (other := by_content.setdefault(content, run)) is not run:
            raise ConfigError(
                f"runs {other.name!r} ({shown(other.overrides)}) and {run.name!r} ({shown(run.overrides)}) have the "
                "same configuration: the second would repeat the first; leave one out, or give them different seeds"
            )
        if (other := by_path.setdefault(run.path, run)) is not run:
            raise ConfigError(
                f"two runs would be called {run.name!r}: {shown(other.overrides)}, and {shown(run.overrides)}; let "
                "names: tell them apart, or leave it out"
            )


def shown(overrides: Mapping[str, Any]) -> str:
    """`regime.name=tempered regime.alpha=2`: as a command line takes it."""
    return " ".join(f"{key}={as_text(value)}" for key, value in overrides.items()) or "nothing set"
