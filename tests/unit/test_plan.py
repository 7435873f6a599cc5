"""Prevents a plan whose figures differ from vLLM's, and a start that could not have fitted from the beginning."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deploy.architecture import MISTRAL_7B_V01, MISTRAL_7B_V03, Architecture, ModelSource
from deploy.errors import UsageError
from deploy.machine import Gpu, Machine
from deploy.plan import Plan, make_plan, render
from deploy.plan.kv import KvLayout
from deploy.plan.memory import activation_bytes
from deploy.plan.sizes import human
from deploy.settings import Settings

GIB = 1024**3
MIB = 1024**2

DEMO = Architecture(
    name="MistralForCausalLM",
    hidden_size=576,
    layers=30,
    heads=9,
    kv_heads=3,
    head_dim=64,
    intermediate_size=1536,
    vocab_size=49152,
    max_position_embeddings=8192,
    sliding_window=1024,
    tie_word_embeddings=True,
    dtype="bfloat16",
)
LAPTOP = Machine(cores=(0, 1), memory_bytes=24 * GIB, free_memory_bytes=22 * GIB, gpus=())
OLD_CPU = replace(LAPTOP, bfloat16=False)
L4 = Gpu("NVIDIA L4", 24 * GIB, int(23.5 * GIB))
GPU_BOX = Machine(cores=tuple(range(16)), memory_bytes=64 * GIB, free_memory_bytes=60 * GIB, gpus=(L4, L4))


def source(architecture: Architecture | None = DEMO, **changes: Any) -> ModelSource:
    size = None if architecture is None else architecture.weight_bytes
    found = ModelSource(
        kind="hub",
        model="org/model",
        name="org/model",
        directory=None,
        architecture=architecture,
        weight_bytes=size,
        download_bytes=size,
        has_chat_template=True,
    )
    return replace(found, **changes)


def plan(
    architecture: Architecture | None = DEMO,
    machine: Machine = LAPTOP,
    *,
    cluster: bool = False,
    starting: bool = True,
    model: dict[str, Any] | None = None,
    **settings: Any,
) -> Plan:
    return make_plan(
        Settings(**settings), source(architecture, **(model or {})), machine, cluster=cluster, starting=starting
    )


def cache(planned: Plan) -> Any:
    return planned.as_dict()["kv_cache"]


def refusal(*arguments: Any, **settings: Any) -> str:
    with pytest.raises(UsageError) as caught:
        plan(*arguments, **settings)
    return str(caught.value)


class TestKvCacheOnACpu:
    """The counts are vLLM 0.29's own, as it logged them on a CPU."""

    def test_the_demo_model_with_its_window_counts_as_vllm_does(self) -> None:
        found = cache(plan(vllm={"kv_cache_gib": 1, "max_model_len": 8192}))
        assert found["tokens"] == 122_964
        assert found["sequences_of_max_model_len"] == 15.01
        assert found["block_size"] == 32

    def test_the_demo_model_with_full_attention_counts_as_vllm_does(self) -> None:
        found = cache(plan(replace(DEMO, sliding_window=None), vllm={"kv_cache_gib": 1, "max_model_len": 8192}))
        assert found["tokens"] == 46_592
        assert found["sequences_of_max_model_len"] == 5.69
        assert found["block_size"] == 128

    def test_mistral_7b_with_3_gib_counts_as_vllm_does(self) -> None:
        found = cache(plan(MISTRAL_7B_V01, vllm={"kv_cache_gib": 3, "max_model_len": 16384}))
        assert found["tokens"] == 65_196

    def test_mistral_7b_v01_costs_128_kib_a_token_and_its_window_512_mib(self) -> None:
        found = cache(plan(MISTRAL_7B_V01))
        assert found["per_token_bytes"] == 131_072
        assert found["window_alone_bytes"] == 512 * MIB
        # 4,095 tokens of window, a chunk of 2,048, in blocks of 32, and one more block: 193 blocks of 4 MiB.
        assert found["sequence_bytes"] == 193 * 4 * MIB
        assert found["sequence_without_window_bytes"] == 4 * GIB

    def test_mistral_7b_v03_has_no_window_and_needs_4_gib_at_32k(self) -> None:
        found = cache(plan(MISTRAL_7B_V03))
        assert found["sliding_window"] is None
        assert "window_alone" not in found
        assert found["sequence_bytes"] == found["sequence_without_window_bytes"] == 4 * GIB

    def test_a_given_block_size_changes_full_attention_only(self) -> None:
        assert plan(MISTRAL_7B_V03, engine={"block_size": 64}).block_size == 64
        assert plan(MISTRAL_7B_V01, engine={"block_size": 64}).block_size == 32

    def test_an_fp8_cache_takes_half(self) -> None:
        assert cache(plan(MISTRAL_7B_V01, engine={"kv_cache_dtype": "fp8"}))["per_token_bytes"] == 65_536

    def test_weights_stored_in_32_bits_are_served_in_16(self) -> None:
        planned = plan(replace(DEMO, dtype="float32"))
        assert planned.as_dict()["engine"]["dtype"] == "bfloat16"
        assert planned.as_dict()["model"]["weights_bytes"] == DEMO.weight_bytes
        assert cache(planned)["per_token_bytes"] == 23_040

    def test_a_smaller_chunk_makes_a_windowed_sequence_smaller(self) -> None:
        found = cache(plan(MISTRAL_7B_V01, vllm={"max_num_batched_tokens": 512, "max_num_seqs": 16}))
        assert found["sequence_bytes"] == (145 * 32) * 131_072

    def test_disabling_the_window_caps_the_length_at_the_window(self) -> None:
        planned = plan(MISTRAL_7B_V01, engine={"disable_sliding_window": True})
        assert planned.max_model_len == 4096
        assert cache(planned)["sliding_window"] is None


class TestKvCacheOnGpus:
    def test_the_scheduler_runs_ahead_so_two_chunks_are_in_flight(self) -> None:
        found = cache(plan(MISTRAL_7B_V01, GPU_BOX))
        # 4,095 + 2 × 2,048 tokens in blocks of 16, and one more block: 513 blocks of 2 MiB.
        assert found["block_size"] == 16
        assert found["sequence_bytes"] == 513 * 2 * MIB

    def test_the_cache_gets_what_the_weights_and_the_engine_leave(self) -> None:
        planned = plan(MISTRAL_7B_V01, GPU_BOX)
        engine = GIB + activation_bytes(planned.settings, MISTRAL_7B_V01, 2048)
        left = -int(-0.9 * 24 * GIB // 1) - MISTRAL_7B_V01.weight_bytes - engine
        assert cache(planned)["budget_bytes"] == left
        assert planned.kv_cache_bytes is None

    def test_a_given_cache_may_exceed_the_utilisation_as_in_vllm(self) -> None:
        assert plan(MISTRAL_7B_V01, GPU_BOX, vllm={"kv_cache_gib": 9}).kv_cache_bytes == 9 * GIB

    def test_two_gpus_share_weights_and_heads(self) -> None:
        planned = plan(MISTRAL_7B_V01, GPU_BOX, vllm={"tensor_parallel_size": 2, "kv_cache_gib": 8})
        one = planned.as_dict()["memory"]["each_gpu"]
        assert one["weights_bytes"] == MISTRAL_7B_V01.weight_bytes // 2
        assert one["kv_cache_bytes"] == 4 * GIB
        assert planned.kv_cache_bytes == 8 * GIB
        assert cache(planned)["per_token_bytes"] == 131_072
        assert planned.gpus_per_replica == 2

    @pytest.mark.parametrize(
        ("name", "gib", "tokens"),
        [("L4", 24, 2048), ("A100", 80, 2048), ("NVIDIA H100", 80, 8192), ("NVIDIA B200", 180, 16384)],
    )
    def test_the_chunk_is_vllms_default_for_the_gpu(self, name: str, gib: int, tokens: int) -> None:
        machine = replace(GPU_BOX, gpus=(Gpu(f"NVIDIA {name}", gib * GIB, gib * GIB),))
        assert plan(MISTRAL_7B_V01, machine).as_dict()["engine"]["max_num_batched_tokens"] == tokens

    def test_a_gpu_that_does_not_tell_its_memory_is_planned_by_the_setting(self) -> None:
        machine = replace(GPU_BOX, gpus=(Gpu("NVIDIA GB10", 0, 0),))
        assert plan(MISTRAL_7B_V01, machine).as_dict()["memory"]["usable_bytes"] is None
        planned = plan(MISTRAL_7B_V01, machine, hardware={"gpu_memory_gib": 100})
        assert planned.as_dict()["memory"]["gpu_bytes"] == 100 * GIB


class TestWeights:
    def test_unquantised_weights_are_the_files(self) -> None:
        assert plan(MISTRAL_7B_V01).as_dict()["model"]["weights_bytes"] == 14_483_464_192

    def test_four_bit_weights_keep_embeddings_and_head_in_16_bits(self) -> None:
        kept = 2 * 32000 * 4096
        rest = MISTRAL_7B_V01.parameters - kept
        planned = plan(MISTRAL_7B_V01, GPU_BOX, vllm={"quantization": "bitsandbytes"})
        assert planned.as_dict()["model"]["weights_bytes"] == 2 * kept + int(rest * 0.5625)

    def test_files_that_are_quantised_already_are_taken_as_they_are(self) -> None:
        planned = plan(MISTRAL_7B_V01, GPU_BOX, model={"weight_bytes": 4 * 10**9}, vllm={"quantization": "awq"})
        assert planned.as_dict()["model"]["weights_bytes"] == 4 * 10**9

    def test_a_method_that_is_not_known_counts_the_files(self) -> None:
        planned = plan(MISTRAL_7B_V01, GPU_BOX, model={"weight_bytes": 5 * 10**9}, vllm={"quantization": "torchao"})
        assert planned.as_dict()["model"]["weights_bytes"] == 5 * 10**9


class TestMemoryOfCpuReplicas:
    def test_the_parts_add_up(self) -> None:
        memory = plan(scaling={"replicas": 2}).as_dict()["memory"]
        one = memory["each_replica"]
        assert one["sum_bytes"] == one["weights_bytes"] + one["engine_bytes"] + one["kv_cache_bytes"]
        assert memory["all_replicas_and_ray_bytes"] == 2 * one["sum_bytes"] + memory["ray_bytes"]
        assert memory["left_bytes"] == memory["free_bytes"] - memory["all_replicas_and_ray_bytes"]

    def test_the_cache_is_at_most_4_gib_unasked_and_in_whole_blocks(self) -> None:
        planned = plan()
        assert planned.kv_cache_bytes == (4 * GIB // (23_040 * 32)) * 23_040 * 32

    def test_the_cache_is_no_larger_than_the_most_sequences_can_fill(self) -> None:
        planned = plan(vllm={"max_num_seqs": 4, "max_model_len": 512})
        assert planned.kv_cache_bytes == (4 * 17 + 1) * 23_040 * 32

    def test_the_cache_is_half_of_what_is_spare_on_a_small_machine(self) -> None:
        machine = replace(LAPTOP, memory_bytes=8 * GIB, free_memory_bytes=6 * GIB)
        planned = plan(machine=machine)
        assert planned.fit is not None
        budget = planned.fit.budget
        spare = 6 * GIB - int(0.05 * 8 * GIB) - budget.shared - budget.weights - budget.engine
        assert planned.kv_cache_bytes == (spare // 2 // (23_040 * 32)) * 23_040 * 32

    def test_the_cache_holds_one_sequence_even_when_that_is_more_than_half(self) -> None:
        machine = replace(LAPTOP, free_memory_bytes=int(22.5 * GIB))
        planned = plan(MISTRAL_7B_V03, machine)
        assert planned.kv_cache_bytes == (256 + 1) * 16 * MIB


class TestReplicas:
    def test_one_cpu_replica_gets_every_core(self) -> None:
        planned = plan()
        assert (planned.device, planned.replicas_min, planned.replicas_max) == ("cpu", 1, 1)
        assert (planned.cores_per_replica, planned.gpus_per_replica) == (2, 0)

    def test_cores_are_shared_out_over_the_most_replicas(self) -> None:
        planned = plan(machine=replace(LAPTOP, cores=tuple(range(7))), scaling={"min_replicas": 1, "max_replicas": 3})
        assert (planned.replicas_min, planned.replicas_max, planned.cores_per_replica) == (1, 3, 2)

    def test_a_machine_with_a_gpu_uses_it(self) -> None:
        planned = plan(MISTRAL_7B_V01, GPU_BOX)
        assert (planned.device, planned.gpus_per_replica, planned.cores_per_replica) == ("gpu", 1, 1)

    def test_a_gpu_elsewhere_can_be_planned_for_but_not_started_on(self) -> None:
        hardware = {"device": "gpu", "gpu_memory_gib": 24}
        planned = plan(MISTRAL_7B_V01, starting=False, hardware=hardware)
        assert planned.as_dict()["memory"]["gpu_bytes"] == 24 * GIB
        assert "no GPU on this machine: planned for GPUs of 24.00 GiB each" in planned.warnings
        assert refusal(MISTRAL_7B_V01, hardware=hardware) == (
            "hardware.device is gpu but nvidia-smi finds no GPU on this machine: "
            "use --device cpu, or --dry-run for a plan only"
        )

    def test_a_cluster_is_not_held_to_this_machine(self) -> None:
        planned = plan(MISTRAL_7B_V01, cluster=True, scaling={"replicas": 50}, hardware={"device": "gpu"})
        assert planned.gpus_per_replica == 1
        assert planned.as_dict()["kv_cache"]["budget_bytes"] is None
        small = replace(LAPTOP, free_memory_bytes=GIB)
        assert plan(MISTRAL_7B_V01, small, cluster=True).as_dict()["memory"]["left_bytes"] is None


class TestRefusals:
    def test_a_length_beyond_the_model(self) -> None:
        assert refusal(vllm={"max_model_len": 9000}) == (
            "max_model_len is 9000 tokens but the model's own limit is 8192: lower it to 8192 or less"
        )

    def test_a_length_beyond_a_disabled_window(self) -> None:
        assert "is 1024: lower it to 1024 or less" in refusal(
            vllm={"max_model_len": 2048}, engine={"disable_sliding_window": True}
        )

    def test_a_length_that_the_given_cache_cannot_hold(self) -> None:
        message = refusal(MISTRAL_7B_V03, vllm={"kv_cache_gib": 1})
        assert message == (
            "one sequence of max_model_len = 32768 tokens needs 4.02 GiB of KV cache but vllm.kv_cache_gib gives "
            "1.00 GiB: lower max_model_len to 8064, or raise vllm.kv_cache_gib to 4.02"
        )

    def test_the_remedies_of_a_length_refusal_work(self) -> None:
        shorter = plan(MISTRAL_7B_V03, vllm={"kv_cache_gib": 1, "max_model_len": 8064})
        assert shorter.max_model_len == 8064
        assert "8064" in refusal(MISTRAL_7B_V03, vllm={"kv_cache_gib": 1, "max_model_len": 8065})
        machine = replace(LAPTOP, free_memory_bytes=int(23.5 * GIB))
        assert plan(MISTRAL_7B_V03, machine, vllm={"kv_cache_gib": 4.02}).max_model_len == 32768

    def test_a_cache_too_small_for_any_sequence(self) -> None:
        message = refusal(MISTRAL_7B_V01, vllm={"kv_cache_gib": 0.001})
        assert message.endswith("gives 1.0 MiB: raise vllm.kv_cache_gib to 0.76")

    def test_a_model_that_does_not_fit_free_memory(self) -> None:
        machine = replace(LAPTOP, memory_bytes=16 * GIB, free_memory_bytes=15 * GIB)
        message = refusal(MISTRAL_7B_V01, machine)
        assert "weights 13.49 GiB" in message
        assert "15.00 GiB of memory is free" in message
        assert message.endswith("is free: choose a smaller model")

    def test_replicas_that_do_not_fit_free_memory(self) -> None:
        machine = replace(LAPTOP, cores=tuple(range(8)), free_memory_bytes=8 * GIB)
        message = refusal(DEMO, machine, scaling={"replicas": 4})
        assert "4 replicas of" in message
        assert "lower the replicas to 3" in message

    def test_a_cache_that_does_not_fit_free_memory(self) -> None:
        message = refusal(vllm={"kv_cache_gib": 40})
        assert "lower vllm.kv_cache_gib to 18.18" in message
        assert plan(vllm={"kv_cache_gib": 18.18}).kv_cache_bytes == int(18.18 * GIB)

    @pytest.mark.parametrize("free", [19.5, 19.9, 20, 20.3, 20.77, 21.01])
    def test_a_cache_and_a_length_that_do_not_fit_name_both_that_do(self, free: float) -> None:
        machine = replace(LAPTOP, free_memory_bytes=int(free * GIB))
        message = refusal(MISTRAL_7B_V03, machine, vllm={"kv_cache_gib": 8})
        length, rest = message.split("lower max_model_len to ")[1].split(" and vllm.kv_cache_gib to ")
        size = float(rest.split(",")[0])
        planned = plan(MISTRAL_7B_V03, machine, vllm={"kv_cache_gib": size, "max_model_len": int(length)})
        assert planned.kv_cache_bytes == int(size * GIB)

    def test_a_full_length_that_does_not_fit_names_the_length_that_does(self) -> None:
        message = refusal(MISTRAL_7B_V03, replace(LAPTOP, free_memory_bytes=20 * GIB))
        length = int(message.split("lower max_model_len to ")[1].split(",")[0])
        machine = replace(LAPTOP, free_memory_bytes=20 * GIB)
        assert plan(MISTRAL_7B_V03, machine, vllm={"max_model_len": length}).max_model_len == length
        assert "need" in refusal(MISTRAL_7B_V03, machine, vllm={"max_model_len": length + 1})

    def test_more_replicas_than_cores(self) -> None:
        assert refusal(scaling={"replicas": 3}) == (
            "3 replicas of 1 core need 3 cores but 2 can be used here: lower the replicas to 2"
        )

    def test_cores_per_replica_beyond_the_machine(self) -> None:
        assert refusal(scaling={"replicas": 2}, hardware={"cores_per_replica": 2}) == (
            "2 replicas of 2 cores need 4 cores but 2 can be used here: "
            "lower the replicas to 1 or hardware.cores_per_replica to 1"
        )

    def test_more_gpus_than_there_are(self) -> None:
        assert refusal(MISTRAL_7B_V01, GPU_BOX, vllm={"tensor_parallel_size": 4}) == (
            "1 replica of 4 GPUs needs 4 GPUs but 2 can be used here: lower tensor_parallel_size to 2"
        )

    def test_no_gpu_where_one_is_wanted(self) -> None:
        for starting in (True, False):
            assert "nvidia-smi finds no GPU on this machine: use --device cpu, or hardware.gpu_memory_gib" in refusal(
                MISTRAL_7B_V01, starting=starting, hardware={"device": "gpu"}
            )

    def test_a_gpu_too_small_for_the_weights(self) -> None:
        machine = replace(GPU_BOX, gpus=(Gpu("NVIDIA T4", 16 * GIB, 16 * GIB),))
        message = refusal(MISTRAL_7B_V01, machine)
        assert "weights 13.49 GiB" in message
        assert "14.40 GiB of its 16.00 GiB may be used" in message
        assert message.endswith("quantise the model, spread it with tensor_parallel_size, or take a larger GPU")

    def test_a_gpu_too_small_for_one_full_sequence_names_the_length_that_fits(self) -> None:
        machine = replace(GPU_BOX, gpus=(Gpu("GPU", 20 * GIB, 20 * GIB),))
        message = refusal(MISTRAL_7B_V03, machine)
        length = int(message.split("lower max_model_len to ")[1].split(",")[0])
        assert plan(MISTRAL_7B_V03, machine, vllm={"max_model_len": length}).max_model_len == length
        assert "may be used" in refusal(MISTRAL_7B_V03, machine, vllm={"max_model_len": length + 1})

    def test_a_given_cache_too_large_for_the_gpu_names_the_size_that_fits(self) -> None:
        message = refusal(MISTRAL_7B_V03, GPU_BOX, vllm={"kv_cache_gib": 20})
        size = float(message.split("lower vllm.kv_cache_gib to ")[1].split(",")[0])
        assert plan(MISTRAL_7B_V03, GPU_BOX, vllm={"kv_cache_gib": size}).kv_cache_bytes == int(size * GIB)

    def test_a_gpu_that_something_else_uses(self) -> None:
        machine = replace(GPU_BOX, gpus=(replace(L4, free_bytes=20 * GIB),))
        assert refusal(MISTRAL_7B_V01, machine) == (
            "gpu_memory_utilization = 0.9 asks for 21.60 GiB of the GPU's 24.00 GiB but 20.00 GiB is free: "
            "stop what else uses it, or lower gpu_memory_utilization to 0.83"
        )

    def test_heads_that_cannot_be_shared_out(self) -> None:
        assert refusal(MISTRAL_7B_V01, GPU_BOX, vllm={"tensor_parallel_size": 3}, scaling={"replicas": 1}).startswith(
            "1 replica of 3 GPUs"
        )
        machine = replace(GPU_BOX, gpus=(L4,) * 3)
        assert "32 attention heads cannot be shared out evenly" in refusal(
            MISTRAL_7B_V01, machine, vllm={"tensor_parallel_size": 3}
        )

    @pytest.mark.parametrize("size", ["many", 0, -16, True, 1.5])
    def test_a_block_size_that_is_no_count(self, size: Any) -> None:
        assert refusal(engine={"block_size": size}) == (
            f"engine argument block_size is {size!r}: give a whole number of tokens, at least 1"
        )

    def test_tensor_parallelism_on_a_cpu(self) -> None:
        assert refusal(vllm={"tensor_parallel_size": 2}) == (
            "tensor_parallel_size is 2 but a CPU replica is not spread: leave it at 1"
        )

    def test_a_step_with_fewer_tokens_than_sequences(self) -> None:
        assert refusal(vllm={"max_num_batched_tokens": 64}) == (
            "max_num_batched_tokens is 64, below max_num_seqs, 128: raise the first or lower the second"
        )


class TestWarnings:
    def test_a_plain_plan_has_none(self) -> None:
        architecture = replace(DEMO, sliding_window=None)
        assert plan(architecture, vllm={"max_num_seqs": 16}).warnings == ()

    @pytest.mark.parametrize(
        ("expected", "changes"),
        [
            ("the sliding window is 1024 tokens, max_model_len 8192", {}),
            ("server.host is 0.0.0.0", {"server": {"host": "0.0.0.0"}}),
            ("without TLS", {"server": {"host": "0.0.0.0"}, "gateway": {"keys_file": "keys.yaml"}}),
            ("guard.safe_prompt is always", {"guard": {"safe_prompt": "always"}}),
            ("the model has no chat template", {"model": {"has_chat_template": False}}),
            ("mind this", {"model": {"warnings": ("mind this",)}}),
            ("max_num_seqs is 128 but the KV cache holds only 85 sequences", {"vllm": {"kv_cache_gib": 1}}),
            ("memory is tight", {"vllm": {"kv_cache_gib": 18}}),
            ("on a CPU expect a few tokens per second", {"architecture": MISTRAL_7B_V01}),
            ("1 of 2 cores are kept for replicas", {"scaling": {"min_replicas": 1, "max_replicas": 2}}),
            ("the replicas run on the cluster", {"cluster": True}),
            ("install g++", {"machine": replace(LAPTOP, compiles=False)}),
            ("--dtype bfloat16 keeps the files' format", {"machine": OLD_CPU}),
            (
                "--dtype float32 reads prompts faster, with 26.98 GiB of weights",
                {"architecture": MISTRAL_7B_V01, "machine": OLD_CPU},
            ),
            ("--dtype float32 reads prompts faster, with", {"machine": OLD_CPU, "vllm": {"dtype": "bfloat16"}}),
        ],
    )
    def test_what_an_operator_should_know_is_said_once(self, expected: str, changes: dict[str, Any]) -> None:
        assert sum(expected in warning for warning in plan(**changes).warnings) == 1

    @pytest.mark.parametrize(
        "changes",
        [
            {"server": {"host": "localhost"}},
            {"server": {"host": "::1"}},
            {"server": {"host": "0.0.0.0"}, "engine": {"api_key": ["secret"]}},
        ],
    )
    def test_a_private_or_keyed_server_is_no_exposure(self, changes: dict[str, Any]) -> None:
        assert not any("server.host" in warning for warning in plan(**changes).warnings)

    def test_a_range_of_one_number_keeps_no_core_idle(self) -> None:
        planned = plan(scaling={"min_replicas": 2, "max_replicas": 2})
        assert not any("are kept" in warning for warning in planned.warnings)

    def test_a_chosen_chat_template_is_not_missed(self) -> None:
        planned = plan(model={"has_chat_template": False}, vllm={"chat_template": "base"})
        assert not any("chat template" in warning for warning in planned.warnings)


class TestCpusThatAreSlowInBfloat16:
    def test_a_small_model_runs_in_float32_and_is_planned_so(self) -> None:
        planned = plan(machine=OLD_CPU)
        report = planned.as_dict()
        assert (planned.settings.vllm.dtype, report["engine"]["dtype"]) == ("float32", "float32")
        assert report["model"]["weights_bytes"] == 2 * DEMO.weight_bytes
        assert cache(planned)["per_token_bytes"] == 2 * 23_040

    @pytest.mark.parametrize(
        "changes",
        [
            {"architecture": MISTRAL_7B_V01},
            {"vllm": {"dtype": "bfloat16"}},
            {"vllm": {"quantization": "fp8"}},
            {"model": {"weight_bytes": DEMO.weight_bytes // 2}},
            {"cluster": True},
            {"machine": replace(OLD_CPU, gpus=(L4,))},
        ],
        ids=["large", "given", "quantised", "quantised-files", "cluster", "gpu"],
    )
    def test_others_run_in_the_format_of_their_files(self, changes: dict[str, Any]) -> None:
        assert plan(**{"machine": OLD_CPU} | changes).as_dict()["engine"]["dtype"] == "bfloat16"

    def test_quantised_files_are_not_advised_to_be_widened(self) -> None:
        planned = plan(machine=OLD_CPU, model={"weight_bytes": DEMO.weight_bytes // 2})
        assert not any("AVX512" in warning for warning in planned.warnings)

    def test_other_formats_are_no_matter(self) -> None:
        planned = plan(replace(DEMO, dtype="float16"), OLD_CPU)
        assert planned.as_dict()["engine"]["dtype"] == "float16"
        assert not any("AVX512" in warning for warning in planned.warnings)


class TestReport:
    def test_the_sections_come_in_the_order_of_reading(self) -> None:
        expected = ["model", "engine", "replicas", "memory", "kv_cache", "endpoints", "warnings"]
        assert list(yaml.safe_load(render(plan()))) == expected

    def test_every_size_is_there_for_people_and_exactly(self) -> None:
        model = plan(MISTRAL_7B_V01).as_dict()["model"]
        assert (model["weights"], model["weights_bytes"]) == ("13.49 GiB", 14_483_464_192)
        assert (model["download"], model["download_bytes"]) == ("13.49 GiB", 14_483_464_192)
        assert model["parameters"] == 7_241_732_096

    def test_a_model_that_is_here_downloads_nothing(self) -> None:
        assert plan(model={"download_bytes": 0}).as_dict()["model"]["download"] == "0 B"

    def test_a_model_that_only_a_download_can_tell_is_planned_as_far_as_it_goes(self) -> None:
        planned = plan(None)
        report = yaml.safe_load(render(planned))
        assert report["memory"] == report["kv_cache"] == "unknown until downloaded"
        assert report["model"]["weights"] == "unknown until downloaded"
        assert report["model"]["weights_bytes"] is None
        assert report["replicas"]["cores_per_replica"] == 2
        assert (planned.max_model_len, planned.block_size, planned.kv_cache_bytes) == (None, None, None)

    def test_an_unknown_model_keeps_what_the_settings_say(self) -> None:
        planned = plan(None, vllm={"max_model_len": 4096, "kv_cache_gib": 2})
        assert (planned.max_model_len, planned.kv_cache_bytes) == (4096, 2 * GIB)

    def test_the_address_is_where_clients_go(self) -> None:
        endpoints = plan(server={"host": "::1", "port": 9000}).as_dict()["endpoints"]
        assert endpoints == {
            "openai": "http://[::1]:9000/v1",
            "health": "http://[::1]:9000/health",
            "ports": {"openai": 9000},
        }

    def test_keys_are_not_printed(self) -> None:
        printed = render(plan(engine={"api_key": ["top-secret"], "swap_space": 0}))
        assert "top-secret" not in printed
        assert yaml.safe_load(printed)["engine"]["further_arguments"] == {"api_key": "(hidden)", "swap_space": 0}

    def test_autoscaling_tells_its_target(self) -> None:
        replicas = plan(scaling={"min_replicas": 1, "max_replicas": 2}).as_dict()["replicas"]
        assert (replicas["min"], replicas["max"], replicas["target_ongoing_requests"]) == (1, 2, 64)

    @pytest.mark.parametrize(
        ("size", "text"),
        [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (512 * MIB, "512.0 MiB"), (14_483_464_192, "13.49 GiB")],
    )
    def test_sizes_are_in_binary_units(self, size: int, text: str) -> None:
        assert human(size) == text


layouts = st.builds(
    KvLayout,
    layers=st.integers(1, 80),
    heads=st.integers(1, 16),
    head_dim=st.sampled_from([64, 128]),
    bytes_per_value=st.sampled_from([1, 2, 4]),
    block_size=st.sampled_from([16, 32, 128]),
    window=st.none() | st.integers(1, 8192),
    tokens_in_flight=st.integers(16, 16384),
)
lengths = st.integers(16, 131_072)
memories = st.integers(0, 80 * GIB)
blocks = st.integers(0, 2000)


class TestProperties:
    def test_a_window_holds_the_tokens_before_the_chunk_in_whole_blocks(self) -> None:
        kv = KvLayout(layers=1, heads=1, head_dim=64, bytes_per_value=2, block_size=16, window=17, tokens_in_flight=16)
        assert kv.blocks_per_sequence(1000) == 3
        assert kv.longest(3 * kv.bytes_per_block, 1000) == 16
        assert kv.longest(4 * kv.bytes_per_block, 1000) == 1000

    @given(layouts, lengths, memories, memories)
    def test_more_memory_never_fits_fewer_sequences(self, kv: KvLayout, length: int, one: int, other: int) -> None:
        less, more = sorted((one, other))
        assert kv.sequences(less, length) <= kv.sequences(more, length)

    @given(layouts, lengths, lengths)
    def test_a_longer_sequence_never_needs_less(self, kv: KvLayout, one: int, other: int) -> None:
        shorter, longer = sorted((one, other))
        assert kv.bytes_per_sequence(shorter) <= kv.bytes_per_sequence(longer)

    @given(layouts, lengths)
    def test_a_window_never_needs_more_than_full_attention_and_a_block(self, kv: KvLayout, length: int) -> None:
        full = replace(kv, window=None)
        assert kv.blocks_per_sequence(length) <= full.blocks_per_sequence(length) + 1

    @given(layouts, lengths, blocks)
    def test_the_longest_length_fits_and_one_token_more_does_not(self, kv: KvLayout, limit: int, held: int) -> None:
        memory = held * kv.bytes_per_block
        longest = kv.longest(memory, limit)
        assert 0 <= longest <= limit
        assert longest == 0 or kv.least_memory(longest) <= memory
        assert longest == limit or kv.least_memory(longest + 1) > memory

    @given(
        free=st.integers(2 * GIB, 64 * GIB),
        replicas=st.integers(1, 8),
        length=st.integers(16, 8192),
        gib=st.none() | st.floats(0.01, 64),
    )
    def test_a_plan_that_is_not_refused_fits(self, free: int, replicas: int, length: int, gib: float | None) -> None:
        machine = Machine(cores=tuple(range(8)), memory_bytes=64 * GIB, free_memory_bytes=free, gpus=())
        vllm = {"max_model_len": length, "kv_cache_gib": gib}
        try:
            planned = plan(machine=machine, scaling={"replicas": replicas}, vllm=vllm)
        except UsageError:
            return
        assert planned.as_dict()["memory"]["left_bytes"] >= 0
        assert cache(planned)["sequences_of_max_model_len"] >= 1


def test_planning_imports_neither_ray_nor_vllm_nor_torch() -> None:
    script = """
import sys
from deploy.architecture import MISTRAL_7B_V01, ModelSource
from deploy.machine import measure
from deploy.plan import make_plan, render
from deploy.settings import Settings
source = ModelSource("hub", "m", "m", None, MISTRAL_7B_V01, None, None, None)
settings = Settings(hardware={"device": "gpu", "gpu_memory_gib": 24})
render(make_plan(settings, source, measure(), starting=False, cluster=True))
print(sorted({"ray", "vllm", "torch", "transformers", "numpy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
