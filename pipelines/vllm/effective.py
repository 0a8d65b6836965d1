"""The effective settings of vLLM's engine, read from its configuration, its layers and its cache after loading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.distributed.replica import Replica
from pipelines.vllm.rocm import effective_kernels

if TYPE_CHECKING:
    from pipelines.vllm.engine import Engine
    from pipelines.vllm.options import VllmOptions


def facts(engine: Engine, model: Any, replica: Replica) -> dict[str, str]:
    """Effective settings by name, for `Pipeline.effective`."""
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
        **effective_kernels(get_tp_group().device_communicator),
    }


def attentions(llm: Any) -> list[str]:
    """Names of the backends that the layers have, each once; not those that were requested."""
    layers = llm.vllm_config.compilation_config.static_forward_context.values()
    return sorted({layer.get_attn_backend().get_name() for layer in layers if hasattr(layer, "get_attn_backend")})


def cache_dtypes(llm: Any) -> list[str]:
    """The dtypes of the tensors that hold keys and values."""
    kept = llm.model_executor.driver_worker.worker.model_runner.kv_caches
    tensors = [tensor for one in kept for tensor in (one if isinstance(one, list | tuple) else (one,))]
    return sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})


def keeps_prefixes(llm: Any) -> bool:
    """Whether the scheduler's block manager caches prefixes, whatever the configuration says."""
    return bool(llm.engine_core.engine_core.scheduler.kv_cache_manager.enable_caching)


def graphs(llm: Any) -> str:
    """How the network is compiled, and which CUDA graphs are recorded."""
    compilation = llm.vllm_config.compilation_config
    mode, recorded = compilation.mode.name, compilation.cudagraph_mode.name
    return "none" if mode == recorded == "NONE" else f"compiled by {mode}, CUDA graphs {recorded}"


def differences(pipeline: VllmOptions, llm: Any) -> list[str]:
    """A sentence for each requested option that is not effective."""
    config = llm.vllm_config
    sentences = []
    if pipeline.quantization is not None and config.model_config.quantization is None:
        sentences.append(f"quantisation is none, not {pipeline.quantization}")
    if pipeline.dtype != "auto" and str(config.model_config.dtype) != f"torch.{pipeline.dtype}":
        sentences.append(f"dtype is {config.model_config.dtype}, not {pipeline.dtype}")
    if pipeline.attention_backend is not None and any(name != pipeline.attention_backend for name in attentions(llm)):
        sentences.append(f"attention is by {', '.join(attentions(llm))}, not {pipeline.attention_backend}")
    if pipeline.kv_cache_dtype.startswith("fp8") and not all(d == "uint8" or d.startswith("float8") for d in cache_dtypes(llm)):
        sentences.append(f"cache of keys and values is kept as {', '.join(cache_dtypes(llm))}, not {pipeline.kv_cache_dtype}")
    wanted = pipeline.enable_prefix_caching
    if keeps_prefixes(llm) != wanted or config.cache_config.enable_prefix_caching != wanted:
        sentences.append(f"prefix cache is {'on' if keeps_prefixes(llm) else 'off'}, not {'on' if wanted else 'off'}")
    sentences += [
        f"option {name} is {effective}, not {requested}"
        for name, requested, effective in (
            ("batch_size", pipeline.batch_size, config.scheduler_config.max_num_seqs),
            ("max_model_len", pipeline.max_model_len, config.model_config.max_model_len),
            ("max_num_batched_tokens", pipeline.max_num_batched_tokens, config.scheduler_config.max_num_batched_tokens),
            ("block_size", pipeline.block_size, config.cache_config.block_size),
            ("async_scheduling", pipeline.async_scheduling, config.scheduler_config.async_scheduling),
            ("enforce_eager", pipeline.enforce_eager, graphs(llm) == "none"),
            ("enable_expert_parallel", pipeline.enable_expert_parallel, config.parallel_config.enable_expert_parallel),
        )
        if requested is not None and requested != effective
    ]
    return sentences


def _prefixes(engine: Engine) -> str:
    """Whether prefixes are cached, with the number of prompt tokens that came from the cache: not 0 means that it is not off."""
    if keeps_prefixes(engine.llm):
        return f"prefix caching on, {engine.num_cached} tokens came from it"
    return "prefix caching off" + (f", and yet {engine.num_cached} tokens came from it" if engine.num_cached else "")
