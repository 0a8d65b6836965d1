"""Truth checks of what answers say about themselves: their counts, and how they ended.

num_units      videos have as many frames as their files; texts as many tokens as their token ids, or as a tokenizer counts
finish_reason  no answer was aborted, and the words of the others are known
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from metrics.base import Run
from metrics.validity import video_sizes
from metrics.validity.check import Check, differs, holds, not_made
from pipelines.models.response_check import FAILED, FINISHED


def checks(run: Run) -> list[Check]:
    return [_num_units(run), _finish_reasons(run)]


def _num_units(run: Run) -> Check:
    name = "num_units"
    if forms := video_sizes.forms(run):
        wrong = [(run.records[i], form.num_frames) for i, form in forms.items() if run.records[i].num_units != form.num_frames]
        if wrong:
            record, frames = wrong[0]
            return differs(
                name,
                f"{len(wrong)} of {len(forms)} videos do not have as many frames as they count: query {record.query_id} counts "
                f"{record.num_units}, its file has {frames}",
            )
        return holds(name, f"{len(forms)} videos have as many frames as they count")
    counted: Counter[str] = Counter()
    for outcome in run.outcome.values():
        for rank in outcome.get("ranks") or ():
            counted.update(rank.get("counted") or {})
    if not counted:
        return not_made(name, "no rank reported what the counts of its answers were compared with")
    if unchecked := counted["nothing"]:
        return not_made(
            name,
            f"{unchecked} of {counted.total()} texts have no token ids, and the pipeline has no tokenizer to count with: their tokens "
            "are the pipeline's or server's own count",
        )
    basis = {"token_ids": "their token ids", "tokenizer": "what a tokenizer counts in their texts, up to a factor of 2"}
    return holds(name, "; ".join(f"{counted[key]} texts agree with {text}" for key, text in basis.items() if counted[key]))


def _finish_reasons(run: Run) -> Check:
    name, ended = "finish_reason", Counter(r.finish_reason for r in run.records if r.status == "done")
    if broken := {word: n for word, n in ended.items() if word in FAILED}:
        return differs(name, f"{sum(broken.values())} of {ended.total()} answers ended by {_words(broken)}")
    if unknown := {word: n for word, n in ended.items() if word is not None and word not in FINISHED}:
        return not_made(
            name, f"{sum(unknown.values())} of {ended.total()} answers ended by {_words(unknown)}: whether they are whole is not known"
        )
    if not any(ended[word] for word in FINISHED):
        return not_made(name, "the pipeline does not report how its answers ended")
    return holds(name, ", ".join(f"{n} answers ended by {word or 'nothing that is reported'}" for word, n in ended.most_common()))


def _words(ended: Iterable[object]) -> str:
    return ", ".join(repr(word) for word in sorted(map(str, ended)))
