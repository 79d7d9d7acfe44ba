"""The run directory: configuration, manifest, metrics, rollouts, evaluations, checkpoints; atomic writes and resume."""

from rlsys.rundir.atomic import DiskFullError
from rlsys.rundir.checkpoints import Checkpoint
from rlsys.rundir.config_file import RESUMABLE_KEYS, read_config
from rlsys.rundir.directory import RunDirectory, holds_run
from rlsys.rundir.evaluation_files import read_evaluation
from rlsys.rundir.manifest import collect_manifest, read_manifest
from rlsys.rundir.metrics_file import MetricsFile, read_metrics
from rlsys.rundir.rollout_files import ROLLOUT_SCHEMA, read_rollouts

__all__ = [
    "RESUMABLE_KEYS",
    "ROLLOUT_SCHEMA",
    "Checkpoint",
    "DiskFullError",
    "MetricsFile",
    "RunDirectory",
    "collect_manifest",
    "holds_run",
    "read_config",
    "read_evaluation",
    "read_manifest",
    "read_metrics",
    "read_rollouts",
]
