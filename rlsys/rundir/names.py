"""How files are named inside a run directory: one name per step, and a hidden one while something is being written."""

from __future__ import annotations

import re
from pathlib import Path

_STEP_NAME = re.compile(r"step-(\d{6,})(\.[a-z]+)?")
_PARTIAL_NAMES = ".*.partial"


def step_name(step: int, suffix: str = "") -> str:
    """`step_name(12, ".parquet")` is `step-000012.parquet`."""
    return f"step-{step:06d}{suffix}"


def partial_path(path: Path) -> Path:
    """Where `path` is written until it is complete (or moved to while it is being deleted)."""
    return path.with_name(f".{path.name}.partial")


def step_paths(folder: Path) -> list[tuple[int, Path]]:
    """The complete per-step files or folders in `folder` with their steps, oldest first; a missing folder has none."""
    if not folder.is_dir():
        return []
    matches = ((_STEP_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in matches if match)


def partial_paths(folder: Path) -> list[Path]:
    """What interrupted writes and deletions left in `folder`."""
    return sorted(folder.glob(_PARTIAL_NAMES)) if folder.is_dir() else []
