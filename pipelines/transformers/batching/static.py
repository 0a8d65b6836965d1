"""Static batches: `generate` on up to batch_size waiting requests; the next batch starts when the longest answer ends.

The engine runs in a thread of its own, takes requests at any time and gives updates: a request's first token, then its end. In a replica of
several ranks, the first rank's engine sends the others their batches.
"""

from __future__ import annotations

import contextlib
import copy
import queue
import threading
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from configs.errors import describe
from pipelines.distributed.replica import Replica
from pipelines.models.token_events import Update, token_set
from pipelines.transformers.batching.base import Request
from pipelines.transformers.decode_graphs import DecodeGraphs
from pipelines.transformers.seeded_sampling import BatchNoise


class StaticEngine:
    """Static batches of `generate`. sampling: the noise of each row's seed is added after the processors.

    every_token: an update for every token, not only for the first and the last. graphs: replay decoding steps; the reason where not.
    """

    def __init__(
        self,
        model: Any,
        config: GenerationConfig,
        batch_size: int,
        processors: list[Any],
        sampling: bool,
        replica: Replica,
        graphs: DecodeGraphs | str,
        every_token: bool = False,
    ) -> None:
        self._graphs = graphs
        self._model, self._config, self._batch_size = model, config, batch_size
        self._processors, self._sampling, self._replica, self._every_token = processors, sampling, replica, every_token
        self._waiting: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._updates: queue.SimpleQueue[Update] = queue.SimpleQueue()
        self._cancelled: set[int] = set()
        self._closing = False
        self._error: str | None = None
        self._thread = threading.Thread(target=self._run, name="static-batches", daemon=True)
        self._thread.start()

    def effective(self) -> dict[str, str]:
        """The cache, and whether decoding is replayed from graphs."""
        if isinstance(self._graphs, str):
            return {"cache": "dynamic", "cuda_graphs": f"none: {self._graphs}"}
        return {"cache": "static", "cuda_graphs": "decoding"}

    def add(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._waiting.put(request)

    def cancel(self, query_id: int) -> None:
        """A query of the running batch ends at its next step; the others go on."""
        self._cancelled.add(query_id)

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
                if request.query_id in self._cancelled:
                    self._cancelled.discard(request.query_id)
                    continue
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
            batch, longest, token_set(self._config.eos_token_id), self._updates, self._may_stop_early, self._every_token, self._cancelled
        )
        arguments: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask,
            "generation_config": config,
            "logits_processor": LogitsProcessorList([*self._processors, *noise]),
            "stopping_criteria": StoppingCriteriaList([observer]),
        }
        with torch.inference_mode():
            if isinstance(self._graphs, str):
                self._model.generate(**arguments)
            else:
                cache = self._graphs.cache_for(len(batch), longest + config.max_new_tokens)
                self._graphs.generate(**arguments, past_key_values=cache)

    def _may_stop_early(self) -> bool:
        """When closing, except in a replica of several ranks, which must finish together."""
        return self._closing and self._replica.size == 1


class _StepObserver(StoppingCriteria):
    """Called after each step of `generate`: queues updates of first tokens (or all) and of rows that ended."""

    def __init__(
        self,
        batch: Sequence[Request],
        prompt_length: int,
        ends: set[int],
        updates: Any,
        may_stop_early: Any,
        every_token: bool,
        cancelled: set[int],
    ) -> None:
        self._batch, self._prompt_length, self._ends = batch, prompt_length, ends
        self._updates, self._may_stop_early, self._every_token, self._cancelled = updates, may_stop_early, every_token, cancelled
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
            cancelled = request.query_id in self._cancelled or self._may_stop_early()
            self._ended[i] = last[i] in self._ends or count >= request.max_new_tokens or cancelled
            if self._ended[i]:
                self._cancelled.discard(request.query_id)
            if self._ended[i] or count == 1 or self._every_token:
                self._updates.put(Update(request.query_id, tokens_NT[i].tolist(), list(self._times), self._ended[i]))
        return torch.tensor(self._ended, device=input_ids.device)
