"""The check that every answer passes once, where it enters: in a rank of the launcher and in the engine of the server.

Form, counts and times of what a pipeline returns are checked here, whichever pipeline it is. What cannot be used becomes a failed Response
whose error names the pipeline, the value and the fix; it never becomes a figure.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import msgspec
import numpy as np
from numpy.typing import NDArray

from configs.errors import RunError, describe
from configs.registry import find, name_of
from pipelines.base import Event, Pipeline, Response
from pipelines.models.video_form import check_fps, check_video, requested_form, size_difference
from workloads.records import AFTER_ANSWER

FINISHED = ("stop", "length")  # how a whole answer ends
FAILED = ("abort", "aborted", "cancel", "cancelled", "canceled", "content_filter", "error", "failed", "timeout")  # how a broken one ends
LONGEST_REASON = 40  # characters of an unknown finish_reason that are kept
SLACK_S, SLACK = 0.1, 1.01  # clocks of a device and of an engine's own process differ a little from ours
TOKENIZER_FACTOR, TOKENIZER_SLACK = 2, 16  # tokens of a text depend on where it was split; special tokens leave no text
SPECIAL_TOKENS = 32  # tokens of an answer that may leave no text; every other token is at least one byte
MIN_PADDING = 4  # equal token ids at an answer's end, at least, that are padding where they left no text
ENDPOINT = "pipelines.endpoint.pipeline"  # whose tokens and answers are there before its events; of others the events count
_NO_IDS = np.zeros(0, np.int64)
LARGEST = 2**31 - 1  # of counts and of token ids, which LoadGen logs in four bytes


class MalformedError(RunError):
    """What a pipeline returned has not the type that its interface requires."""


class ResponseCheck:
    """Checks what one pipeline returns.

    may_differ: names of truth checks whose differences the run accepts; `size` accepts videos of another size than requested.
    first_problem: what the first answer that could not be used was; errors that the pipeline reports itself are not among them.
    """

    def __init__(self, pipeline: Pipeline, may_differ: Sequence[str] = ()) -> None:
        self._pipeline = pipeline
        self._title = f"pipeline {name_of(type(pipeline))!r}"
        self._is_endpoint = type(pipeline).__module__ == ENDPOINT
        self._makes_media = bool(find("workloads", pipeline.workload).has_media) if pipeline.workload else None
        self._requested = {} if "size" in may_differ else requested_form(vars(pipeline))  # before `load`, which may change options
        self.first_problem: str | None = None

    def batch(self, returned: object, num_queries: int, took_s: float) -> list[Response]:
        """One Response a query of a batch that took `took_s` seconds; those that cannot be used have failed."""
        if isinstance(returned, Sequence) and not isinstance(returned, str | bytes):
            if len(returned) == num_queries:
                return [self.response(one, took_s) for one in returned]
            what = f"generate returned {len(returned)} answers to {num_queries} queries"
        else:
            what = f"generate returned {_kind(returned)}"
        return [self._refused(f"{what}; return a list with one Response for each query, in order")] * num_queries

    def response(self, returned: object, took_s: float) -> Response:
        """The Response where it can be used, with its counts filled in; else a failed one. took_s: since its pipeline had the query."""
        if not isinstance(returned, Response):
            return self._refused(f"an answer is {_kind(returned)}; return a Response")
        if returned.error is not None:
            return returned if isinstance(returned.error, str) else Response(error=str(returned.error))
        try:
            if (reason := _finish_reason(returned.finish_reason)) in FAILED:
                return Response(error=f"{self._title}: the answer ended with finish_reason {reason!r}")
            right = {**self._content(returned), **self._counts(returned), **_times(returned, took_s), "finish_reason": reason}
            changed = {name: value for name, value in right.items() if getattr(returned, name) is not value}
            if AFTER_ANSWER in returned.stages and not self._is_endpoint:
                _refuse(f"stage {AFTER_ANSWER!r} would end the answer earlier, which only the pipeline 'endpoint' may; name it otherwise")
            if returned.client_lag_s is not None:
                _seconds("client_lag_s", returned.client_lag_s)
        except ValueError as error:
            return self._refused(str(error))
        except Exception as error:  # a field of a type that nobody foresaw
            return self._refused(f"an answer cannot be read ({describe(error)}); give the fields of Response their types")
        return msgspec.structs.replace(returned, **changed) if changed else returned

    def events(self, returned: object) -> Sequence[Event]:
        """The events that `step` returned; their responses are not checked. Raises MalformedError where they are no list of events."""
        if not isinstance(returned, Sequence):
            raise MalformedError(f"{self._title}: step returned {_kind(returned)}; return a list of Events")
        return [event if _is_plain(event) else self._event(event) for event in returned]

    def size_problem(self, responses: Sequence[Response]) -> str | None:
        """What the first video of another form than the pipeline's options request is; None where there is none."""
        for response in responses:
            if response.error is None and response.video_THWC is not None:
                difference = size_difference(self._requested, response.video_THWC.shape, response.fps)
                if difference is not None:
                    return f"{self._title}: {difference}; request what it makes, or accept it with --set allow_fallback=[size]"
        return None

    def counted_by(self, response: Response) -> str:
        """What the response's num_units was held against: `frames`, `token_ids`, `tokenizer`, or `nothing`.

        `thoughts`: it counts some, which are not kept.
        """
        if response.video_THWC is not None:
            return "frames"
        if response.thoughts:
            return "thoughts"
        return "token_ids" if len(response.token_ids) else "nothing" if self._count(response) is None else "tokenizer"

    def _refused(self, why: str) -> Response:
        problem = f"{self._title}: {why}"
        self.first_problem = self.first_problem or problem
        return Response(error=problem)

    def _event(self, event: object) -> Event:
        if not isinstance(event, Event):
            raise MalformedError(f"{self._title}: step returned a list with {_kind(event)}; return Events")
        try:
            first = None if event.first_token_id is None else _whole("first_token_id", event.first_token_id)
            at = None if event.at is None or not self._is_endpoint else _seconds("at", event.at)
            return msgspec.structs.replace(event, query_id=operator.index(event.query_id), first_token_id=first, at=at)
        except (TypeError, ValueError):
            raise MalformedError(
                f"{self._title}: step returned {event!r:.80}; give a query_id as an int, a first_token_id from 0 to {LARGEST}, or None, "
                "and `at` by time.perf_counter, or None"
            ) from None

    def _content(self, response: Response) -> dict[str, Any]:
        video, text = response.video_THWC, response.text
        if self._makes_media is True and video is None:
            _refuse(f"an answer to workload {self._pipeline.workload!r} has no video; give video_THWC")
        if (self._makes_media is False or video is None) and text is None:
            _refuse("an answer has no text; give text" if self._makes_media is False else "an answer has neither a text nor a video")
        if text is not None:
            if not isinstance(text, str):
                _refuse(f"text is {_kind(text)}; give a str")
            try:
                text.encode()
            except UnicodeEncodeError as error:
                _refuse(f"text has a lone surrogate at {error.start}, which no file can hold; decode its bytes with errors='replace'")
        finite = {"finite": bool(response.finite)}
        if video is None:
            return finite
        check_video(video)
        return {**finite, "fps": check_fps(response.fps)}

    def _counts(self, response: Response) -> dict[str, Any]:
        num_units, num_input = _whole("num_units", response.num_units), _whole("num_input_tokens", response.num_input_tokens)
        first = None if response.first_token_id is None else _whole("first_token_id", response.first_token_id)
        right = {"num_input_tokens": num_input, "first_token_id": first}
        if response.video_THWC is not None:
            return {**right, "num_units": _same(num_units, len(response.video_THWC), "its video", "frames")}
        ids = np.asarray(response.token_ids) if len(response.token_ids) else _NO_IDS
        if ids.size:
            if ids.ndim != 1 or ids.dtype.kind not in "iu" or int(ids.min()) < 0 or int(ids.max()) > LARGEST:
                _refuse(f"token_ids are not whole numbers from 0 to {LARGEST} in one row; give the ids of the answer's tokens")
            num_units = _same(num_units, len(ids), "token_ids", "tokens")
            _refuse_padding(ids, response)
        elif (counted := self._count(response)) is not None:
            num_units = num_units or counted
            fewest, most = counted // TOKENIZER_FACTOR - TOKENIZER_SLACK, counted * TOKENIZER_FACTOR + TOKENIZER_SLACK
            if not fewest <= num_units <= most:
                _refuse(f"num_units is {num_units}, but its text has {counted} tokens by the pipeline's tokenizer; give their number")
        elif num_units == 0 and response.text:
            _refuse(f"num_units is 0 beside a text of {len(response.text)} characters; give the number of tokens, or token_ids")
        longest = getattr(self._pipeline, "max_new_tokens", None)
        if type(longest) is int and num_units > longest + 1:  # some servers count the end token in addition
            _refuse(f"num_units is {num_units}, but max_new_tokens is {longest}; the limit is not in force, or the count is wrong")
        self._refuse_too_many(num_units, response)
        return {**right, "num_units": num_units}

    def _refuse_too_many(self, num_units: int, response: Response) -> None:
        """Where there are more tokens than bytes. Servers may keep thoughts to themselves: endpoint/text.py looks at their counts."""
        text, thoughts = response.text or "", response.thoughts
        num_characters = len(text) + len(thoughts)  # each is a byte at least
        if self._is_endpoint or not num_characters or num_units <= num_characters + SPECIAL_TOKENS:
            return  # an answer without any triggers the canary `empty`
        num_bytes = len(text.encode()) + len(thoughts.encode(errors="replace"))
        if num_units > num_bytes + SPECIAL_TOKENS:
            _refuse(f"num_units is {num_units} beside {num_bytes} bytes of text; a token is at least one byte, so count those generated")

    def _count(self, response: Response) -> int | None:
        if response.text is None or (counted := self._pipeline.count_tokens(response.text)) is None:
            return None
        return counted + ((self._pipeline.count_tokens(response.thoughts) or 0) if response.thoughts else 0)


def reported_settings(pipeline: Pipeline) -> tuple[dict[str, str], list[str]]:
    """What `effective` and `fallbacks` return, as texts. Raises MalformedError where they are no mapping, or no list."""
    title, effective, fallbacks = f"pipeline {name_of(type(pipeline))!r}", pipeline.effective(), pipeline.fallbacks()
    if not isinstance(effective, Mapping):
        raise MalformedError(f"{title}: effective returned {_kind(effective)}; return a mapping of settings' names to texts")
    if not isinstance(fallbacks, Sequence) or isinstance(fallbacks, str):
        raise MalformedError(f"{title}: fallbacks returned {_kind(fallbacks)}; return a list of sentences, empty where there are none")
    return {str(name): str(value) for name, value in effective.items()}, [str(text) for text in fallbacks]


def _is_plain(event: object) -> bool:
    """Whether an event has the types of its interface already."""
    if type(event) is not Event or type(event.query_id) is not int:
        return False
    first = event.first_token_id
    return event.at is None and (first is None or (type(first) is int and 0 <= first <= LARGEST))


def _refuse_padding(ids: NDArray[np.integer[Any]], response: Response) -> None:
    """Where equal ids at the end left no repeated text: rows of a batch that were filled up to the longest."""
    text, last = response.text or "", ids[-MIN_PADDING:]
    if len(last) < MIN_PADDING or (last != last[0]).any() or response.finish_reason == "length":
        return
    repeated = any(text.endswith(text[-unit:] * (MIN_PADDING - 1)) for unit in range(1, len(text) // (MIN_PADDING - 1) + 1))
    if not repeated:
        _refuse(f"token_ids end in {MIN_PADDING} times {last[0]}, which is not in its text; leave out the padding after the end token")


def _finish_reason(reason: object) -> str | None:
    """In lower case where the suite knows the word; None where there is none."""
    if reason is None:
        return None
    if type(reason) is str and reason in FINISHED:
        return reason
    if not isinstance(reason, str):
        _refuse(f"finish_reason is {_kind(reason)}; give a str, or None")
    word = reason.strip().lower()
    return word if word in (*FINISHED, *FAILED) else reason.strip()[:LONGEST_REASON] or None


def _times(response: Response, took_s: float) -> dict[str, Any]:
    longest_s = took_s * SLACK + SLACK_S
    right: dict[str, Any] = {}
    if response.stages or type(response.stages) is not dict:
        right["stages"] = stages = {str(name): _seconds(f"stage {name!r}", value) for name, value in response.stages.items()}
        for name, value in stages.items():
            if value > longest_s:
                _refuse(f"stage {name!r} is {value:.6g} s of an answer that took {took_s:.6g} s; give seconds, measured from its query on")
    for name in ("step_s", "token_gap_s"):
        if type(getattr(response, name)) in (list, tuple) and not getattr(response, name):
            continue  # none, as in most answers
        values = np.asarray(getattr(response, name))
        if not values.size:
            right[name] = []
            continue
        if values.ndim != 1 or values.dtype.kind not in "fiu":
            _refuse(f"{name} is {getattr(response, name)!r:.40}; give a list of seconds as floats")
        if not 0 <= (least := float(values.min())) <= float(values.max()) < math.inf:
            _refuse(f"{name} has {least:g} s; a duration is finite and at least 0")
        if float(values.sum()) > longest_s:
            _refuse(f"{name} add up to {float(values.sum()):.6g} s in an answer that took {took_s:.6g} s; give seconds of one step each")
        right[name] = (values.round(6) if name == "token_gap_s" else values).tolist()
    num_gaps, num_units = len(right.get("token_gap_s", ())), int(response.num_units)
    if num_gaps and num_units and num_gaps != num_units - 1:
        _refuse(f"token_gap_s has {num_gaps} gaps for {num_units} tokens; give one less than there are tokens, or none")
    return right


def _seconds(what: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        _refuse(f"{what} is {_kind(value)}; give seconds as a float")
    if not 0 <= value < math.inf:
        _refuse(f"{what} is {float(value):g} s; a duration is finite and at least 0")
    return float(value)


def _whole(what: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        _refuse(f"{what} is {value!r:.40}; give a whole number as an int")
    if not 0 <= value <= LARGEST:
        _refuse(f"{what} is {value}; it is at least 0 and at most {LARGEST}")
    return int(value)


def _same(claimed: int, counted: int, where: str, what: str) -> int:
    """The count. 0: the pipeline leaves it to the suite."""
    if claimed not in (0, counted):
        _refuse(f"num_units is {claimed}, but {where} has {counted} {what}; give that number, or leave num_units out")
    return counted


def _kind(value: object) -> str:
    """What an unexpected value is, for an error."""
    if value is None:
        return "None"
    shape = f" of shape {tuple(value.shape)}" if isinstance(value, np.ndarray) else ""
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}{shape}"


def _refuse(why: str) -> NoReturn:
    raise ValueError(why)
