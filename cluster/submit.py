"""Run `rlsys train CONFIG` as a job on a Ray cluster: what `make submit` calls.

    python cluster/submit.py --address http://127.0.0.1:8265 experiments/arithmetic/task.yaml [key.sub=value ...]

The checkout goes along as the job's working folder, without `.venv`, `dist`, `runs` and `worlds`. That folder vanishes
with the job, so the run directory and every data or model path that exists here are handed over as absolute paths: on a
cluster of several machines they must lie on a disk that all of them see at the same place.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml

EXCLUDED = (".git", ".venv", "dist", "runs", "worlds")
PATH_KEYS = ("model.path", "data.train", "data.eval")


def absolute_path_overrides(config: dict[str, Any], overrides: list[str], root: Path) -> list[str]:
    """The overrides that make the relative paths of a run absolute.

    Args:
        config: The tree of the YAML file.
        overrides: The user's own `key.sub=value`, which win over the file.
        root: The folder that relative paths start from.

    Returns:
        `key=/absolute/path` for `run_dir`, unless it is a URI, and for each of `PATH_KEYS` that exists under `root`.
        What does not exist is left alone: it is a hub id, or a path that only the cluster knows.
    """
    given = dict(override.split("=", 1) for override in overrides if "=" in override)
    absolute = []
    for key in ("run_dir", *PATH_KEYS):
        value = given.get(key, _lookup(config, key))
        if key == "run_dir":
            value = value or "runs"
            if "://" not in value:
                absolute.append(f"{key}={(root / value).absolute()}")
        elif value and (root / value).exists():
            absolute.append(f"{key}={(root / value).absolute()}")
    return absolute


def _lookup(tree: Any, key: str) -> str | None:
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree if isinstance(tree, str) else None


def submit_command(address: str, config: str, overrides: list[str], resume: bool) -> list[str]:
    """The `ray job submit` command line. The cluster's own `rlsys` runs, or where it has none, this Python's."""
    programs = Path(sys.executable).parent
    runtime_env = {"excludes": list(EXCLUDED), "env_vars": {"PATH": f"${{PATH}}:{programs}"}}
    return [
        *(str(programs / "ray"), "job", "submit", "--address", address),
        *("--working-dir", ".", "--runtime-env-json", json.dumps(runtime_env)),
        *("--", "rlsys", "train", config, *overrides, *(["--resume"] if resume else [])),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Run `rlsys train CONFIG` as a job on a Ray cluster.")
    parser.add_argument("--address", default="http://127.0.0.1:8265", help="the cluster's dashboard")
    parser.add_argument("--resume", action="store_true", help="go on with the run that is there")
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value")
    arguments = parser.parse_intermixed_args()
    root = Path(__file__).resolve().parents[1]
    os.chdir(root)
    config = Path(arguments.config)
    if not config.is_file():
        parser.error(f"{config}: no such configuration file (paths start at {root})")
    if not config.resolve().is_relative_to(root):
        parser.error(f"{config}: must lie in {root}, since only that folder goes to the cluster")
    absolute = absolute_path_overrides(yaml.safe_load(config.read_text()), arguments.overrides, root)
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    command = submit_command(arguments.address, arguments.config, arguments.overrides + absolute, arguments.resume)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
