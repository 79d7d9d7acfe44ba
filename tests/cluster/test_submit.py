"""A submitted job must find its files and leave its run behind, although its own folder vanishes."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.submit import absolute_path_overrides, submit_command

CONFIG = {
    "name": "arithmetic-task",
    "model": {"path": "worlds/arithmetic/base"},
    "data": {"train": "worlds/arithmetic/train.jsonl", "eval": "owner/dataset"},
}


def make_world(root: Path) -> None:
    (root / "worlds/arithmetic/base").mkdir(parents=True)
    (root / "worlds/arithmetic/train.jsonl").write_text("{}\n")


def test_paths_that_exist_become_absolute_and_hub_ids_stay(tmp_path: Path) -> None:
    make_world(tmp_path)
    assert absolute_path_overrides(CONFIG, [], tmp_path) == [
        f"run_dir={tmp_path}/runs",
        f"model.path={tmp_path}/worlds/arithmetic/base",
        f"data.train={tmp_path}/worlds/arithmetic/train.jsonl",
    ]


def test_the_users_override_wins_over_the_file(tmp_path: Path) -> None:
    make_world(tmp_path)
    overrides = ["run_dir=elsewhere", "model.path=owner/model", "seed=3"]
    assert absolute_path_overrides(CONFIG, overrides, tmp_path) == [
        f"run_dir={tmp_path}/elsewhere",
        f"data.train={tmp_path}/worlds/arithmetic/train.jsonl",
    ]


def test_absolute_and_remote_run_directories_are_kept(tmp_path: Path) -> None:
    assert absolute_path_overrides({"run_dir": "/shared/runs"}, [], tmp_path) == ["run_dir=/shared/runs"]
    assert absolute_path_overrides({}, ["run_dir=s3://bucket/runs"], tmp_path) == []


def test_the_job_is_the_same_command_without_what_must_not_travel() -> None:
    command = submit_command("http://127.0.0.1:8265", "task.yaml", ["seed=3"], resume=True)
    assert command[command.index("--") + 1 :] == ["rlsys", "train", "task.yaml", "seed=3", "--resume"]
    runtime_env = json.loads(command[command.index("--runtime-env-json") + 1])
    assert {".venv", "runs", "worlds"} <= set(runtime_env["excludes"])
