"""What is in force in vLLM's engine, read off its own configuration, its layers and its cache once it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.distributed.replica import Replica
from pipelines.vllm.rocm import in_force

if TYPE_CHECKING:
    from pipelines.vllm.engine import Engine
    from pipelines.vllm.options import VllmOptions


def facts(engine: Engine, model: Any, replica: Replica) -> dict[str, str]:
    """By name, for `effective`."""
    from vllm.distributed.parallel_state import get_tp_group

    llm = engine.llm
    config = llm.vllm_config
    cache, batches = config.cache_config, config.scheduler_config
    images = config.model_config.multimodal_config
    return {
        "model": type(model).__name__,
        "dtype": str(config.model_config.dtype).removeprefix("torch."),
        "attention": ", ".join(attentions(llm)),
        "quantisation": config.model_config.quantization or "none",
        "batching": f"continuous, {batches.max_num_seqs} queries and {batches.max_num_batched_tokens} tokens a step at most",
        "cache": f"{cache.num_gpu_blocks} blocks of {cache.block_size} tokens, {_prefixes(engine)}",
        "kv_cache": f"{cache.cache_dtype}, kept as {', '.join(cache_dtypes(llm))}",
        "context": str(config.model_config.max_model_len),
        "graphs": graphs(llm),
        "scheduling": "asynchronous" if batches.async_scheduling else "synchronous",
        "speculation": "none" if config.speculative_config is None else str(config.speculative_config.method),
        **({} if images is None else {"image_cache": f"{images.mm_processor_cache_gb:g} GB" if images.mm_processor_cache_gb else "off"}),
        **({} if replica.size == 1 else {"parallel": f"tensor {get_tp_group().world_size}"}),
        **({"experts": "on ranks of their own"} if config.parallel_config.enable_expert_parallel else {}),
        **in_force(get_tp_group().device_communicator),
    }


def attentions(llm: Any) -> list[str]:
    """Names of the backends that the layers have, each once; nothing of what was asked for."""
    layers = llm.vllm_config.compilation_config.static_forward_context.values()
    return sorted({layer.get_attn_backend().get_name() for layer in layers if hasattr(layer, "get_attn_backend")})


def cache_dtypes(llm: Any) -> list[str]:
    """Of the tensors that hold keys and values."""
    kept = llm.model_executor.driver_worker.worker.model_runner.kv_caches
    tensors = [tensor for one in kept for tensor in (one if isinstance(one, list | tuple) else (one,))]
    return sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})


def keeps_prefixes(llm: Any) -> bool:
    """As the scheduler's own manager of blocks has it; what the configuration says is another matter."""
    return bool(llm.engine_core.engine_core.scheduler.kv_cache_manager.enable_caching)


def graphs(llm: Any) -> str:
    compilation = llm.vllm_config.compilation_config
    mode, recorded = compilation.mode.name, compilation.cudagraph_mode.name
    return "none" if mode == recorded == "NONE" else f"compiled by {mode}, CUDA graphs {recorded}"


def differences(pipeline: VllmOptions, llm: Any) -> list[str]:
    """Sentences on options that were given and are not in force."""
    config = llm.vllm_config
    found = []
    if pipeline.quantization is not None and config.model_config.quantization is None:
        found.append(f"quantisation is none, not {pipeline.quantization}")
    if pipeline.dtype != "auto" and str(config.model_config.dtype) != f"torch.{pipeline.dtype}":
        found.append(f"dtype is {config.model_config.dtype}, not {pipeline.dtype}")
    if pipeline.attention_backend is not None and any(name != pipeline.attention_backend for name in attentions(llm)):
        found.append(f"attention is by {', '.join(attentions(llm))}, not {pipeline.attention_backend}")
    if pipeline.kv_cache_dtype.startswith("fp8") and not all(d == "uint8" or d.startswith("float8") for d in cache_dtypes(llm)):
        found.append(f"cache of keys and values is kept as {', '.join(cache_dtypes(llm))}, not {pipeline.kv_cache_dtype}")
    if keeps_prefixes(llm) != pipeline.enable_prefix_caching or config.cache_config.enable_prefix_caching != pipeline.enable_prefix_caching:
        found.append(f"prefix cache is {'on' if keeps_prefixes(llm) else 'off'}, not {'on' if pipeline.enable_prefix_caching else 'off'}")
    found += [
        f"option {name} is {real}, not {asked}"
        for name, asked, real in (
            ("batch_size", pipeline.batch_size, config.scheduler_config.max_num_seqs),
            ("max_model_len", pipeline.max_model_len, config.model_config.max_model_len),
            ("max_num_batched_tokens", pipeline.max_num_batched_tokens, config.scheduler_config.max_num_batched_tokens),
            ("block_size", pipeline.block_size, config.cache_config.block_size),
            ("async_scheduling", pipeline.async_scheduling, config.scheduler_config.async_scheduling),
            ("enforce_eager", pipeline.enforce_eager, graphs(llm) == "none"),
            ("enable_expert_parallel", pipeline.enable_expert_parallel, config.parallel_config.enable_expert_parallel),
        )
        if asked is not None and asked != real
    ]
    return found


def _prefixes(engine: Engine) -> str:
    """The count is of tokens of prompts that were not computed again; with the cache off there is none, or it is not off."""
    if keeps_prefixes(engine.llm):
        return f"prefix caching on, {engine.num_cached} tokens came from it"
    return "prefix caching off" + (f", and yet {engine.num_cached} tokens came from it" if engine.num_cached else "")
