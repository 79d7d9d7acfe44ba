"""One training run from command to exit: Ray, the run directory, the actors, the loop, and what may befall them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlsys.actors.placement import plan_placement
from rlsys.build import PromptSets, build, load_prompts
from rlsys.config import Config
from rlsys.errors import ActorLostError, ConfigError, RlsysError
from rlsys.interrupts import Interrupts
from rlsys.observe.console import ConsoleSink
from rlsys.observe.ray_metrics import RayMetricsSink
from rlsys.observe.sinks import Sinks
from rlsys.ray_session import RaySession, ray_session
from rlsys.rundir.directory import RunDirectory, check_can_resume, check_can_start
from rlsys.rundir.manifest import collect_manifest
from rlsys.scoring import check_model_path
from rlsys.train import train

MAX_RESTARTS = 3


def run_training(config: Config, resume: bool, interrupts: Interrupts) -> int:
    """Train until done or interrupted.

    Returns:
        The last step that was done.

    Raises:
        ConfigError, DataError, RunDirError: before anything is started or written.
        RlsysError: while running; the evidence is in `logs/failure.json`.
    """
    _check_before_start(config, resume)
    prompts = load_prompts(config)
    manifest = _manifest(config, prompts)
    with ray_session() as ray:
        plan_placement(config.learner.num_ranks, config.rollout.num_engines, ray.resources)
        for attempt in range(MAX_RESTARTS + 1):
            try:
                with _open_run(config, manifest, resume) as run:
                    return _train(config, prompts, run, ray, interrupts)
            except ActorLostError as error:
                if attempt == MAX_RESTARTS:
                    raise
                print(f"{error}; starting again from the last checkpoint", flush=True)  # noqa: T201
                resume = True
    raise AssertionError("unreachable")


def _check_before_start(config: Config, resume: bool) -> None:
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not Path(config.run_dir).is_absolute():
        raise ConfigError(
            f"run_dir is {config.run_dir!r}, but this is a submitted job, whose own folder vanishes: "
            "give an absolute path on a disk that stays"
        )
    if resume:
        check_can_resume(config.path, config.model_dump(mode="json"))
    else:
        check_can_start(config.path)
    check_model_path(config.model.path)


def _manifest(config: Config, prompts: PromptSets) -> dict[str, Any]:
    model = Path(config.model.path)
    return collect_manifest(
        seed=config.seed,
        data_files=[Path(config.data.train), Path(config.data.eval)],
        prompt_token_ids=[prompt.token_ids for prompt in prompts],
        reference_model=model if model.is_dir() else None,
    )


@contextmanager
def _open_run(config: Config, manifest: dict[str, Any], resume: bool) -> Iterator[RunDirectory]:
    resolved = config.model_dump(mode="json")
    open_run = RunDirectory.resume if resume else RunDirectory.create
    with open_run(config.path, resolved, manifest) as run:
        try:
            yield run
        except RlsysError as error:
            _save_evidence(run, error)
            raise


def _train(config: Config, prompts: PromptSets, run: RunDirectory, ray: RaySession, interrupts: Interrupts) -> int:
    first_step = run.start.step if run.start else 0
    if run.start is not None and first_step >= config.num_steps:
        return first_step
    with (
        build(config, prompts, ray.resources, run.logs.resolve()) as parts,
        ConsoleSink(config.num_steps, config.name, run.path, ray.dashboard_url, first_step) as console,
    ):
        sinks = Sinks(required=[run.metrics], optional=[console, RayMetricsSink(config.name)], warn=console.note)
        interrupts.begin_work(console.note)
        return train(parts, config, run, sinks, interrupts.should_stop)


def _save_evidence(run: RunDirectory, error: RlsysError) -> None:
    run.logs.mkdir(exist_ok=True)
    evidence = {"error": type(error).__name__, "message": str(error)}
    (run.logs / "failure.json").write_text(json.dumps(evidence, indent=2) + "\n")
