"""The program `rlsys`. Imports are late: `--help` and a mistyped key answer at once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rlsys.arguments import parse
from rlsys.errors import RlsysError
from rlsys.interrupts import Interrupted


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 done, 1 failed while running, 2 wrong use, 130/143 after Ctrl-C/SIGTERM."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """`main` without the exit."""
    options = parse(arguments)
    try:
        return _COMMANDS[options.command](options)
    except RlsysError as error:
        print(f"rlsys {options.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Interrupted as interrupted:
        print(f"rlsys {options.command}: ended by {interrupted}", file=sys.stderr)
        return interrupted.exit_code


def _train(options: argparse.Namespace) -> int:
    from rlsys.config import load_config
    from rlsys.interrupts import Interrupts

    config = load_config(options.config, options.overrides)
    from rlsys.session import run_training
    from rlsys.summary import describe_run

    with Interrupts() as interrupts:
        last_step = run_training(config, options.resume, interrupts)
        print(describe_run(config, last_step))
        if interrupts.signal_number is not None and last_step < config.num_steps:
            print(f"interrupted after step {last_step}; the same command with --resume continues")
            return 128 + interrupts.signal_number
    return 0


def _plan(options: argparse.Namespace) -> int:
    from rlsys.actors.placement import plan_placement
    from rlsys.build import load_prompts
    from rlsys.config import advice, load_config
    from rlsys.data.loading import describe_accounts
    from rlsys.model_folder import check_model_path
    from rlsys.plan import describe_plan
    from rlsys.ray_session import find_resources
    from rlsys.rewards.task_reward import check_reward

    config = load_config(options.config, options.overrides)
    check_model_path(config.model.path)
    placement = plan_placement(config.learner.num_ranks, config.rollout.num_engines, find_resources())
    check_reward(config.reward, [str(Path.cwd())])
    prompts = load_prompts(config)
    for line in advice(config):
        print(f"note: {line}\n")
    print(describe_plan(config, placement, len(prompts.train), prompts.max_tokens, describe_accounts(prompts)))
    return 0


def _world(options: argparse.Namespace) -> int:
    from rlsys.data.arithmetic.command import make_world_with_progress
    from rlsys.interrupts import Interrupts

    with Interrupts():
        make_world_with_progress(options.overrides, Path(options.output))
    return 0


def _oracle(options: argparse.Namespace) -> int:
    from rlsys.config import load_config
    from rlsys.interrupts import Interrupts
    from rlsys.model_folder import check_model_path

    config = load_config(options.config, options.overrides)
    check_model_path(config.model.path)
    from rlsys.oracle_command import OracleOptions, run_oracle

    settings = OracleOptions(
        targets=tuple(options.targets.split(",")),
        num_problems=options.num_problems,
        tolerance=options.tolerance,
        max_expansions=options.max_expansions,
        max_seconds=options.max_seconds,
        per_length=options.per_length,
        output=None if options.output is None else Path(options.output),
    )
    with Interrupts():
        run_oracle(config, settings)
    return 0


def _grade(options: argparse.Namespace) -> int:
    from rlsys.grade_command import GradeOptions, grade_file, usable_cores
    from rlsys.interrupts import Interrupts

    settings = GradeOptions(
        input=Path(options.file),
        output=None if options.output is None else Path(options.output),
        num_workers=usable_cores() if options.workers is None else options.workers,
        deadline_seconds=options.deadline,
        require_box=options.require_box,
        overwrite=options.force,
    )
    with Interrupts():
        grade_file(settings)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from rlsys.doctor import examine

    is_fine = True
    for check in examine():
        print(f"{'ok  ' if check.is_fine else 'FAIL'}  {check.name:<14} {check.text}", flush=True)
        is_fine = is_fine and check.is_fine
    return 0 if is_fine else 1


_COMMANDS = {
    "train": _train,
    "plan": _plan,
    "world": _world,
    "oracle": _oracle,
    "grade": _grade,
    "doctor": _doctor,
}
