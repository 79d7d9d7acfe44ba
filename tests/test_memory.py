"""Memory figures: by hand, and against what autograd really keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rlsys.architecture import Architecture, parse_architecture
from rlsys.config import Config
from rlsys.data.packing import build_microbatch
from rlsys.memory import (
    GIB,
    Holding,
    Part,
    activation_bytes_per_token,
    engine_holding,
    learner_parts,
    logit_bytes,
    reference_parts,
    resting_bytes,
    shared_device,
)
from rlsys.scoring import CompletionScorer
from rlsys.types import Rollout

MODEL = Architecture("llama", 64, 2, 4, 4, 16, 96, 1000, 64, is_tied=True)
TREE: dict[str, Any] = {
    "name": "a",
    "num_steps": 10,
    "model": {"path": "m", "dtype": "bfloat16"},
    "data": {"train": "t.jsonl", "eval": "e.jsonl"},
    "rollout": {"num_prompts_per_step": 4, "group_size": 8, "max_completion_tokens": 30},
}


def config(**learner: Any) -> Config:
    return Config.model_validate(TREE | {"learner": {"microbatch_tokens": 64, **learner}})


def sizes(parts: list[Part]) -> dict[str, int]:
    """Bytes by what begins a part's name, phases apart."""
    return {f"{part.phase}/{part.name.split(',')[0].split(':')[0]}".lstrip("/"): part.num_bytes for part in parts}


def test_parameters_by_hand() -> None:
    """Head 1000 x 64; a layer 4 x 64 x 64 + 3 x 64 x 96 + 2 x 64; a last norm of 64: 133,952."""
    assert MODEL.num_parameters == 64_000 + 2 * (16_384 + 18_432 + 128) + 64 == 133_952


@pytest.mark.parametrize(
    ("learner", "per_parameter"),
    [  # parameters, master weights and moments, gradients; as counted on DeepSpeed
        ({"zero_stage": 0}, (2, 12, 2)),
        ({"zero_stage": 1}, (2, 12, 2)),
        ({"zero_stage": 1, "num_ranks": 2}, (2, 6, 2)),
        ({"zero_stage": 2, "num_ranks": 2}, (2, 6, 1)),
        ({"zero_stage": 2, "num_ranks": 2, "deepspeed": {"data_types": {"grad_accum_dtype": "fp32"}}}, (2, 6, 2)),
        ({"zero_stage": 3, "num_ranks": 2}, (1, 6, 1)),
    ],
)
def test_what_is_kept_per_parameter(learner: dict[str, Any], per_parameter: tuple[float, float, float]) -> None:
    held = sizes(learner_parts(config(**learner), MODEL, on_gpu=True))
    kept = held["parameters"], held["optimizer"], held["backward/gradients"]
    assert [size / MODEL.num_parameters for size in kept] == pytest.approx(per_parameter, rel=1e-4)
    assert held["optimizer step/gradients"] == held["backward/gradients"]


def test_float32_without_zero_has_no_master_weights() -> None:
    plain = Config.model_validate(TREE | {"model": {"path": "m"}, "learner": {"zero_stage": 0}})
    held = sizes(learner_parts(plain, MODEL, on_gpu=False))
    assert held["optimizer"] == 8 * MODEL.num_parameters
    assert held["parameters"] == 4 * MODEL.num_parameters


def test_only_one_phase_is_there_at_a_time() -> None:
    holding = Holding((Part("a", 10), Part("b", 1, "x"), Part("c", 2, "x"), Part("d", 5, "y")))
    assert (holding.always_bytes, holding.phase_bytes("x"), holding.peak_bytes) == (10, 3, 15)


def test_a_larger_microbatch_needs_more_and_more_ranks_need_less() -> None:
    def peak(**learner: Any) -> int:
        return Holding(tuple(learner_parts(config(**learner), MODEL, on_gpu=True))).peak_bytes

    assert peak(microbatch_tokens=128) > peak(microbatch_tokens=64)
    big = {"zero_stage": 2, "deepspeed": {"zero_optimization": {"reduce_bucket_size": 1000}}, "microbatch_tokens": 40}
    four, two = (learner_parts(config(num_ranks=ranks, **big), MODEL, on_gpu=True) for ranks in (4, 2))
    assert Holding(tuple(four)).peak_bytes < Holding(tuple(two)).peak_bytes


def test_logits_by_hand() -> None:
    """64 tokens x 1000: bfloat16 and float32, both with gradients, and two softmaxes in float32."""
    assert logit_bytes(config(), MODEL, with_gradient=True) == 64_000 * (6 + 6 + 8)
    wide = Architecture("llama", 64, 2, 4, 4, 16, 96, 1 << 17, 64, is_tied=True)
    many = config(microbatch_tokens=100_000)  # 2**26 logits at a time: 512 tokens of this vocabulary
    assert logit_bytes(many, wide, with_gradient=False) == (1 << 26) * 6 + 8 * (1 << 25)


def test_the_engine_by_hand() -> None:
    """Of 10 GiB 0.92 are its own; a sequence of 8 + 30 + 1 tokens takes 3 blocks of 16, 512 bytes a token."""
    engine = engine_holding(config(), MODEL, max_prompt_tokens=8, gpu_bytes=10 * GIB)
    assert engine.holding.peak_bytes == round(0.92 * 10 * GIB)
    assert engine.kv_bytes_per_token == 2 * 2 * 64 * 2 == 512
    assert engine.num_sequences_that_fit == engine.kv_bytes // (512 * 48)
    assert engine.num_sequences_asked == 32


def test_an_engine_without_room_for_its_model() -> None:
    engine = engine_holding(config(), MODEL, max_prompt_tokens=8, gpu_bytes=GIB)
    assert engine.kv_bytes < 0
    assert engine.num_sequences_that_fit == 0


def test_a_reference_keeps_no_gradients() -> None:
    held = sizes(reference_parts(config(), MODEL, on_gpu=True))
    assert held["reference"] > 0
    assert not any(part.phase for part in reference_parts(config(), MODEL, on_gpu=True))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_activations_are_what_autograd_keeps(kind: str, dtype: str) -> None:
    """Every storage that the forward pass of the learner's scorer saves, parameters and logits aside."""
    from transformers import AutoConfig, AutoModelForCausalLM

    numbers = {
        "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 24,
        "intermediate_size": 160, "vocab_size": 50, "max_position_embeddings": 512,
    }  # fmt: skip
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **numbers), dtype=getattr(torch, dtype)).eval()
    completion = np.ones(255, dtype=np.int32)
    rollout = Rollout(np.ones(1, dtype=np.int32), completion, np.zeros(255, np.float32), "", "stop", 0, 0, 0)
    microbatch = build_microbatch([rollout, rollout])
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}
    alive = []  # so that no address is used twice

    def save(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        CompletionScorer(model)(microbatch)
    num_tokens, width = 2 * 256, {"float32": 4, "bfloat16": 2}[dtype]
    logits = 2 * 255 * 50 * 4
    architecture = parse_architecture(numbers | {"model_type": kind}, kind)
    expected = num_tokens * activation_bytes_per_token(architecture, width, on_gpu=False)
    assert sum(kept.values()) - logits == pytest.approx(expected, rel=0.03)


def test_a_device_in_turns_holds_one_party_at_a_time() -> None:
    """The optimizer is there but while the engine samples; what an engine keeps asleep is always there."""
    shared = Config.model_validate(
        TREE | {"rollout": TREE["rollout"] | {"colocated": True}, "learner": {"microbatch_tokens": 64}}
    )
    rank, reference = learner_parts(shared, MODEL, on_gpu=True), reference_parts(shared, MODEL, on_gpu=True)
    engine = engine_holding(shared, MODEL, max_prompt_tokens=8, gpu_bytes=10 * GIB)
    assert engine.holding.peak_bytes == 5 * GIB  # half of the device
    together = shared_device(rank, reference, engine.holding, scoring=7)
    assert together.phases == ["sampling", "backward", "optimizer step", "checkpoint"]
    optimizer = 12 * MODEL.num_parameters
    for phase in together.phases:
        held = sum(part.num_bytes for part in together.parts if part.phase == phase and part.rests)
        assert held == (0 if phase == "sampling" else optimizer)
    asleep = next(part.num_bytes for part in engine.holding.parts if "CUDA and its graphs" in part.name)
    assert together.phase_bytes("sampling") == 5 * GIB - asleep + 7
    own = sum(part.num_bytes for part in rank if not part.phase and not part.rests)
    assert together.always_bytes == own + Holding(tuple(reference)).always_bytes + asleep


def test_a_resting_optimizer_takes_blocks_that_are_powers_of_two() -> None:
    """133,952 parameters: three blocks of 4 bytes each, 535,808, which are rounded up to 2**20."""
    assert resting_bytes(learner_parts(config(), MODEL, on_gpu=True)) == 3 << 20
