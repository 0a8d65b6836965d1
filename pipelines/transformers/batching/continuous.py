"""Continuous batching by transformers: a paged key-value cache; requests join and leave at every step.

The engine runs in a thread of its own, takes requests at any time and gives updates: a request's first token, then its end. In a replica of
several ranks, transformers' engine sends the others their batches itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import GenerationConfig
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor

from pipelines.models.token_events import Update, token_set
from pipelines.transformers import paged_attention
from pipelines.transformers.batching.base import Cache, Device, Request
from pipelines.transformers.batching.request_sampling import request_arguments, request_processors
from pipelines.transformers.seeded_sampling import RequestNoise


class ContinuousEngine:
    """transformers' continuous batching.

    processors: logits processors; with sampling, the noise is added after them. by_request: on a CPU, use paged_attention.py in place
    of `sdpa`. every_token: an update for every token, not only for the first and the last. own_sampling: every request has its
    own sampling, smallest number of tokens and end (request_sampling.py); processors and sampling are then not used.
    """

    def __init__(
        self,
        model: Any,
        config: GenerationConfig,
        batch_size: int,
        cache: Cache,
        device: Device,
        processors: list[Any],
        sampling: bool,
        by_request: bool,
        every_token: bool = False,
        own_sampling: bool = False,
    ) -> None:
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        on_cpu = model.device.type == "cpu"
        needs_no_mask = "flash" in str(model.config._attn_implementation)
        graphs: Any = device.use_cuda_graph
        if needs_no_mask and graphs is not False:
            # Decoding alone: steps with a prompt in them are of any length, and each new one would be captured while queries are timed.
            # A prompt's kernels are long enough to hide their launches; one token's are not.
            graphs = (False, True)
        self._manager = model.init_continuous_batching(
            generation_config=config,
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=cache.page_size,
                num_blocks=cache.num_blocks,
                max_batch_tokens=cache.max_batch_tokens,
                max_requests_per_batch=batch_size,
                max_blocks_per_request=-(-cache.context // cache.page_size) + 1 if needs_no_mask else None,
                allow_block_sharing=False,  # MLPerf forbids prefix caching for some models, and prompts here have little in common
                use_cuda_graph=False if on_cpu else graphs,
                use_async_batching=False if on_cpu else device.use_async_batching,
                default_compile_level=device.default_compile_level,
                auto_switch_to_flash=False,  # flash/choose.py has chosen
            ),
        )
        if by_request and paged_attention.fits(model):
            paged_attention.use(model)
        self._sampling, self._every_token = sampling, every_token
        self._vocab_size = model.config.get_text_config().vocab_size if own_sampling else None
        self._first_seen: set[str] = set()
        if self._vocab_size is not None:
            self._process(request_processors(self._vocab_size, sorted(token_set(config.eos_token_id)), always=not on_cpu))
        else:
            self._process([*processors, RequestNoise()] if sampling else processors)
        if not on_cpu:
            self._manager.warmup()  # captures the graphs, before any query is timed
        self._manager.start()

    def effective(self) -> dict[str, str]:
        """The cache, and on a GPU how steps are brought to it."""
        config = self._manager.continuous_batching_config
        cache = {"cache": f"{config.num_blocks} pages of {config.page_size}"}
        if self._manager.model.device.type == "cpu":
            return cache
        return cache | {
            "cuda_graphs": "decoding" if config.cuda_graph_booleans[1] and config.max_blocks_per_request else "none",
            "decoding": "from the paged cache" if config.max_blocks_per_request else "from gathered keys",
            "async_batching": "on" if config.use_async_batching else "off",
            "compile_level": str(config.default_compile_level),
        }

    def add(self, requests: Sequence[Request]) -> None:
        for r in requests:
            more: dict[str, Any] = {"noise_seed": r.seed} if self._sampling else {}
            if self._vocab_size is not None:
                more = request_arguments(r, self._vocab_size) | ({"eos_token_id": -1} if r.ignore_eos else {})
            known = self._manager.add_request(
                list(r.ids), request_id=str(r.query_id), max_new_tokens=r.max_new_tokens, streaming=True, record_timestamps=True, **more
            )
            if known is None:
                raise RuntimeError(f"the continuous batching engine accepts no more requests: {self._why_stopped()}")

    def cancel(self, query_id: int) -> None:
        """An update that is under way may still come."""
        self._manager.cancel_request(str(query_id))
        self._first_seen.discard(str(query_id))

    def updates(self, timeout_s: float) -> list[Update]:
        """First tokens and ends since the last call. Raises RuntimeError where the engine's thread has ended."""
        updates: list[Update] = []
        output = self._manager.get_result(timeout=timeout_s)
        while output is not None:
            if self._every_token or output.is_finished() or output.request_id not in self._first_seen:
                updates.append(self._update(output))
            output = self._manager.get_result(timeout=0)
        if not updates and not self._manager.is_running():
            raise RuntimeError(f"the continuous batching engine stopped: {self._why_stopped()}")
        return updates

    def close(self) -> None:
        self._manager.stop(block=True, timeout=5, hard_stop=True)
        self._manager.destroy()

    def _process(self, processors: Sequence[Any]) -> None:
        """Put processors at the end of transformers' chain."""
        chain = self._manager.logit_processor
        chain.logits_processor.extend(processors)
        chain.tensors_required += sum(isinstance(one, ContinuousBatchingLogitsProcessor) for one in processors)
        chain._retrieve_processors_kwargs()
        chain.do_processing = len(chain.logits_processor) > 0

    def _update(self, output: Any) -> Update:
        self._first_seen.add(output.request_id)
        if output.is_finished():
            self._first_seen.discard(output.request_id)
        elif not self._every_token:
            self._silence(output.request_id)
        return Update(int(output.request_id), output.generated_tokens, output.timestamps or (), output.is_finished(), output.error)

    def _silence(self, request_id: str) -> None:
        """No more updates until the end: each would copy all tokens so far, which at 64 requests costs more than preparing the step."""
        processor = self._manager.batch_processor
        state = processor.scheduler.active_requests.get(request_id) if processor is not None else None
        if state is not None:
            state.streaming = False

    def _why_stopped(self) -> str:
        error = self._manager.background_thread_status.fatal_error
        return f"{type(error).__name__}: {error}" if error is not None else "no reason given"
