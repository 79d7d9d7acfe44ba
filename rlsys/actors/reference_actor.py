"""The frozen reference as a Ray actor: a model that scores and never changes."""

from __future__ import annotations

from collections.abc import Sequence

import ray
import torch

from rlsys.actors.process import redirect_output
from rlsys.actors.wire import WireRollouts, WireScores, cut
from rlsys.data.packing import PLACEHOLDER
from rlsys.scoring import build_scorer, score_microbatch


class ReferenceActor:
    def start(self, model_path: str, dtype: str, log_file: str | None) -> None:
        """Load the model and run it once: first calls are slow."""
        redirect_output(log_file)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._scorer = build_scorer(model_path, dtype).to(self._device)
        score_microbatch(self._scorer, [PLACEHOLDER], self._device)

    def score(self, rollouts: WireRollouts, sizes: Sequence[int]) -> WireScores:
        """Score rollouts in microbatches of the given sizes."""
        microbatches = cut(rollouts.unpack(), sizes)
        scored = [score_microbatch(self._scorer, microbatch, self._device) for microbatch in microbatches]
        return WireScores.pack([score for microbatch in scored for score in microbatch])


RemoteReferenceActor = ray.remote(ReferenceActor)
