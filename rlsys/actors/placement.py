"""Which actor goes where: a pure function of the configuration and of what the cluster has."""

from __future__ import annotations

from dataclasses import dataclass

from rlsys.errors import ConfigError

CPU_SHARE = 0.2
"""CPUs that an actor books on a machine without GPUs, where the actors take turns on the same cores."""


@dataclass(frozen=True, slots=True)
class ClusterResources:
    num_cpus: int
    num_gpus: int


@dataclass(frozen=True, slots=True)
class ActorSlot:
    """One actor's place: a bundle of the placement group, and what it books of that bundle."""

    kind: str  # "learner", "engine", "reference", "grader"
    index: int
    bundle: int
    num_cpus: float
    num_gpus: float
    num_threads: int


@dataclass(frozen=True, slots=True)
class PlacementPlan:
    bundles: tuple[dict[str, float], ...]
    slots: tuple[ActorSlot, ...]

    def of_kind(self, kind: str) -> list[ActorSlot]:
        return [slot for slot in self.slots if slot.kind == kind]


def plan_placement(num_ranks: int, num_engines: int, resources: ClusterResources) -> PlacementPlan:
    """Place learner ranks, engines, references (one beside each rank) and the grader.

    With GPUs every engine and every rank has one to itself; a reference shares its rank's. Without, ranks and engines
    take turns on the same cores: a bundle per core that either needs.

    Raises:
        ConfigError: the cluster has no room; the message says what is asked for and what there is.
    """
    if resources.num_gpus > 0:
        return _on_gpus(num_ranks, num_engines, resources)
    return _on_cpus(num_ranks, num_engines, resources)


def _on_cpus(num_ranks: int, num_engines: int, resources: ClusterResources) -> PlacementPlan:
    _require("learner.num_ranks", num_ranks, "CPUs", resources.num_cpus)
    _require("rollout.num_engines", num_engines, "CPUs", resources.num_cpus)
    rank_threads = max(1, resources.num_cpus // num_ranks)
    engine_threads = max(1, resources.num_cpus // num_engines)
    slots = [ActorSlot("learner", rank, rank, CPU_SHARE, 0, rank_threads) for rank in range(num_ranks)]
    slots += [ActorSlot("reference", rank, rank, CPU_SHARE, 0, rank_threads) for rank in range(num_ranks)]
    slots += [ActorSlot("engine", index, index, CPU_SHARE, 0, engine_threads) for index in range(num_engines)]
    slots += [ActorSlot("grader", 0, 0, CPU_SHARE, 0, 1)]
    return PlacementPlan(tuple({"CPU": 1.0} for _ in range(max(num_ranks, num_engines))), tuple(slots))


def _on_gpus(num_ranks: int, num_engines: int, resources: ClusterResources) -> PlacementPlan:
    needed = num_ranks + num_engines
    if needed > resources.num_gpus:
        raise ConfigError(
            f"learner.num_ranks {num_ranks} + rollout.num_engines {num_engines} need {needed} GPUs, "
            f"the cluster has {resources.num_gpus}"
        )
    _require("learner.num_ranks + rollout.num_engines", needed, "CPUs", resources.num_cpus)
    threads = max(1, resources.num_cpus // needed)
    slots = [ActorSlot("learner", rank, rank, CPU_SHARE, 0.6, threads) for rank in range(num_ranks)]
    slots += [ActorSlot("reference", rank, rank, CPU_SHARE, 0.4, threads) for rank in range(num_ranks)]
    slots += [ActorSlot("engine", index, num_ranks + index, CPU_SHARE, 1.0, threads) for index in range(num_engines)]
    slots += [ActorSlot("grader", 0, 0, CPU_SHARE, 0, 1)]
    return PlacementPlan(tuple({"CPU": 1.0, "GPU": 1.0} for _ in range(needed)), tuple(slots))


def _require(key: str, asked: int, what: str, available: int) -> None:
    if asked > available:
        raise ConfigError(f"{key} is {asked}, but the cluster has {available} {what}: lower it, or add a machine")
