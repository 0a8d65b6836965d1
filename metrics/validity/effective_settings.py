"""Truth checks of what was asked for and what was in force, one for each name under `allow_fallback`.

Three sides are compared: the option as it was asked for, what the pipeline says is in force, and what worker/inspection.py saw of
the model. They are read before the clock starts and after it has stopped, on every rank.

dtype         weights: the one asked for, and the one the pipeline names, holds most elements of every larger part of the model
attention     the backend that was asked for is named, and one of those that the model's parts note
quantisation  asked for: named, and seen in the weights. Not named: not seen
cache         named if and only if it was asked for
compile       in force if and only if it was asked for, and seen in the modules
parallel      every axis that was asked for is named
packages      the same versions on all ranks, before and after, and those that the run requires
steps         no answer was made in fewer denoising steps than asked for, nor in fewer when timed than when not
option        no other option that the pipeline itself says it could not put in force; and nothing in force changed meanwhile
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from configs.required_versions import is_met
from configs.settings import Fallback
from metrics.base import Run
from metrics.validity.check import Check, differs, holds, not_made
from pipelines.launcher.worker.inspection import OPTIONS

FLOATS = ("float64", "float32", "bfloat16", "float16")
LARGE_PART = 0.1  # of all elements: smaller parts may be kept in a dtype of their own
QUANTISED_SHARE = 0.05  # of all elements: integer buffers such as position ids are far less
NOTHING = ("none", "off", "false", "")

Rank = Mapping[str, Any]


def checks(run: Run) -> list[Check]:
    """One check for each name; `allowed` where it differs and the run was let off."""
    ranks = run.ranks
    if not ranks:
        return [not_made(name, "no rank came so far as to say what is in force") for name in get_args(Fallback)]
    found = [
        _judge(name, [*_own_words(name, ranks), *_FINDINGS[name](run, ranks)], _basis(name, run, ranks)) for name in get_args(Fallback)
    ]
    return [c.allowed() if c.result == "differs" and c.name in run.config.allow_fallback else c for c in found]


def _judge(name: str, differences: Sequence[str], basis: str) -> Check:
    """basis: what was compared, where something was; else, after a dash, why nothing was."""
    if differences:
        return differs(name, "; ".join(dict.fromkeys(differences)))
    return not_made(name, basis.removeprefix("- ")) if basis.startswith("- ") else holds(name, basis)


def _own_words(name: str, ranks: Sequence[Rank]) -> Iterator[str]:
    """The pipeline's own fallbacks: a sentence belongs to the check that it names first, one that names none to `option`."""
    for rank in ranks:
        for text in rank["fallbacks"]:
            named = re.search("|".join(get_args(Fallback)), text)
            if (named.group() if named else "option") == name:
                yield f"rank {rank['rank']}: {text}"


def _asked(run: Run, rank: Rank, name: str) -> Any:
    """The option's value, as the configuration or else the pipeline's default has it; None where nothing is asked for."""
    for option in OPTIONS.get(name, ()):
        value = run.config.pipeline_options.get(option, rank.get("requested", {}).get(option))
        if value is not None and value != "auto":
            return value
    return None


def _said(rank: Rank, name: str) -> str | None:
    keys = {"compile": ("compiled", "compile")}.get(name, (name,))
    return next((str(rank["effective"][key]) for key in keys if key in rank["effective"]), None)


def _basis(name: str, run: Run, ranks: Sequence[Rank]) -> str:
    asked, said = _asked(run, ranks[0], name), _said(ranks[0], name)
    seen = ranks[0].get("found") or {}
    told = [f"asked for {asked}"] if asked is not None else []
    told += [f"the pipeline says {said}"] if said is not None else []
    if name == "dtype" and (weights := _all_weights(seen)):
        told.append(f"weights are {_shares(weights)}")
    if name == "attention" and seen.get("attention"):
        told.append(f"its parts note {', '.join(seen['attention'])}")
    if name == "quantisation" and said is not None and (weights := _all_weights(seen)):
        told.append("which dtypes cannot show" if _is_unseen(said) else f"weights are {_shares(weights)}")
    if name == "compile" and said is not None and seen.get("weights"):
        told.append(f"{seen['compiled']} compiled modules")
    if name == "parallel":
        told = [f"asked for {axis} {getattr(run.config.parallel, axis)}" for axis in run.config.parallel.active] + told
        return ", ".join(told) or "one rank a model, as asked for"
    if name == "packages":
        count = len((seen.get("packages")) or {})
        wanted = ", ".join(f"{package} {version}" for package, version in run.config.require.items())
        seen_there = f"{f'asked for {wanted}; ' if wanted else ''}{count} versions, before and after, on {len(ranks)} ranks"
        return seen_there if count else "- the run folder tells none"
    if name == "steps":
        counts = sorted({len(r.step_s) for r in run.timed if r.step_s})
        told += [f"timed answers have {' or '.join(map(str, counts))}"] if counts else []
        return ", ".join(told) if counts else "- no answer tells its denoising steps"
    if name == "option":
        return "the pipeline names no other, and what it says is in force stayed so"
    if name in ("dtype", "attention", "quantisation", "compile") and said is not None and not seen.get("weights"):
        told.append("no torch module to look at")
    return ", ".join(told) or "- nothing is asked for, and the pipeline says nothing of it"


def _dtype(run: Run, ranks: Sequence[Rank]) -> Iterator[str]:
    for rank, when, seen in _looks(ranks):
        said, asked = _said(rank, "dtype"), _asked(run, rank, "dtype")
        if asked is not None and said is not None and str(asked) != said:
            yield f"{when} says {said}, not {asked}"
        total = sum(_all_weights(seen).values())
        for path, counted in seen.get("weights", {}).items():
            floats = {k: v for k, v in counted.items() if k in FLOATS}
            if sum(counted.values()) < LARGE_PART * total or not floats:
                continue
            most = max(floats, key=lambda k: floats[k])
            for wanted in {str(asked or said), str(said or asked)} - {"None"}:
                if wanted in FLOATS and most != wanted:
                    yield f"{when}: {path} is {_shares(counted)}, not {wanted}"


def _attention(run: Run, ranks: Sequence[Rank]) -> Iterator[str]:
    for rank, when, seen in _looks(ranks):
        said, asked = _said(rank, "attention"), _asked(run, rank, "attention")
        if asked is not None and said is not None and _backend(asked) not in _backend(said):
            yield f"{when} says {said}, not {asked}"
        noted = {_backend(name) for name in seen.get("attention", ())}
        for wanted in {_backend(x) for x in (asked, said) if x is not None} - {"native", "auto"}:
            if noted and not any(name in wanted or wanted in name for name in noted):
                yield f"{when}: its parts note {', '.join(sorted(noted))}, not {wanted}"


def _backend(name: object) -> str:
    """transformers writes `paged|` before the one that it pages."""
    return str(name).lower().removeprefix("paged|")


def _quantisation(run: Run, ranks: Sequence[Rank]) -> Iterator[str]:
    for rank, when, seen in _looks(ranks):
        said, asked = _said(rank, "quantisation"), _asked(run, rank, "quantisation")
        if asked is not None and said is not None and _is_nothing(asked) != _is_nothing(said):
            yield f"{when} says {said}, not {_shown(asked)}"
        if not (weights := _all_weights(seen)) or said is None or _is_unseen(said):
            continue
        share = sum(v for k, v in weights.items() if k not in FLOATS) / sum(weights.values())
        if _is_nothing(said) and share > QUANTISED_SHARE:
            yield f"{when} says {said}, but weights are {_shares(weights)}"
        if not _is_nothing(said) and share <= QUANTISED_SHARE:
            yield f"{when} says {said}, but weights are {_shares(weights)}"


def _is_unseen(said: str) -> bool:
    """Weights that keep their dtype: rounded ones, and those that were unpacked on loading."""
    return "rounded" in said or "dequantised" in said


def _cache(run: Run, ranks: Sequence[Rank]) -> Iterator[str]:
    """Of pipelines that have an option `cache`; a language model's cache of keys and values is no such thing."""
    for rank in ranks:
        said, asked = _said(rank, "cache"), _asked(run, rank, "cache")
        has_option = "cache" in rank.get("requested", {}) or "cache" in run.config.pipeline_options
        if has_option and said is not None and _is_nothing(asked) != _is_nothing(said):
            yield f"rank {rank['rank']} says {said}, not {_shown(asked)}"


def _compile(run: Run, ranks: Sequence[Rank]) -> Iterator[str]:
    for rank, when, seen in _looks(ranks):
        said, asked = _said(rank, "compile"), _asked(run, rank, "compile")
        if asked is not None and said is not None and _is_nothing(asked) != _is_nothing(said):
            yield f"{when} says {said}, not {asked}"
        if said is not None and seen.get("weights") and _is_nothing(said) != (seen["compiled"] == 0):
            yield f"{when} says {said}, but {seen['compiled']} modules are compiled"


def _parallel(run: Run, ranks: Sequence[Rank]) -> Iterator[str]:
    for rank in ranks:
        said = _said(rank, "parallel") or "nothing"
        for axis in run.config.parallel.active:
            wanted = f"{axis} {getattr(run.config.parallel, axis)}"
            if not re.search(rf"\b{wanted}\b", said):
                yield f"rank {rank['rank']} says {said}, not {wanted}"


def _packages(run: Run, ranks: Sequence[Rank]) -> Iterator[str]:
    first = (ranks[0].get("found") or {}).get("packages", {})
    for _, when, seen in _looks(ranks):
        versions = seen.get("packages", {})
        for name, wanted in run.config.require.items() if versions else ():
            version = versions.get(name)
            if version is None or not is_met(wanted, version):
                yield f"{when} has {name} {version or 'not at all'}, not {wanted}"
        for name in sorted({*first, *versions}) if versions else ():
            if first.get(name) != versions.get(name):
                yield f"{when} has {name} {versions.get(name, 'not at all')}, rank {ranks[0]['rank']} had {first.get(name, 'none')} before"


def _steps(run: Run, ranks: Sequence[Rank]) -> Iterator[str]:
    asked = _asked(run, ranks[0], "steps")
    timed = Counter(len(r.step_s) for r in run.timed if r.status == "done" and r.step_s)
    if not timed:
        return
    fewest = min(timed)
    if isinstance(asked, int) and fewest < asked:
        yield f"{timed[fewest]} of {sum(timed.values())} timed answers were made in {fewest} steps, not {asked}"
    untimed = [a["num_steps"] for o in run.outcome.values() for a in o.get("replays", ()) if a.get("num_steps")]
    if untimed and fewest < min(untimed):
        yield f"timed answers were made in {fewest} steps, the same ones untimed in {min(untimed)}"


def _option(run: Run, ranks: Sequence[Rank]) -> Iterator[str]:
    first: Mapping[str, str] = ranks[0]["effective"]
    for rank in ranks:
        looks: Sequence[tuple[str, Mapping[str, str] | None]] = (
            (f"rank {rank['rank']} afterwards", rank.get("effective_after")),
            (f"rank {rank['rank']}", rank["effective"]),
        )
        for told, other in looks:
            for key in sorted({*first, *other}) if other else ():
                now = (other or {}).get(key)
                if _unmeasured(key, first.get(key)) != _unmeasured(key, now):
                    yield f"{told} has {key} {now}; rank {ranks[0]['rank']} began with {first.get(key)}"


def _unmeasured(key: str, value: str | None) -> str | None:
    """Without figures, where they may be what a cache was seen to do, or what memory had room for."""
    return re.sub(r"[0-9.]+", "", value) if key == "cache" and value is not None else value


_FINDINGS = {
    "dtype": _dtype,
    "attention": _attention,
    "quantisation": _quantisation,
    "cache": _cache,
    "compile": _compile,
    "parallel": _parallel,
    "packages": _packages,
    "steps": _steps,
    "option": _option,
}


def _looks(ranks: Sequence[Rank]) -> Iterator[tuple[Rank, str, Mapping[str, Any]]]:
    """Each rank before the clock started and after it had stopped, as far as it came."""
    for rank in ranks:
        for key, when in (("found", f"rank {rank['rank']}"), ("found_after", f"rank {rank['rank']} afterwards")):
            if seen := rank.get(key):
                yield rank, when, seen


def _all_weights(seen: Mapping[str, Any]) -> Counter[str]:
    total: Counter[str] = Counter()
    for counted in seen.get("weights", {}).values():
        total.update(counted)
    return total


def _shares(counted: Mapping[str, int]) -> str:
    total = sum(counted.values())
    parts = [f"{100 * n / total:.3g} % {name}" for name, n in sorted(counted.items(), key=lambda item: -item[1])]
    return ", ".join(parts[:4])


def _is_nothing(value: object) -> bool:
    return value is None or str(value).lower() in NOTHING


def _shown(asked: Any) -> str:
    if isinstance(asked, Mapping):
        return str(asked.get("name", asked))
    return "none" if asked is None else str(asked)
