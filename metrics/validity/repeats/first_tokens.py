"""Truth checks of first tokens, which are announced ahead of their answers.

first_token       the first token, as it was announced, is the answer's
first_token_time  it comes when it can be there: a query that is answered alone, in a replay, needs a pass of the model before its first
                  token, which takes as long as any later token at least; and what is left to compute then are the other tokens alone

A pipeline that announces a token before its prompt is processed has that work left: the second token comes late, or the answer ends later
than the gaps between its tokens say. Measured with the embedded models and toys, one query at a time: docs/validity.md.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from metrics.base import Run
from metrics.validity.answers import replays_of
from metrics.validity.check import Check, differs, holds, not_made
from pipelines.launcher.messages import Answer

MIN_TOKENS = 4  # of an answer whose times say anything
TOO_SHORT_S = 0.001  # a token: less cannot be measured
EARLY = 0.3  # of the time of a later token: the first cannot be there sooner
LATE = 5.0  # times as long as the longest of the others, in a replay, is no gap between two tokens
HIDDEN, HIDDEN_S = 0.5, 0.03  # share of the time after the first token, and seconds, that are not in the gaps between tokens


def checks(run: Run) -> list[Check]:
    _, answers = replays_of(run)
    return [_first_token(answers), _first_token_time(run, answers)]


def _first_token(answers: Sequence[Answer]) -> Check:
    announced = [a for a in answers if a.announced is not None and a.first_token_id is not None]
    if not announced:
        return not_made("first_token", "no first token was announced with its id")
    wrong = [a for a in announced if a.announced != a.first_token_id]
    if wrong:
        which = f"query {wrong[0].query_id}: announced {wrong[0].announced}, answered {wrong[0].first_token_id}"
        return differs(
            "first_token", f"{len(wrong)} of {len(announced)} announced first tokens are not those of their answers, first {which}"
        )
    return holds("first_token", f"{len(announced)} announced first tokens are those of their answers")


def _first_token_time(run: Run, answers: Sequence[Answer]) -> Check:
    hidden = [s for r in run.timed if (s := _hidden(r.first_token_s, r.completed_s, r.token_gap_s, r.num_units)) is not None]
    if hidden and sum(hidden) > len(hidden) / 2:
        return differs(
            "first_token_time",
            f"{sum(hidden)} of {len(hidden)} timed answers ended far later than their first token and the gaps between tokens say: "
            "that token was announced before it was there",
        )
    announced = [a for a in answers if a.first_token_s is not None and a.error is None]
    if not announced:
        return not_made("first_token_time", "no first token was announced in a replay: times to first token rest on the pipeline's word")
    judged = [a for a in announced if a.num_units >= MIN_TOKENS and _token_s(a) >= TOO_SHORT_S]
    if not judged:
        return not_made(
            "first_token_time",
            f"no repeated answer has {MIN_TOKENS} tokens that take {TOO_SHORT_S:g} s each, too short for a verdict",
        )
    first_s, token_s = (statistics.median(times) for times in ([a.first_token_s or 0.0 for a in judged], map(_token_s, judged)))
    message = f"{len(judged)} answers, one at a time: first token after {first_s:.3g} s, the others every {token_s:.3g} s"
    early = [a for a in judged if _is_early(a)]
    if len(early) > len(judged) / 2:
        return differs("first_token_time", f"{len(early)} first tokens came before they can have been computed; {message}")
    if not any(a.token_gap_s for a in judged):
        return not_made("first_token_time", f"{message}; without token_gap_s, work that is left after a first token does not show")
    return holds("first_token_time", message)


def _token_s(answer: Answer) -> float:
    """Seconds from one token to the next, as the answer's end shows them."""
    return ((answer.answer_s or 0.0) - (answer.first_token_s or 0.0)) / (answer.num_units - 1)


def _is_early(a: Answer) -> bool:
    first_s = a.first_token_s or 0.0
    if first_s < EARLY * _token_s(a) or _hidden(first_s, a.answer_s or 0.0, a.token_gap_s, a.num_units):
        return True
    gaps = a.token_gap_s
    return len(gaps) >= MIN_TOKENS - 1 and gaps[0] > max(LATE * max(gaps[1:]), HIDDEN_S, first_s)


def _hidden(first_s: float | None, end_s: float, gaps: Sequence[float], num_units: int) -> bool | None:
    """Whether much of the time after an answer's first token is not in its gaps; None where those are not known."""
    if first_s is None or num_units < MIN_TOKENS or len(gaps) != num_units - 1:
        return None
    return (end_s - first_s) - sum(gaps) > max(HIDDEN * (end_s - first_s), HIDDEN_S)
