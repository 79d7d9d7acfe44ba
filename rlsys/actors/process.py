"""What every actor process does first: send its output to a file in the run directory."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def redirect_output(log_file: str | None) -> None:
    """Append all that this process prints, native code included, to `log_file` (None: leave it to Ray)."""
    if log_file is None:
        return
    Path(log_file).parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
