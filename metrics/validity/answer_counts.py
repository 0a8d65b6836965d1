"""Truth checks of what answers and prompts show by themselves: their counts, how they ended, and whether images matter.

num_units      videos have as many frames as their files; texts as many tokens as their token ids, or as a tokenizer counts
num_input_tokens  prompts have as many tokens as words and bytes allow: none was cut short, none is counted many times
finish_reason  no answer was aborted, and the words of the others are known
images         the same question about other images does not always get the same answer, as it does where images are dropped
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from metrics.base import Run
from metrics.validity import video_sizes
from metrics.validity.check import Check, differs, holds, not_made
from pipelines.models.response_check import FAILED, FINISHED

WORDS_A_TOKEN = 2  # no tokenizer in use joins more words in most tokens of a text
TEMPLATE = 4096  # tokens that a chat template, a system prompt or a description of tools may add
MIN_ANSWERS = 16  # to questions that were asked about several images
MOST_ALIKE = 0.5  # of the references to one question: where more are equal, a model may well give that answer alone
TOLERATED = 0.05  # share of prompts: some may be long rows of signs that are single tokens


def checks(run: Run) -> list[Check]:
    return [_num_units(run), _num_input_tokens(run), _finish_reasons(run), _images(run)]


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
    if thoughts := counted["thoughts"]:
        return not_made(
            name,
            f"{thoughts} of {counted.total()} texts count thoughts beside them, which are not kept: no canary and no metric examines these",
        )
    basis = {"token_ids": "their token ids", "tokenizer": "what a tokenizer counts in their texts, up to a factor of 2"}
    return holds(name, "; ".join(f"{counted[key]} texts agree with {text}" for key, text in basis.items() if counted[key]))


def _num_input_tokens(run: Run) -> Check:
    """Of one answer to each prompt. Only far too few or too many show: tokens depend on the tokenizer, and templates add some."""
    name = "num_input_tokens"
    first = {r.sample_index: r for r in reversed(run.records) if r.status == "done" and r.num_input_tokens}
    if run.workload.unit != "tokens" or not first:
        return not_made(name, "the pipeline reports no tokens of prompts")
    few, many = list[str](), list[str]()
    for index, record in first.items():
        sample, count = run.samples[index], record.num_input_tokens
        least, most = len(sample.prompt.split()) // WORDS_A_TOKEN, len(sample.prompt.encode()) + TEMPLATE
        if count < least:
            few.append(f"query {record.query_id} has {least * WORDS_A_TOKEN} words in its prompt and {count} tokens")
        elif count > most and not sample.images:
            many.append(f"query {record.query_id} has {len(sample.prompt.encode())} bytes in its prompt and {count} tokens")
    for wrong, what in ((few, "were cut short"), (many, "are counted too long")):
        if len(wrong) > TOLERATED * len(first):
            return differs(name, f"{len(wrong)} of {len(first)} prompts {what}: {wrong[0]}")
    return holds(name, f"{len(first)} prompts have as many tokens as their words and bytes allow")


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


def _images(run: Run) -> Check:
    """Of questions whose references differ from image to image."""
    name = "images"
    if run.workload.unit != "tokens" or not any(sample.images for sample in run.samples):
        return not_made(name, "texts about images are the only answers that it examines")
    texts: dict[str, dict[int, tuple[str, str]]] = defaultdict(dict)
    for record in run.records:
        sample = run.samples[record.sample_index]
        if record.status == "done" and sample.images and "answer" in sample.meta:
            texts[sample.prompt][sample.index] = (str(sample.meta["answer"]), (record.text or "").strip())
    asked = [[*answers.values()] for answers in texts.values() if _are_mixed([reference for reference, _ in answers.values()])]
    num_answers = sum(map(len, asked))
    if run.has_random_weights or num_answers < MIN_ANSWERS:
        why = "random weights have no sense for them" if run.has_random_weights else f"there are fewer than {MIN_ANSWERS}"
        return not_made(name, f"of answers to questions about several images, with different references, {why}")
    what = f"{num_answers} answers to {len(asked)} questions"
    if all(len({text for _, text in answers}) == 1 for answers in asked):
        return differs(name, f"{what} are the same for all images, although the references are not")
    return holds(name, f"{what} depend on their images")


def _are_mixed(references: Sequence[str]) -> bool:
    return max(Counter(references).values()) <= MOST_ALIKE * len(references)


def _words(ended: Iterable[object]) -> str:
    return ", ".join(repr(word) for word in sorted(map(str, ended)))
