"""Two ways to run a transformers language model on many prompts: continuous batching, and static batches.

Both run in a thread of their own, take requests at any time and give updates: a request's first token, then its end.
  ContinuousEngine  transformers' continuous batching: a paged key-value cache; requests join and leave at every step
  StaticEngine      `generate` on up to batch_size waiting requests; the next batch starts when the longest answer ends
In a replica of several ranks the first rank's engine sends the others their batches; transformers' engine does that itself.
"""

from __future__ import annotations

import contextlib
import copy
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from configs.errors import describe
from pipelines.distributed.replica import Replica
from pipelines.models.token_events import Update, token_set
from pipelines.transformers import paged_attention
from pipelines.transformers.seeded_sampling import BatchNoise, RequestNoise


@dataclass(frozen=True, slots=True)
class Request:
    """Token ids of a prompt, and the largest number of tokens of its answer. seed: None for greedy decoding."""

    query_id: int
    ids: Sequence[int]
    max_new_tokens: int
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Cache:
    """The size of a paged cache: num_blocks of page_size tokens each. max_batch_tokens: processed in one step at most."""

    page_size: int
    num_blocks: int
    max_batch_tokens: int


class ContinuousEngine:
    """transformers' continuous batching.

    processors: logits processors; with sampling, the noise is added after them. by_request: on a CPU, use paged_attention.py in place
    of `sdpa`. every_token: an update for every token, not only for the first and the last.
    """

    def __init__(
        self,
        model: Any,
        config: GenerationConfig,
        batch_size: int,
        cache: Cache,
        processors: list[Any],
        sampling: bool,
        by_request: bool,
        every_token: bool = False,
    ) -> None:
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        self._manager = model.init_continuous_batching(
            generation_config=config,
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=cache.page_size,
                num_blocks=cache.num_blocks,
                max_batch_tokens=cache.max_batch_tokens,
                max_requests_per_batch=batch_size,
                allow_block_sharing=False,  # MLPerf forbids prefix caching for some models, and prompts here have little in common
                use_async_batching=False if sampling or model.device.type == "cpu" else None,
            ),
        )
        if by_request and paged_attention.fits(model):
            paged_attention.use(model)
        self._sampling, self._every_token = sampling, every_token
        self._first_seen: set[str] = set()
        chain = self._manager.logit_processor
        chain.logits_processor.extend([*processors, RequestNoise()] if sampling else processors)
        chain.tensors_required += sampling
        chain._retrieve_processors_kwargs()
        chain.do_processing = len(chain.logits_processor) > 0
        self._manager.start()

    def add(self, requests: Sequence[Request]) -> None:
        for r in requests:
            noise = {"noise_seed": r.seed} if self._sampling else {}
            known = self._manager.add_request(
                list(r.ids), request_id=str(r.query_id), max_new_tokens=r.max_new_tokens, streaming=True, record_timestamps=True, **noise
            )
            if known is None:
                raise RuntimeError(f"the continuous batching engine accepts no more requests: {self._why_stopped()}")

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

    def _update(self, output: Any) -> Update:
        self._first_seen.add(output.request_id)
        if output.is_finished():
            self._first_seen.discard(output.request_id)
        return Update(int(output.request_id), output.generated_tokens, output.timestamps or (), output.is_finished(), output.error)

    def _why_stopped(self) -> str:
        error = self._manager.background_thread_status.fatal_error
        return f"{type(error).__name__}: {error}" if error is not None else "no reason given"


class StaticEngine:
    """Static batches of `generate`. sampling: the noise of each row's seed is added after the processors. every_token: as above."""

    def __init__(
        self,
        model: Any,
        config: GenerationConfig,
        batch_size: int,
        processors: list[Any],
        sampling: bool,
        replica: Replica,
        every_token: bool = False,
    ) -> None:
        self._model, self._config, self._batch_size = model, config, batch_size
        self._processors, self._sampling, self._replica, self._every_token = processors, sampling, replica, every_token
        self._waiting: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._updates: queue.SimpleQueue[Update] = queue.SimpleQueue()
        self._closing = False
        self._error: str | None = None
        self._thread = threading.Thread(target=self._run, name="static-batches", daemon=True)
        self._thread.start()

    def add(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._waiting.put(request)

    def updates(self, timeout_s: float) -> list[Update]:
        """First tokens and ends since the last call. Raises RuntimeError where the engine's thread has ended."""
        updates = []
        with contextlib.suppress(queue.Empty):
            updates.append(self._updates.get(timeout=timeout_s))
            while True:
                updates.append(self._updates.get_nowait())
        if not updates and not self._thread.is_alive():
            raise RuntimeError(f"the static batching engine stopped: {self._error or 'no reason given'}")
        return updates

    def close(self) -> None:
        self._closing = True
        self._waiting.put(None)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        try:
            while (batch := self._agreed_batch()) is not None:
                self._attempt(batch)
        except Exception as error:
            self._error = describe(error)

    def _attempt(self, batch: list[Request]) -> None:
        try:
            self._answer(batch)
        except Exception as error:  # only this batch fails, the engine continues
            if self._replica.size > 1:  # the other ranks are in the middle of the batch
                raise
            for r in batch:
                self._updates.put(Update(r.query_id, (), (), True, describe(error)))

    def _agreed_batch(self) -> list[Request] | None:
        """The next batch, the same on all ranks of the replica; None at the end."""
        if not self._replica.leads:
            return msgspec.msgpack.decode(self._replica.hear(), type=list[Request]) or None
        batch = self._next_batch()
        self._replica.tell(msgspec.msgpack.encode(batch or []))
        return batch

    def _next_batch(self) -> list[Request] | None:
        batch: list[Request] = []
        with contextlib.suppress(queue.Empty):
            while len(batch) < self._batch_size:
                request = self._waiting.get() if not batch else self._waiting.get_nowait()
                if request is None:
                    return None
                batch.append(request)
        return batch

    def _answer(self, batch: list[Request]) -> None:
        device, longest = self._model.device, max(len(r.ids) for r in batch)
        pad = self._config.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(r.ids)) + list(r.ids) for r in batch], device=device)
        mask = torch.tensor([[0] * (longest - len(r.ids)) + [1] * len(r.ids) for r in batch], device=device)
        noise = [BatchNoise([r.seed or 0 for r in batch], longest)] if self._sampling else []
        config = copy.copy(self._config)
        config.max_new_tokens = max(r.max_new_tokens for r in batch)
        observer = _StepObserver(
            batch, longest, token_set(self._config.eos_token_id), self._updates, self._may_stop_early, self._every_token
        )
        with torch.inference_mode():
            self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=config,
                logits_processor=LogitsProcessorList([*self._processors, *noise]),
                stopping_criteria=StoppingCriteriaList([observer]),
            )

    def _may_stop_early(self) -> bool:
        """When closing, except in a replica of several ranks, which must finish together."""
        return self._closing and self._replica.size == 1


class _StepObserver(StoppingCriteria):
    """Called after each step of `generate`: queues updates of first tokens (or all) and of rows that ended."""

    def __init__(
        self, batch: Sequence[Request], prompt_length: int, ends: set[int], updates: Any, may_stop_early: Any, every_token: bool
    ) -> None:
        self._batch, self._prompt_length, self._ends = batch, prompt_length, ends
        self._updates, self._may_stop_early, self._every_token = updates, may_stop_early, every_token
        self._times: list[float] = []
        self._ended = [False] * len(batch)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        tokens_NT = input_ids[:, self._prompt_length :]
        last = tokens_NT[:, -1].tolist()  # synchronises with the device, so that the time below is right
        self._times.append(time.perf_counter())
        count = len(self._times)
        for i, request in enumerate(self._batch):
            if self._ended[i]:
                continue
            self._ended[i] = last[i] in self._ends or count >= request.max_new_tokens or self._may_stop_early()
            if self._ended[i] or count == 1 or self._every_token:
                self._updates.put(Update(request.query_id, tokens_NT[i].tolist(), list(self._times), self._ended[i]))
        return torch.tensor(self._ended, device=input_ids.device)
