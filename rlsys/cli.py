"""The program `rlsys`. Imports are late: `--help` and a mistyped key answer at once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rlsys.errors import RlsysError
from rlsys.interrupts import Interrupted


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 done, 1 failed while running, 2 wrong use, 130/143 after Ctrl-C/SIGTERM."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """`main` without the exit."""
    options = _parse(arguments)
    try:
        return int(options.run(options))
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
    from rlsys.config import load_config
    from rlsys.model_folder import check_model_path
    from rlsys.plan import describe_plan
    from rlsys.ray_session import find_resources

    config = load_config(options.config, options.overrides)
    check_model_path(config.model.path)
    placement = plan_placement(config.learner.num_ranks, config.rollout.num_engines, find_resources())
    prompts = load_prompts(config)
    print(describe_plan(config, placement, len(prompts.train), prompts.max_tokens))
    return 0


def _world(options: argparse.Namespace) -> int:
    from rlsys.data.arithmetic.command import make_world_with_progress
    from rlsys.interrupts import Interrupts

    with Interrupts():
        make_world_with_progress(options.overrides, Path(options.output))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from rlsys.doctor import examine

    is_fine = True
    for check in examine():
        print(f"{'ok  ' if check.is_fine else 'FAIL'}  {check.name:<14} {check.text}", flush=True)
        is_fine = is_fine and check.is_fine
    return 0 if is_fine else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """`key=value` may stand before and after `--resume`: argparse alone would refuse the latter."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    for argument in rest:
        if argument.startswith("-") or "=" not in argument or not hasattr(options, "overrides"):
            parser.error(f"unrecognized argument: {argument}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rlsys", description="RL post-training of language models: does it teach, or only sharpen?"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="train a policy as a configuration says")
    _add_config_arguments(train)
    train.add_argument("--resume", action="store_true", help="continue the run from its last checkpoint, exactly")
    train.set_defaults(run=_train)
    plan = commands.add_parser("plan", help="show what a configuration will do: batch arithmetic and placement")
    _add_config_arguments(plan)
    plan.set_defaults(run=_plan)
    world = commands.add_parser("world", help="make a small world: dataset, tokenizer and base model")
    world.add_argument("kind", choices=["arithmetic"])
    world.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the world: seed=7 dial=0.9")
    world.add_argument("-o", "--output", default="worlds/arithmetic", help="folder to make (default: %(default)s)")
    world.set_defaults(run=_world)
    doctor = commands.add_parser("doctor", help="check whether this machine can run rlsys")
    doctor.set_defaults(run=_doctor)
    return parser


def _add_config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="override a key of the configuration")
