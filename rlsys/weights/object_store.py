"""Weight transfer through Ray's object store: works on one machine and over a cluster, with any engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import ray
import torch

from rlsys.types import WeightUpdate
from rlsys.weights.plan import Bucket, checksum, fill_buckets


def publish_buckets(
    named_tensors: Iterable[tuple[str, torch.Tensor]], policy_version: int, bucket_bytes: int
) -> WeightUpdate:
    """Put a version of the weights into the object store, bucket by bucket.

    Returns:
        The handle that engines load from; the objects live as long as somebody holds it.
    """
    checksums: dict[str, int] = {}

    def with_checksums() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in named_tensors:
            checksums[name] = checksum(tensor)
            yield name, tensor

    references, num_bytes = [], 0
    for bucket in fill_buckets(with_checksums(), bucket_bytes):
        references.append(ray.put((bucket.slots, bucket.data.numpy())))
        num_bytes += bucket.data.numel()
    return WeightUpdate(policy_version, tuple(references), checksums, num_bytes)


def fetch_buckets(references: Sequence[Any], timeout_seconds: float) -> list[Bucket]:
    """The buckets of a published version.

    Raises:
        ray.exceptions.GetTimeoutError: they did not arrive in time.
    """
    fetched = ray.get(list(references), timeout=timeout_seconds)
    return [Bucket(slots, torch.from_numpy(np.array(data))) for slots, data in fetched]  # a copy: Ray's is read-only
