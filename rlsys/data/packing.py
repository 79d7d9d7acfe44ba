"""From ragged rollouts to microbatches: which rollouts share a forward pass, and the tensors of that pass.

Rows are padded on the right only, so that causal attention needs no mask: no valid token ever sees the padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch


class Sequenced(Protocol):
    """Anything with a prompt and a completion: a `Rollout`."""

    @property
    def prompt_ids(self) -> np.ndarray: ...

    @property
    def completion_ids(self) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class Microbatch:
    """The tensors of one forward pass over B sequences of at most L tokens, completions of at most T tokens."""

    input_ids: torch.Tensor  # int64 [B L], right-padded
    completion_ids: torch.Tensor  # int64 [B T], right-padded
    completion_mask: torch.Tensor  # bool [B T]
    predicting_positions: torch.Tensor  # int64 [num_completion_tokens], into the flattened [B * L] hidden states

    def to(self, device: torch.device) -> Microbatch:
        return Microbatch(
            self.input_ids.to(device),
            self.completion_ids.to(device),
            self.completion_mask.to(device),
            self.predicting_positions.to(device),
        )


def num_tokens(sequence: Sequenced) -> int:
    return len(sequence.prompt_ids) + len(sequence.completion_ids)


def plan_microbatches(lengths: Sequence[int], microbatch_tokens: int, multiple_of: int = 1) -> list[list[int]]:
    """Group sequences of similar length so that no microbatch, padding included, exceeds `microbatch_tokens`.

    The number of microbatches is a multiple of `multiple_of` (ranks must run equally many); some may be empty.
    The plan depends on the lengths alone, so the policy and the reference see the same microbatches.

    Args:
        lengths: tokens of each sequence, prompt and completion.

    Returns:
        Lists of indices into `lengths`.

    Raises:
        ValueError: a sequence is longer than `microbatch_tokens`.
    """
    if lengths and max(lengths) > microbatch_tokens:
        raise ValueError(f"a sequence of {max(lengths)} tokens exceeds microbatch_tokens = {microbatch_tokens}")
    by_length = sorted(range(len(lengths)), key=lambda index: lengths[index])
    num_microbatches = max(1, -(-sum(lengths) // microbatch_tokens))
    num_microbatches = -(-num_microbatches // multiple_of) * multiple_of
    while True:
        plan = _fill(by_length, lengths, num_microbatches)
        if all(_padded_tokens(group, lengths) <= microbatch_tokens for group in plan):
            return plan
        num_microbatches += multiple_of


def _fill(by_length: list[int], lengths: Sequence[int], num_microbatches: int) -> list[list[int]]:
    """Cut the sorted sequences into groups of about equal token counts."""
    plan: list[list[int]] = [[] for _ in range(num_microbatches)]
    total = sum(lengths)
    before = 0
    for index in by_length:
        plan[min(before * num_microbatches // total, num_microbatches - 1)].append(index)
        before += lengths[index]
    return plan


def _padded_tokens(group: list[int], lengths: Sequence[int]) -> int:
    return len(group) * max((lengths[index] for index in group), default=0)


def build_microbatch(sequences: Sequence[Sequenced]) -> Microbatch:
    """The tensors for one forward pass over `sequences` (at least one)."""
    max_length = max(num_tokens(sequence) for sequence in sequences)
    max_completion = max(len(sequence.completion_ids) for sequence in sequences)
    input_ids = np.zeros((len(sequences), max_length), dtype=np.int64)
    completion_ids = np.zeros((len(sequences), max_completion), dtype=np.int64)
    completion_mask = np.zeros((len(sequences), max_completion), dtype=bool)
    positions = []
    for row, sequence in enumerate(sequences):
        start, length = len(sequence.prompt_ids), len(sequence.completion_ids)
        input_ids[row, :start] = sequence.prompt_ids
        input_ids[row, start : start + length] = sequence.completion_ids
        completion_ids[row, :length] = sequence.completion_ids
        completion_mask[row, :length] = True
        positions.append(row * max_length + np.arange(start - 1, start + length - 1))
    return Microbatch(
        torch.from_numpy(input_ids),
        torch.from_numpy(completion_ids),
        torch.from_numpy(completion_mask),
        torch.from_numpy(np.concatenate(positions)),
    )


def pad_rows(rows: Sequence[np.ndarray], num_columns: int) -> torch.Tensor:
    """Ragged float rows as [B num_columns] float32, zeros on the right."""
    padded = np.zeros((len(rows), num_columns), dtype=np.float32)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return torch.from_numpy(padded)
