"""Columns of completions as the page carries them: planes of bytes, gzip, base64.

Numbers of several bytes are split into one plane a byte, lowest first: the high planes are nearly constant, so gzip
takes them for nearly nothing. Log-probs are kept in 12 bits, `q = round(SCALE * log(1 + x / FINEST))` for x = -log p:
to a quarter of a percent from 0.003 nats on, to 2e-6 nats below. Sums over a completion are kept beside them, exactly.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

FINEST = 0.001
"""Nats; below it log-probs are told apart in absolute steps."""

LARGEST = 100.0
"""Nats; what is more surprising is shown as this much."""

UNKNOWN = 4095
_SCALE = (UNKNOWN - 1) / math.log1p(LARGEST / FINEST)


def quantised(logprobs: np.ndarray) -> np.ndarray:
    """uint16 [n] of log-probs [n]; NaN, which stands for what was not scored, is `UNKNOWN`.

    A log-prob of a rounding error above 0 counts as 0.
    """
    known = np.nan_to_num(-np.asarray(logprobs, dtype=np.float64), nan=0.0, posinf=LARGEST, neginf=0.0)
    codes = np.rint(_SCALE * np.log1p(np.clip(known, 0.0, LARGEST) / FINEST)).astype(np.uint16)
    return np.where(np.isnan(logprobs), UNKNOWN, codes).astype(np.uint16)


def dequantised(codes: np.ndarray) -> np.ndarray:
    """Log-probs of codes, as the page computes them."""
    values = -FINEST * np.expm1(codes.astype(np.float64) / _SCALE)
    return np.where(codes == UNKNOWN, np.nan, values)


def packed_codes() -> dict[str, float]:
    """What the page must know to undo `quantised`."""
    return {"finest": FINEST, "scale": _SCALE, "unknown": UNKNOWN}


def pack_numbers(values: np.ndarray) -> dict[str, Any]:
    """`{"type": "u2", "length": n, "data": ...}`: u1 to u4 by the largest value, f4 for floats."""
    if values.dtype.kind == "f":
        raw = np.ascontiguousarray(values, dtype="<f4")
        return _packed("f4", len(raw), raw.view(np.uint8).reshape(-1, 4).T.tobytes())
    largest = int(values.max(initial=0))
    num_bytes = next(size for size in (1, 2, 3, 4) if largest < 1 << (8 * size))
    planes = np.ascontiguousarray(values, dtype="<u4").view(np.uint8).reshape(-1, 4).T[:num_bytes]
    return _packed(f"u{num_bytes}", len(values), planes.tobytes())


def pack_texts(texts: Sequence[str]) -> dict[str, Any]:
    """Strings as one JSON list."""
    return _packed("json", len(texts), json.dumps(list(texts), ensure_ascii=True).encode())


def packed_size(columns: dict[str, Any]) -> int:
    """Bytes that columns take in the page."""
    return sum(len(column["data"]) for column in columns.values())


def compress(content: bytes) -> str:
    """gzip, then base64; equal content gives equal text."""
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()


def _packed(kind: str, length: int, content: bytes) -> dict[str, Any]:
    return {"type": kind, "length": length, "data": compress(content)}
