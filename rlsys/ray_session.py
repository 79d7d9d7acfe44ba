"""Ray for one run: join the cluster that is there (a submitted job, `RAY_ADDRESS`) or start one on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rlsys.actors.placement import ClusterResources
from rlsys.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RaySession:
    """`RaySession("http://127.0.0.1:8265", ClusterResources(num_cpus=2, num_gpus=0))`."""

    dashboard_url: str | None
    resources: ClusterResources


@contextmanager
def ray_session() -> Iterator[RaySession]:
    """Connect on entry; on exit disconnect, and stop what was started here.

    Raises:
        ConfigError: `RAY_ADDRESS` names a cluster that does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    try:
        context = ray.init(
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    except ConnectionError as error:
        address = os.environ.get("RAY_ADDRESS")
        raise ConfigError(f"RAY_ADDRESS {address!r}: no Ray cluster answers there ({error})") from None
    try:
        yield RaySession(_dashboard_url(context), cluster_resources())
    finally:
        ray.shutdown()


def cluster_resources() -> ClusterResources:
    """What the connected cluster has in all."""
    import ray

    total = ray.cluster_resources()
    return ClusterResources(num_cpus=int(total.get("CPU", 0)), num_gpus=int(total.get("GPU", 0)))


def find_resources() -> ClusterResources:
    """What a run would find: the cluster of `RAY_ADDRESS`, or else this machine, without starting Ray."""
    if "RAY_ADDRESS" in os.environ:
        with ray_session() as session:
            return session.resources
    from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager
    from ray._private.utils import get_num_cpus

    num_gpus = NvidiaGPUAcceleratorManager.get_current_node_num_accelerators()
    return ClusterResources(num_cpus=int(get_num_cpus()), num_gpus=num_gpus)


def _dashboard_url(context: object) -> str | None:
    url = getattr(context, "dashboard_url", None)
    return f"http://{url}" if url else None
