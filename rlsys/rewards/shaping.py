"""What is added to a reward to shape it: a penalty on overlong completions, and a KL penalty towards the reference.

Pure functions, without gradient; the reward's own scale decides what they are multiplied with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from rlsys.algorithms.kl import k1, k2, k3
from rlsys.algorithms.reductions import token_total

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

KlEstimator = Literal["k1", "k2", "k3"]

_ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}


def overlong_penalty(
    lengths: Int[Tensor, " N"] | Float[Tensor, " N"], max_completion_tokens: int, buffer_tokens: int
) -> Float[Tensor, " N"]:
    """DAPO's soft overlong punishment, to be added to the reward (Yu et al. 2025, arXiv 2503.14476, equation 13).

    0 up to max_completion_tokens - buffer_tokens, from there falling in a straight line to -1 at max_completion_tokens,
    and -1 beyond. Integer lengths (in tokens) give torch's default floating dtype.

    Raises:
        ValueError: not 1 <= buffer_tokens <= max_completion_tokens.
    """
    if not 1 <= buffer_tokens <= max_completion_tokens:
        raise ValueError(
            f"needs 1 <= buffer_tokens <= max_completion_tokens, "
            f"not buffer_tokens {buffer_tokens}, max_completion_tokens {max_completion_tokens}"
        )
    tokens = lengths.detach()
    floating = tokens if tokens.is_floating_point() else tokens.to(torch.get_default_dtype())
    return ((max_completion_tokens - buffer_tokens - floating) / buffer_tokens).clamp(-1, 0)


def kl_penalty(
    estimator: KlEstimator,
    policy_logprobs: Float[Tensor, "N T"],
    reference_logprobs: Float[Tensor, "N T"],
    loss_mask: Float[Tensor, "N T"] | Bool[Tensor, "N T"],
) -> Float[Tensor, " N"]:
    """Sum over valid tokens of the per-token estimator, in nats: what is subtracted from the reward, times its weight.

    In the reward only the value is used, never its derivative, so REINFORCE's mean gradient is

    - `k1`: that of the sequence KL(policy || reference): exact;
    - `k2`: that of the penalty's mean, less that of each prefix's own KL(policy || reference), prefixes held fixed;
    - `k3`: that of the sequence KL, less that of each prefix's own KL(reference || policy), prefixes held fixed.

    Near the reference what `k2` and `k3` leave out is nearly the whole gradient: use `k1` here. Sums are taken in
    float64 and returned in the dtype of `policy_logprobs`; masked positions may hold NaN.

    Raises:
        ValueError: an unknown estimator.
    """
    if estimator not in _ESTIMATORS:
        raise ValueError(f"unknown KL estimator {estimator!r}: one of {', '.join(_ESTIMATORS)}")
    policy, reference = (values.detach().to(torch.float64) for values in (policy_logprobs, reference_logprobs))
    return token_total(_ESTIMATORS[estimator](policy, reference, loss_mask), loss_mask).to(policy_logprobs.dtype)
