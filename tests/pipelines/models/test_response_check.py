"""What a pipeline returns is checked once: each wrong value is named with its pipeline and the fix, and right ones are not changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest

from pipelines.base import Event, Pipeline, Response
from pipelines.models.response_check import MalformedError, ResponseCheck, reported_settings
from pipelines.toy.llm import ToyLLM
from pipelines.toy.t2v import ToyT2V
from workloads.records import Query, Sample

VIDEO = np.full((9, 48, 40, 3), 100, np.uint8)
FLOAT = VIDEO.astype(np.float32) / 255


def of_videos(**options: Any) -> ResponseCheck:
    return check_of(ToyT2V(), workload="t2v", **options)


def of_texts(**options: Any) -> ResponseCheck:
    return check_of(ToyLLM(), workload="llm", **options)


def check_of(pipeline: Pipeline, **options: Any) -> ResponseCheck:
    for name, value in options.items():
        setattr(pipeline, name, value)
    return ResponseCheck(pipeline)


def with_nan() -> Any:
    spoiled = FLOAT.copy()
    spoiled[3, 0, 0] = np.nan
    return spoiled


@dataclass
class Frames:
    """Stands for what another library returns."""


@pytest.mark.parametrize(
    ("returned", "why"),
    [
        (None, "generate returned None; return a list"),
        ((Response() for _ in range(1)), "generate returned a generator; return a list"),
        (VIDEO, "generate returned a ndarray of shape (9, 48, 40, 3); return a list"),
        (Response(), "generate returned a Response; return a list"),
        ("text", "generate returned a str; return a list"),
        ([], "generate returned 0 answers to 1 queries; return a list with one Response for each query, in order"),
        ([VIDEO], "an answer is a ndarray of shape (9, 48, 40, 3); return a Response"),
        ([None], "an answer is None; return a Response"),
        ([Frames()], "an answer is a Frames; return a Response"),
    ],
)
def test_what_is_no_list_of_responses_is_named(returned: object, why: str) -> None:
    check = of_videos()
    (response,) = check.batch(returned, 1, 1.0)
    assert str(response.error).startswith(f"pipeline 'toy_t2v': {why}")
    assert check.first_problem == response.error


@pytest.mark.parametrize(
    ("video", "why"),
    [
        (FLOAT, "video_THWC is float32 with values from 0.392157 to 0.392157, not uint8; give np.rint((video * 255).clip(0, 255))"),
        (FLOAT * 2 - 1, "not uint8; give np.rint(((video + 1) * 127.5).clip(0, 255)).astype(np.uint8)"),
        (with_nan(), "video_THWC is float32 with 3 values that are NaN or infinite"),
        (VIDEO.astype(np.int64), "video_THWC is int64, not uint8"),
        (VIDEO.transpose(0, 3, 1, 2), "(9, 3, 48, 40), not frames x height x width x 3; its channels come second: transpose(0, 2, 3, 1)"),
        (VIDEO.transpose(3, 0, 1, 2), "(3, 9, 48, 40), not frames x height x width x 3; its channels come first: transpose(1, 2, 3, 0)"),
        (VIDEO[..., :1], "np.repeat its channel three times"),
        (np.concatenate([VIDEO, VIDEO[..., :1]], -1), "leave out its alpha channel"),
        (VIDEO[None], "has 5 dimensions, (1, 9, 48, 40, 3), not 4; give each video of a batch its own Response"),
        (VIDEO[0], "has 3 dimensions"),
        (VIDEO[:0], "has no pixels: its shape is (0, 48, 40, 3)"),
        ([*VIDEO], "video_THWC is a list, not a numpy array; np.stack its frames"),
        (None, "an answer to workload 't2v' has no video; give video_THWC"),
    ],
)
def test_a_video_of_another_form_is_named_with_the_fix(video: Any, why: str) -> None:
    response = of_videos().response(Response(video_THWC=video, num_units=9), 1.0)
    assert str(response.error).startswith("pipeline 'toy_t2v': ")
    assert why in str(response.error)


def test_a_tensor_is_named_as_one() -> None:
    import torch

    assert "call .cpu().numpy()" in str(of_videos().response(Response(video_THWC=torch.zeros(9, 48, 40, 3)), 1.0).error)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"num_units": 90}, "num_units is 90, but its video has 9 frames; give that number, or leave num_units out"),
        ({"num_units": -1}, "num_units is -1; it is at least 0 and at most 2147483647"),
        ({"num_units": 2**70}, "num_units is 1180591620717411303424; it is at least 0"),
        ({"num_units": 9.0}, "num_units is 9.0; give a whole number"),
        ({"num_input_tokens": True}, "num_input_tokens is True; give a whole number"),
        ({"fps": 0}, "fps is 0; give the video's frame rate, from 0.01 to 1000"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"fps": "8"}, "fps is a str"),
        ({"stages": {"draw": -2622.0}}, "stage 'draw' is -2622 s; a duration is finite and at least 0"),
        ({"stages": {"draw": 1e9}}, "stage 'draw' is 1e+09 s of an answer that took 1 s"),
        ({"stages": {"draw": float("inf")}}, "stage 'draw' is inf s"),
        ({"stages": {"draw": "0.1"}}, "stage 'draw' is a str; give seconds"),
        ({"stages": {"after_answer": 0.5}}, "stage 'after_answer' would end the answer earlier, which only the pipeline 'endpoint' may"),
        ({"stages": None}, "an answer cannot be read (AttributeError"),
        ({"step_s": [0.5, 0.5, 0.5]}, "step_s add up to 1.5 s in an answer that took 1 s"),
        ({"step_s": [-0.1]}, "step_s has -0.1 s; a duration is finite and at least 0"),
        ({"step_s": [0.1, float("nan")]}, "step_s has nan s"),
        ({"step_s": [0.1, float("inf")]}, "step_s has 0.1 s; a duration is finite"),
        ({"step_s": ["0.1"]}, "step_s is ['0.1']; give a list of seconds as floats"),
    ],
)
def test_counts_and_times_of_a_video_that_cannot_be_are_named(fields: dict[str, Any], why: str) -> None:
    response = of_videos().response(Response(video_THWC=VIDEO, **fields), 1.0)
    assert f"pipeline 'toy_t2v': {why}" in str(response.error)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"num_units": 60, "token_ids": [5] * 6}, "num_units is 60, but token_ids has 6 tokens"),
        ({"token_ids": [1, -1]}, "token_ids are not whole numbers from 0 to 2147483647"),
        ({"token_ids": [2**40]}, "token_ids are not whole numbers"),
        ({"token_ids": [0.5]}, "token_ids are not whole numbers"),
        ({"num_units": 0}, "num_units is 0 beside a text of 4 characters; give the number of tokens, or token_ids"),
        ({"num_units": 4, "token_gap_s": [0.1]}, "token_gap_s has 1 gaps for 4 tokens"),
        ({"num_units": 3, "token_gap_s": [0.9, 0.9]}, "token_gap_s add up to 1.8 s"),
        ({"num_units": 3, "text": b"yes"}, "text is a bytes; give a str"),
        ({"num_units": 3, "text": "a\ud800"}, "text has a lone surrogate at 1"),
        ({"num_units": 3, "text": None}, "an answer has no text"),
        ({"num_units": 3, "first_token_id": -1}, "first_token_id is -1"),
        ({"num_units": 3, "finish_reason": 3}, "finish_reason is an int"),
        ({"num_units": 37}, "num_units is 37 beside 4 bytes of text; a token is at least one byte"),
        ({"token_ids": [*range(37)]}, "num_units is 37 beside 4 bytes of text"),
        ({"token_ids": [4, 5, 0, 0, 0, 0]}, "token_ids end in 4 times 0, which is not in its text; leave out the padding"),
    ],
)
def test_texts_with_wrong_counts_or_times_are_named(fields: dict[str, Any], why: str) -> None:
    response = of_texts().response(Response(**{"text": "yes.", **fields}), 1.0)
    assert str(response.error).startswith(f"pipeline 'toy_llm': {why}")


def test_counts_that_are_left_out_are_the_suites_own() -> None:
    assert of_videos().response(Response(video_THWC=VIDEO), 1.0).num_units == 9
    assert of_texts().response(Response(text="yes.", token_ids=[4, 5, 0]), 1.0).num_units == 3


def test_tokens_without_ids_are_held_against_the_tokenizer_where_there_is_one() -> None:
    check, without = of_texts(count_tokens=lambda text: len(text.split())), of_texts()
    text = "word " * 100
    for num_units, error in (
        (100, None),
        (120, None),
        (1000, "num_units is 1000, but its text has 100 tokens by the pipeline's tokenizer"),
        (10, "num_units is 10, but its text has 100 tokens"),
    ):
        response = check.response(Response(text=text, num_units=num_units), 1.0)
        assert (error or "None") in str(response.error)
    assert check.response(Response(text=text), 1.0).num_units == 100
    honest = Response(text=text, num_units=100)
    assert (check.counted_by(honest), without.counted_by(honest)) == ("tokenizer", "nothing")
    assert without.counted_by(Response(text=text, token_ids=[1])) == "token_ids"
    assert without.counted_by(Response(video_THWC=VIDEO)) == "frames"


def test_equal_tokens_at_the_end_that_are_in_the_text_are_no_padding() -> None:
    check, ids = of_texts(), [4, *[7] * 6]
    assert check.response(Response(text="so ha ha ha ha ha ha", token_ids=ids), 1.0).error is None
    assert check.response(Response(text="so\n\n\n\n\n\n", token_ids=ids), 1.0).error is None
    assert check.response(Response(text="so", token_ids=ids, finish_reason="length"), 1.0).error is None  # end tokens may be ignored
    assert check.response(Response(text="a" * 37 + "\u4f60", num_units=40), 1.0).error is None
    thoughtful = Response(text="yes", thoughts="let me see " * 10, num_units=60)
    assert (check.response(thoughtful, 1.0).error, check.counted_by(thoughtful)) == (None, "thoughts")


def test_more_tokens_than_the_limit_allows_are_refused() -> None:
    assert "num_units is 640, but max_new_tokens is 64" in str(
        of_texts(max_new_tokens=64).response(Response(text="a", num_units=640), 1).error
    )


@pytest.mark.parametrize("reason", ["abort", "error", "content_filter", "Error", "cancelled"])
def test_an_answer_that_was_broken_off_has_failed_with_the_reason(reason: str) -> None:
    check = of_texts()
    response = check.response(Response(text="half of", num_units=2, finish_reason=reason), 1.0)
    assert response.error == f"pipeline 'toy_llm': the answer ended with finish_reason {reason.lower()!r}"
    assert check.first_problem is None  # it is the query's failure, not the pipeline's form


def test_words_for_the_end_are_kept() -> None:
    for reason, kept in (
        ("STOP", "stop"),
        ("length", "length"),
        ("tool_calls", "tool_calls"),
        (None, None),
        ("", None),
        ("x" * 99, "x" * 40),
    ):
        assert of_texts().response(Response(text="a", num_units=1, finish_reason=reason), 1.0).finish_reason == kept


def test_numpy_numbers_become_pythons_so_that_they_can_be_sent() -> None:
    odd: Any = {
        "num_units": np.int64(9),
        "fps": np.float32(8),
        "finite": np.bool_(True),
        "stages": {"draw": np.float64(0.1)},
        "step_s": (1e-3,),
    }
    response = of_videos().response(Response(video_THWC=VIDEO, **odd), 1.0)
    assert response.error is None
    assert msgspec.json.encode(msgspec.structs.replace(response, video_THWC=None))
    assert (type(response.num_units), type(response.fps), response.finite) == (int, float, True)


def test_what_is_right_and_what_has_failed_pass_as_they_are() -> None:
    right = Response(video_THWC=VIDEO, num_units=9, stages={"draw": 0.1}, step_s=[0.1], token_gap_s=[])
    failed = Response(error="out of memory")
    check = of_videos()
    assert check.batch([failed, failed], 2, 1.0) == [failed, failed]
    checked = check.response(right, 1.0)
    assert checked.video_THWC is VIDEO
    assert msgspec.structs.replace(checked, video_THWC=None) == msgspec.structs.replace(right, video_THWC=None)
    assert check.first_problem is None


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"num_frames": 9, "height": 48, "width": 40, "fps": 8}, None),
        ({"num_frames": None, "fps": 8.001}, None),
        (
            {"num_frames": 17, "height": 480, "width": 832},
            "17 frames of 832 x 480 was requested, and the video has 9 frames of 40 x 48 at 8 fps",
        ),
        ({"num_frames": 81}, "81 frames was requested"),
        ({"fps": 24}, "24 fps was requested"),
        ({"extra": {"size": "832x480", "fps": 24}}, "832 x 480 at 24 fps was requested"),
        ({"extra": {"size": "40x48", "steps": 3}}, None),
        ({"height": 40, "width": 48}, "48 x 40 was requested"),
    ],
)
def test_another_size_than_requested_is_named(options: dict[str, Any], problem: str | None) -> None:
    check = of_videos(**options)
    found = check.size_problem([Response(error="no"), Response(video_THWC=VIDEO)])
    assert (found is None) == (problem is None)
    assert problem is None or problem in str(found)
    pipeline = check._pipeline
    assert ResponseCheck(pipeline, ["size"]).size_problem([Response(video_THWC=VIDEO)]) is None


def test_what_is_no_list_of_events_is_named() -> None:
    check = of_texts()
    for returned, why in ((None, "step returned None"), (iter(()), "step returned a"), ([Response()], "a list with a Response")):
        with pytest.raises(MalformedError, match=f"pipeline 'toy_llm': .*{why}"):
            check.events(returned)
    for wrong in ("a", -1, 2**40):
        with pytest.raises(MalformedError, match="give a query_id as an int, a first_token_id from 0 to 2147483647, or None"):
            check.events([Event(1, first_token_id=wrong)])  # type: ignore[arg-type]
    right = [Event(1), Event(2, first_token_id=3)]
    assert check.events(right) == right
    odd: Any = Event(np.int64(1), first_token_id=np.int32(3))  # type: ignore[arg-type]
    assert [type(number) for event in check.events([odd]) for number in (event.query_id, event.first_token_id)] == [int, int]


def test_settings_that_a_pipeline_reports_are_texts() -> None:
    pipeline: Any = ToyT2V()
    pipeline.effective, pipeline.fallbacks = lambda: {"steps": 8}, lambda: ("dtype is float32",)
    assert reported_settings(pipeline) == ({"steps": "8"}, ["dtype is float32"])
    pipeline.effective = lambda: None
    with pytest.raises(MalformedError, match="pipeline 'toy_t2v': effective returned None; return a mapping"):
        reported_settings(pipeline)
    pipeline.effective, pipeline.fallbacks = dict, lambda: "dtype is float32"
    with pytest.raises(MalformedError, match="fallbacks returned a str; return a list of sentences"):
        reported_settings(pipeline)


def test_a_pipeline_that_is_not_registered_has_its_classs_name() -> None:
    class Mine(Pipeline):
        def load(self, device: Any) -> None: ...

        def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
            return []

    (response,) = ResponseCheck(Mine()).batch([], 1, 1.0)
    assert str(response.error).startswith("pipeline 'Mine': generate returned 0 answers")
