"""Weight transfer without a copy: engines read the learner's own memory.

On a GPU that learner and engine share, by CUDA IPC; on a CPU, by shared memory, into which the learner's weights move
when they are first published. The engine copies into its own parameters before it gives its receipt, and the learner
changes nothing until then: `sync_and_verify` waits for every receipt.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.multiprocessing.reductions import rebuild_cuda_tensor, reduce_tensor

from rlsys.errors import WeightSyncError
from rlsys.types import WeightUpdate
from rlsys.weights.plan import Bucket, TensorSlot, alias_buckets, with_checksums

_DEVICE_ARGUMENT = 6  # of `rebuild_cuda_tensor`: the device's number, as the sender counts


@dataclass(frozen=True, slots=True)
class SharedBucket:
    """Tensors in the memory of another process on the same device."""

    place: str
    """The device: a GPU's UUID, or `cpu of host-3`."""
    slots: tuple[TensorSlot, ...]
    handle: tuple[Any, ...]

    def fetch(self, timeout_seconds: float) -> Bucket:
        """The bucket itself, mapped into this process; good until the learner's next step."""
        if self.place.startswith("cpu"):
            storage = torch.UntypedStorage._new_shared_filename_cpu(*self.handle)
            return Bucket(self.slots, torch.empty(0, dtype=torch.uint8).set_(storage))
        arguments = list(self.handle)
        arguments[_DEVICE_ARGUMENT] = torch.cuda.current_device()
        return Bucket(self.slots, rebuild_cuda_tensor(*arguments))


@dataclass(slots=True)
class SharedMemoryTransfer:
    """One learner rank's end. On GPUs every rank shares its own copy, for the engine beside it; on CPUs the first."""

    _published: list[Bucket] = field(default_factory=list)
    """What is lent out: kept, where the learner itself would let go of it (ZeRO-3)."""

    def publish(self, named_tensors: Iterable[tuple[str, torch.Tensor]], policy_version: int) -> WeightUpdate:
        checksums: dict[str, int] = {}
        self._published = alias_buckets(with_checksums(named_tensors, checksums))
        num_bytes = sum(slot.num_bytes for bucket in self._published for slot in bucket.slots)
        shared = tuple(_share(bucket) for bucket in self._published)
        return WeightUpdate(policy_version, shared, checksums, num_bytes, loads="while_published")


def _share(bucket: Bucket) -> SharedBucket:
    if bucket.data.is_cuda:
        torch.cuda.synchronize()  # what was written is there before another process looks
        _, arguments = reduce_tensor(bucket.data)
        return SharedBucket(place_of(bucket.data.device), bucket.slots, arguments)
    handle = bucket.data.untyped_storage()._share_filename_cpu_()
    return SharedBucket(place_of(bucket.data.device), bucket.slots, handle)


def place_of(device: torch.device) -> str:
    """The physical device, by a name that every process on the machine gives it."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_properties(device).uuid)
    return f"cpu of {socket.gethostname()}"


def buckets_at(buckets: Sequence[Any], place: str) -> list[Any]:
    """Of what several learner ranks have published, what lies at `place`.

    Raises:
        WeightSyncError: nothing does.
    """
    own = [bucket for bucket in buckets if not isinstance(bucket, SharedBucket) or bucket.place == place]
    if not own:
        places = ", ".join(sorted({bucket.place for bucket in buckets}))
        raise WeightSyncError(
            f"sync.transfer 'ipc': the engine is on {place}, the learner on {places}: "
            "use 'nccl' or 'object_store' between devices"
        )
    return own
