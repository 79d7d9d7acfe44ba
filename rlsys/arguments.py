"""The command line of `rlsys`: its commands and their arguments. Nothing here is slow to import."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for, with the command's name in `command`.

    `key=value` may stand before and after `--resume`: argparse alone would refuse the latter.
    """
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
    plan = commands.add_parser("plan", help="show what a configuration will do: batch arithmetic and placement")
    _add_config_arguments(plan)
    world = commands.add_parser("world", help="make a small world: dataset, tokenizer and base model")
    world.add_argument("kind", choices=["arithmetic"])
    world.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the world: seed=7 dial=0.9")
    world.add_argument("-o", "--output", default="worlds/arithmetic", help="folder to make (default: %(default)s)")
    _add_oracle(commands)
    _add_grade(commands)
    commands.add_parser("doctor", help="check whether this machine can run rlsys")
    return parser


def _add_config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="override a key of the configuration")


def _add_oracle(commands: Any) -> None:
    oracle = commands.add_parser("oracle", help="compute where each regime would end on the held-out problems")
    _add_config_arguments(oracle)
    oracle.add_argument("-o", "--output", metavar="FILE.json", help="write all numbers, problem by problem")
    oracle.add_argument(
        "--targets",
        default="base,task,sharpening,blended,tempered,tilted",
        help="whose optima (%(default)s); enumeration goes on until all of them are certified",
    )
    oracle.add_argument("--num-problems", type=int, metavar="N", help="only so many, of all prompt lengths alike")
    oracle.add_argument("--per-length", action="store_true", help="print the whole table for each prompt length too")
    oracle.add_argument(
        "--tolerance", type=float, default=1e-3, help="unseen share of a certified optimum (%(default)s)"
    )
    oracle.add_argument(
        "--max-expansions", type=int, default=5_000, help="prefixes to look into per problem (%(default)s)"
    )
    oracle.add_argument("--max-seconds", type=float, help="stop enumerating then; what is not certified stays so")


def _add_grade(commands: Any) -> None:
    grade = commands.add_parser("grade", help="grade completions against gold answers, in bulk")
    grade.add_argument("file", metavar="FILE.jsonl", help="one object a line with `completion` and `gold`")
    grade.add_argument("-o", "--output", metavar="OUT.jsonl", help="default: FILE.graded.jsonl")
    grade.add_argument("--workers", type=int, metavar="N", help="processes (default: one per usable core)")
    grade.add_argument(
        "--deadline", type=float, default=5.0, metavar="SECONDS", help="for one answer (default: %(default)s)"
    )
    grade.add_argument("--require-box", action="store_true", help="a completion without \\boxed{} is wrong")
    grade.add_argument("--force", action="store_true", help="replace the output if it is there")
