from __future__ import annotations

import math

import torch

from rlsys.algorithms.reductions import mask_out, masked_sum, sequence_mean_weights


def test_sequence_mean_weights_by_hand() -> None:
    mask = torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    expected = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.25] * 4, [0.0] * 4])
    assert torch.equal(sequence_mean_weights(mask), expected)
    assert torch.equal(sequence_mean_weights(mask.bool()), expected)
    assert sequence_mean_weights(mask.double()).dtype == torch.float64


def test_weighted_sum_is_the_mean_of_means() -> None:
    values = torch.tensor([[1.0, 3.0, math.nan], [4.0, 5.0, 9.0]], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]], dtype=torch.float64)
    means = masked_sum(values, sequence_mean_weights(mask))
    torch.testing.assert_close(means, torch.tensor([2.0, 6.0], dtype=torch.float64))


def test_masked_values_leak_into_neither_sum_nor_gradient() -> None:
    values = torch.tensor([[0.5, math.nan, math.inf]], dtype=torch.float64, requires_grad=True)
    total = masked_sum(mask_out(values, torch.tensor([[1, 0, 0]])).exp(), torch.tensor([[1, 0, 0]]))
    total.sum().backward()
    assert total.item() == math.exp(0.5)
    assert values.grad.tolist() == [[math.exp(0.5), 0.0, 0.0]]
