"""From rows to prompts, and the resumable order in which training sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlsys.data.datasets import Row
from rlsys.errors import ConfigError, DataError
from rlsys.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def render_prompts(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    max_prompt_tokens: int | None,
    on_bad_row: str = "error",
) -> list[Prompt]:
    """One user turn per row, inside the model's chat template where it has one.

    Raises:
        DataError: a prompt has more than `max_prompt_tokens` tokens ("skip" leaves it out instead).
    """
    prompts = []
    for row in rows:
        text = render(template.replace("{problem}", row.problem), tokenizer)
        token_ids = tuple(tokenizer(text, add_special_tokens=tokenizer.chat_template is None)["input_ids"])
        if not token_ids:
            raise DataError(f"row {row.id!r}: the prompt has no tokens: is there a tokenizer in the model's folder?")
        if max_prompt_tokens is not None and len(token_ids) > max_prompt_tokens:
            if on_bad_row == "skip":
                continue
            raise DataError(
                f"row {row.id!r}: the prompt has {len(token_ids)} tokens, data.max_prompt_tokens is "
                f"{max_prompt_tokens}: raise it, or leave such rows out with data.on_bad_row=skip"
            )
        prompts.append(Prompt(row.id, text, token_ids, row.answer))
    if not prompts:
        raise DataError(f"no prompt has at most data.max_prompt_tokens = {max_prompt_tokens} tokens")
    return prompts


def render(user_turn: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text that the model continues; special tokens come from the chat template, so none are added later."""
    if tokenizer.chat_template is None:
        return user_turn
    messages = [{"role": "user", "content": user_turn}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert isinstance(rendered, str)
    return rendered


def check_fills_a_batch(num_prompts: int, batch_size: int) -> None:
    """Raises `ConfigError` where one batch takes more prompts than there are."""
    if num_prompts < batch_size:
        raise ConfigError(f"rollout.num_prompts_per_step is {batch_size}, but data.train has {num_prompts} prompts")


class PromptSource:
    """Endless batches of prompts, shuffled anew each epoch; where it stands is two numbers.

    An epoch's last prompts that do not fill a batch are left out, so a batch never holds a prompt twice.
    """

    def __init__(self, prompts: Sequence[Prompt], batch_size: int, seed: int) -> None:
        """
        Raises:
            ConfigError: fewer prompts than one batch takes.
        """
        check_fills_a_batch(len(prompts), batch_size)
        self._prompts = prompts
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0
        self._batch = 0

    def next_batch(self) -> list[Prompt]:
        if (self._batch + 1) * self._batch_size > len(self._prompts):
            self._epoch, self._batch = self._epoch + 1, 0
        order = np.random.default_rng([self._seed, self._epoch]).permutation(len(self._prompts))
        start = self._batch * self._batch_size
        self._batch += 1
        return [self._prompts[index] for index in order[start : start + self._batch_size]]

    def state(self) -> dict[str, int]:
        return {"epoch": self._epoch, "batch": self._batch}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._epoch, self._batch = int(state["epoch"]), int(state["batch"])
