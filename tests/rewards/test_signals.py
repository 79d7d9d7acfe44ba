"""Signals are verdicts and scores as padded tensors, by hand."""

from __future__ import annotations

import numpy as np
import torch

from rlsys.rewards.signals import Signals, gather_signals
from rlsys.types import TokenScores, Verdict


def scores(*rows: list[float]) -> list[TokenScores]:
    return [TokenScores(np.array(row, dtype=np.float32), np.zeros(len(row), dtype=np.float32)) for row in rows]


def example() -> Signals:
    verdicts = [Verdict("correct", ""), Verdict("undecided", ""), Verdict("wrong", "")]
    return gather_signals(verdicts, scores([-1], [-2, -3], [-0.1]), scores([-4], [-5, -6], [-7]))


def test_tensors_by_hand() -> None:
    signals = example()
    assert signals.policy_logprobs.tolist() == [[-4, 0], [-5, -6], [-7, 0]]
    assert signals.reference_logprobs[:2].tolist() == [[-1, 0], [-2, -3]]
    assert signals.completion_mask.tolist() == [[1, 0], [1, 1], [1, 0]]
    assert signals.task_rewards[[0, 2]].tolist() == [1.0, 0.0]
    assert signals.task_rewards[1].isnan()
    assert signals.is_decided.tolist() == [True, False, True]


def test_everything_is_in_double_precision_and_no_bit_of_a_score_is_lost() -> None:
    signals = example()
    for tensor in (signals.task_rewards, signals.reference_logprobs, signals.policy_logprobs, signals.completion_mask):
        assert tensor.dtype == torch.float64
    assert signals.reference_logprobs[2, 0].item() == float(np.float32(-0.1)) != -0.1
