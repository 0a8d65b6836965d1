"""vLLM's engine in this process: each call of `updates` takes one step; in lockstep on all ranks of a replica.

A replica of several ranks runs one engine a rank under vLLM's external launcher. Each schedules for itself and all compute together, so
each must get the same requests before the same step. The first rank decides, and sends the new requests to the others before every step.

Token times are the engine's: EngineCoreOutputs.timestamp, taken (time.monotonic) when a step's tokens are on the host, and read from
RequestOutput.metrics.last_token_ts. On Linux that is the clock of time.perf_counter, which the suite uses.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from configs.errors import RunError, first_line
from pipelines.distributed.replica import Replica
from pipelines.models.chat_prompts import read_image
from pipelines.models.token_events import Update

NOTHING_NEW, THE_END = b"", b"\xc0"  # the second is msgpack's nil, which is not a list of requests
OVERWRITTEN = ("LD_PRELOAD", "LOCAL_WORLD_SIZE")  # by vLLM on a CPU, for worker processes that do not exist here


class Request(msgspec.Struct, frozen=True, array_like=True):
    """Token ids of a prompt, with one placeholder for each image. sampling: of SamplingParams. seed: None for greedy decoding."""

    query_id: int
    ids: list[int]
    images: list[bytes]
    max_new_tokens: int
    sampling: dict[str, Any]
    seed: int | None = None


@dataclass(slots=True)
class _Answer:
    tokens: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


class Engine:
    """llm: vLLM's LLMEngine. every_token: an update for every token, not only for the first and the last. num_cached: prompt tokens that
    came from the prefix cache so far.
    """

    def __init__(self, llm: Any, replica: Replica, every_token: bool) -> None:
        self.llm, self.num_cached = llm, 0
        self._replica, self._every_token = replica, every_token
        self._waiting: list[Request] = []
        self._answers: dict[int, _Answer] = {}
        self._messages: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()
        self._receiver: threading.Thread | None = None
        if not replica.leads:
            self._receiver = threading.Thread(target=self._receive, name="vllm-lockstep", daemon=True)
            self._receiver.start()

    def add(self, requests: Sequence[Request]) -> None:
        self._waiting += requests

    def cancel(self, query_id: int) -> None:
        """Only for a replica of one rank."""
        self._waiting = [request for request in self._waiting if request.query_id != query_id]
        self._answers.pop(query_id, None)
        self.llm.abort_request([str(query_id)])

    def updates(self, timeout_s: float) -> list[Update]:
        """Take one step; returns first tokens and ends. A rank that does not lead waits so long for the step that the leader sends."""
        if not self._replica.leads:
            self._follow(timeout_s)
            return []
        new, self._waiting = self._waiting, []
        if not new and not self.llm.has_unfinished_requests():
            return []
        self._replica.tell(msgspec.msgpack.encode(new) if new else NOTHING_NEW)
        return self._advance(new)

    def close(self) -> None:
        if self._replica.leads:
            with contextlib.suppress(RunError):  # the other ranks are gone already
                self._replica.tell(THE_END)
        elif self._receiver is not None:
            self._receiver.join(timeout=5)
        self.llm.engine_core.shutdown()
        self.llm.renderer.shutdown()

    def _receive(self) -> None:
        message: bytes | None = None
        while message != THE_END:
            try:
                message = self._replica.hear()
            except Exception as error:
                self._messages.put(error)
                return
            self._messages.put(message)

    def _follow(self, timeout_s: float) -> None:
        try:
            message = self._messages.get(timeout=timeout_s)
        except queue.Empty:
            return
        if isinstance(message, Exception):
            raise message
        if message != THE_END:
            self._advance(msgspec.msgpack.decode(message, type=list[Request]) if message else [])

    def _advance(self, new: Sequence[Request]) -> list[Update]:
        updates = []
        for request in new:
            try:
                self._add(request)
            except Exception as error:  # only this request fails, as by an unreadable image; the same on every rank
                updates.append(Update(request.query_id, (), (), True, first_line(error)))
        if self.llm.has_unfinished_requests():
            updates += [update for output in self.llm.step() if (update := self._update(output)) is not None]
        return updates

    def _add(self, request: Request) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        prompt: dict[str, Any] = {"prompt_token_ids": request.ids}
        if request.images:
            images = [read_image(data, f"image {i} of {len(request.images)}") for i, data in enumerate(request.images, start=1)]
            prompt["multi_modal_data"] = {"image": images}
        (rendered,) = self.llm.renderer.render_cmpl([prompt])
        seed = {} if request.seed is None else {"seed": request.seed & 0x7FFFFFFFFFFFFFFF}
        parameters = SamplingParams(
            max_tokens=request.max_new_tokens, detokenize=False, output_kind=RequestOutputKind.DELTA, **request.sampling, **seed
        )
        self.llm.add_request(str(request.query_id), rendered, parameters)
        self._answers[request.query_id] = _Answer()

    def _update(self, output: Any) -> Update | None:
        """None for a token between the first and the last, unless every token is wanted, and for a query that was cancelled."""
        query_id, new = int(output.request_id), output.outputs[0]
        if (answer := self._answers.get(query_id)) is None:  # cancelled
            return None
        is_first = not answer.tokens
        answer.tokens += new.token_ids
        answer.times += [output.metrics.last_token_ts] * len(new.token_ids)
        if output.finished:
            del self._answers[query_id]
            self.num_cached += output.num_cached_tokens or 0
        elif not self._every_token and not is_first:
            return None
        return Update(
            query_id,
            answer.tokens,
            answer.times,
            output.finished,
            num_input_tokens=len(output.prompt_token_ids),
            stages=_stages(output.metrics) if output.finished else {},
            broken_off=None if new.finish_reason in ("stop", "length") else new.finish_reason,
        )


def _stages(metrics: Any) -> dict[str, float]:
    """Seconds by the engine's clock: until a request was scheduled, then until its first token, then until its last.

    A time of 0 is one that vLLM has not set, as of a request that was aborted; a stage that needs it is left out.
    """
    times = (metrics.queued_ts, metrics.scheduled_ts, metrics.first_token_ts, metrics.last_token_ts)
    between = zip(("engine_queue", "prefill", "decode"), itertools.pairwise(times), strict=True)
    return {name: end - start for name, (start, end) in between if start > 0 and end > 0}


@contextlib.contextmanager
def process_settings_kept() -> Iterator[None]:
    """Undo what vLLM on a CPU does to this process, which it takes for one of its workers.

    It replaces torch.set_num_threads by a function that does nothing, and overwrites environment variables.
    """
    import torch

    threads, before = torch.set_num_threads, {name: os.environ.get(name) for name in OVERWRITTEN}
    try:
        yield
    finally:
        torch.set_num_threads = threads
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
