"""Rollouts under way survive a checkpoint bit by bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlsys.rundir.pending_files import read_pending, write_pending
from rlsys.types import Prompt, Rollout, RolloutGroup

TOKENS = st.integers(0, 2**31 - 1)
TEXTS = st.text(max_size=6)


@st.composite
def rollouts(draw: st.DrawFn, prompt_ids: tuple[int, ...]) -> Rollout:
    completion = draw(st.lists(TOKENS, min_size=1, max_size=5))
    logprob = st.floats(width=32, max_value=0, allow_nan=False, allow_infinity=False)
    logprobs = draw(st.lists(logprob, min_size=len(completion), max_size=len(completion)))
    return Rollout(
        prompt_ids=np.array(prompt_ids, dtype=np.int32),
        completion_ids=np.array(completion, dtype=np.int32),
        rollout_logprobs=np.array(logprobs, dtype=np.float32),
        text=draw(TEXTS),
        finish_reason=draw(st.sampled_from(["stop", "length"])),
        policy_version=draw(st.integers(0, 2**40)),
        sample_index=draw(st.integers(0, 1000)),
        seed=draw(st.integers(0, 2**63 - 1)),
    )


@st.composite
def rollout_groups(draw: st.DrawFn) -> RolloutGroup:
    prompt = Prompt(draw(TEXTS), draw(TEXTS), tuple(draw(st.lists(TOKENS, min_size=1, max_size=4))), draw(TEXTS))
    return RolloutGroup(prompt, tuple(draw(st.lists(rollouts(prompt.token_ids), max_size=3))))


def content(batches: list[list[RolloutGroup]]) -> list[object]:
    """All that rollouts hold, arrays as dtype and bytes."""
    return [
        [
            (group.prompt, [[_plain(getattr(r, name)) for name in Rollout.__slots__] for r in group.rollouts])
            for group in b
        ]
        for b in batches
    ]


def _plain(value: object) -> object:
    return (value.dtype, value.tobytes()) if isinstance(value, np.ndarray) else (type(value), value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(rollout_groups(), max_size=2), max_size=3))
def test_what_is_written_is_read_bit_by_bit(tmp_path: Path, batches: list[list[RolloutGroup]]) -> None:
    write_pending(tmp_path, batches)
    assert content(read_pending(tmp_path)) == content(batches)


def test_none_under_way_is_kept_as_none(tmp_path: Path) -> None:
    write_pending(tmp_path, [])
    assert read_pending(tmp_path) == []
