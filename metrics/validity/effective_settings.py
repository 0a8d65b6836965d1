"""Truth checks that compare requested and effective settings, one for each name under `allow_fallback`.

Each compares three things: the requested option, what the pipeline reports, and what worker/inspection.py reads from the model. They are
read on every rank before the clock starts and after it has stopped.

dtype         weights: the requested dtype, and the one the pipeline reports, holds most elements of every larger part of the model
attention     the requested backend is the reported one, and among those that the model's modules name
quantisation  requested: reported, and visible in the weights. Not reported: not visible
cache         reported if and only if it is requested
compile       effective if and only if it is requested, and visible in the modules
parallel      every requested axis is reported
packages      the same versions on all ranks, before and after, and those that the run requires
steps         no answer was made in fewer denoising steps than requested, nor in fewer when timed than when not
size          saved videos have the requested frames, height, width and frame rate (video_sizes.py)
option        the pipeline reports no other option that it could not apply, and no effective setting changed during the test

A dtype, attention, quantisation or compilation that no module shows is `not made`: only the pipeline's own word would hold.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from configs.required_versions import is_met
from configs.settings import EffectiveSetting
from metrics.base import Run
from metrics.validity import video_sizes
from metrics.validity.check import Check, differs, holds, not_made
from pipelines.launcher.worker.inspection import OPTIONS

FLOATS = ("float64", "float32", "bfloat16", "float16")
LARGE_PART = 0.1  # of all elements: smaller parts may be kept in a dtype of their own
QUANTISED_SHARE = 0.05  # of all elements: integer buffers such as position ids are far less
NOTHING = ("none", "off", "false", "")
MEASURED = ("cache", "compile_s")  # settings whose numbers may differ between ranks and during a test

Rank = Mapping[str, Any]


def checks(run: Run) -> list[Check]:
    """One check for each name; `allowed` where it differs and the run allows that."""
    ranks = run.ranks
    if not ranks:
        return [not_made(name, "no rank reported its effective settings") for name in get_args(EffectiveSetting)]
    made = [_check(name, run, ranks) for name in get_args(EffectiveSetting)]
    return [c.allowed() if c.result == "differs" and c.name in run.config.allow_fallback else c for c in made]


def _check(name: str, run: Run, ranks: Sequence[Rank]) -> Check:
    if differences := [*_fallbacks(name, ranks), *_DIFFERENCES[name](run, ranks)]:
        return differs(name, "; ".join(dict.fromkeys(differences)))
    basis = _basis(name, run, ranks)
    return not_made(name, basis.removeprefix("- ")) if basis.startswith("- ") else holds(name, basis)


def _fallbacks(name: str, ranks: Sequence[Rank]) -> Iterator[str]:
    """The fallbacks that the pipeline reports: a sentence belongs to the check that it names first, and to `option` if it names none."""
    for rank in ranks:
        for text in rank["fallbacks"]:
            named = re.search("|".join(get_args(EffectiveSetting)), text)
            if (named.group() if named else "option") == name:
                yield f"rank {rank['rank']}: {text}"


def _requested(run: Run, rank: Rank, name: str) -> Any:
    """The option's value from the configuration, or else the pipeline's default; None where nothing is requested."""
    for option in OPTIONS.get(name, ()):
        value = run.config.pipeline_options.get(option, rank.get("requested", {}).get(option))
        if value is not None and value != "auto":
            return value
    return None


def _reported(rank: Rank, name: str) -> str | None:
    keys = {"compile": ("compiled", "compile")}.get(name, (name,))
    return next((str(rank["effective"][key]) for key in keys if key in rank["effective"]), None)


def _basis(name: str, run: Run, ranks: Sequence[Rank]) -> str:
    """What was compared; where nothing could be, a dash and the reason."""
    requested, reported = _requested(run, ranks[0], name), _reported(ranks[0], name)
    seen = ranks[0].get("found") or {}
    parts = [f"requested {requested}"] if requested is not None else []
    parts += [f"the pipeline reports {reported}"] if reported is not None else []
    if name == "dtype" and (weights := _all_weights(seen)):
        parts.append(f"weights are {_percentages(weights)}")
    if name == "attention" and seen.get("attention"):
        parts.append(f"its modules name {', '.join(seen['attention'])}")
    if name == "quantisation" and reported is not None and (weights := _all_weights(seen)):
        parts.append(f"weights are {_percentages(weights)}")
    if name == "compile" and reported is not None and seen.get("weights"):
        parts.append(f"{seen['compiled']} compiled modules")
    if name == "parallel":
        parts = [f"requested {axis} {getattr(run.config.parallel, axis)}" for axis in run.config.parallel.active] + parts
        return ", ".join(parts) or "one rank per model, as requested"
    if name == "packages":
        count = len((seen.get("packages")) or {})
        required = ", ".join(f"{package} {version}" for package, version in run.config.require.items())
        compared = f"{f'required {required}; ' if required else ''}{count} versions, before and after, on {len(ranks)} ranks"
        return compared if count else "- the run folder names no versions"
    if name == "steps":
        counts = sorted({len(r.step_s) for r in run.timed or run.records if r.step_s})
        parts += [f"timed answers have {' or '.join(map(str, counts))} steps"] if counts else []
        return ", ".join(parts) if counts else "- no answer reports its denoising steps"
    if name == "size":
        return video_sizes.basis(run, ranks)
    if name == "option":
        return "the pipeline reports no other fallback, and no effective setting changed"
    if parts and (unseen := _unseen(name, reported, seen)):
        return f"- {', '.join(parts)}; {unseen}"
    return ", ".join(parts) or "- nothing is requested, and the pipeline reports nothing"


def _unseen(name: str, reported: str | None, seen: Mapping[str, Any]) -> str:
    """Why the model's modules cannot show the setting, so that it rests on the pipeline's word; empty where they can."""
    if name not in ("dtype", "attention", "quantisation", "compile"):
        return ""
    if name == "attention":
        return "" if seen.get("attention") else "no module names a backend"
    if not seen.get("weights"):
        return "there are no torch modules to inspect"
    if reported is None:
        return "" if name == "dtype" else "the pipeline does not report it"
    if name == "quantisation" and _is_invisible(reported):
        return "dtypes cannot show it"
    if name == "dtype" and reported not in FLOATS:
        return f"no dtype of weights is called {reported}"
    return ""


def _dtype(run: Run, ranks: Sequence[Rank]) -> Iterator[str]:
    for rank, when, seen in _inspections(ranks):
        reported, requested = _reported(rank, "dtype"), _requested(run, rank, "dtype")
        if requested is not None and reported is not None and str(requested) != reported:
            yield f"{when} reports {reported}, not {requested}"
        total = sum(_all_weights(seen).values())
        for path, counted in seen.get("weights", {}).items():
            floats = {k: v for k, v in counted.items() if k in FLOATS}
            if sum(counted.values()) < LARGE_PART * total or not floats:
                continue
            most = max(floats, key=lambda k: floats[k])
            for wanted in {str(requested or reported), str(reported or requested)} - {"None"}:
                if wanted in FLOATS and most != wanted:
                    yield f"{when}: {path} is {_percentages(counted)}, not {wanted}"


def _attention(run: Run, ranks: Sequence[Rank]) -> Iterator[str]:
    for rank, when, seen in _inspections(ranks):
        reported, requested = _reported(rank, "attention"), _requested(run, rank, "attention")
        if requested is not None and reported is not None and _backend(requested) not in _backend(reported):
            yield f"{when} reports {reported}, not {requested}"
        named = {_backend(name) for name in seen.get("attention", ())}
        for wanted in {_backend(x) for x in (requested, reported) if x is not None} - {"native", "auto"}:
            if named and not any(name in wanted or wanted in name for name in named):
                yield f"{when}: its modules name {', '.join(sorted(named))}, not {wanted}"


def _backend(name: object) -> str:
    """transformers prefixes a paged backend with `paged|`."""
    return str(name).lower().removeprefix("paged|")


def _quantisation(run: Run, ranks: Sequence[Rank]) -> Iterator[str]:
    for rank, when, seen in _inspections(ranks):
        reported, requested = _reported(rank, "quantisation"), _requested(run, rank, "quantisation")
        if requested is not None and reported is not None and _is_nothing(requested) != _is_nothing(reported):
            yield f"{when} reports {reported}, not {_text(requested)}"
        if not (weights := _all_weights(seen)) or reported is None or _is_invisible(reported):
            continue
        share = sum(v for k, v in weights.items() if k not in FLOATS) / sum(weights.values())
        if _is_nothing(reported) and share > QUANTISED_SHARE:
            yield f"{when} reports {reported}, but weights are {_percentages(weights)}"
        if not _is_nothing(reported) and share <= QUANTISED_SHARE:
            yield f"{when} reports {reported}, but weights are {_percentages(weights)}"


def _is_invisible(reported: str) -> bool:
    """Whether weights keep their dtype: rounded ones, and those that were unpacked on loading."""
    return "rounded" in reported or "dequantised" in reported


def _cache(run: Run, ranks: Sequence[Rank]) -> Iterator[str]:
    """For pipelines with an option `cache`, which a language model's KV cache is not."""
    for rank in ranks:
        reported, requested = _reported(rank, "cache"), _requested(run, rank, "cache")
        has_option = "cache" in rank.get("requested", {}) or "cache" in run.config.pipeline_options
        if has_option and reported is not None and _is_nothing(requested) != _is_nothing(reported):
            yield f"rank {rank['rank']} reports {reported}, not {_text(requested)}"


def _compile(run: Run, ranks: Sequence[Rank]) -> Iterator[str]:
    for rank, when, seen in _inspections(ranks):
        reported, requested = _reported(rank, "compile"), _requested(run, rank, "compile")
        if requested is not None and reported is not None and _is_nothing(requested) != _is_nothing(reported):
            yield f"{when} reports {reported}, not {requested}"
        if reported is not None and seen.get("weights") and _is_nothing(reported) != (seen["compiled"] == 0):
            yield f"{when} reports {reported}, but {seen['compiled']} modules are compiled"


def _parallel(run: Run, ranks: Sequence[Rank]) -> Iterator[str]:
    for rank in ranks:
        reported = _reported(rank, "parallel") or "nothing"
        for axis in run.config.parallel.active:
            wanted = f"{axis} {getattr(run.config.parallel, axis)}"
            if not re.search(rf"\b{wanted}\b", reported):
                yield f"rank {rank['rank']} reports {reported}, not {wanted}"


def _packages(run: Run, ranks: Sequence[Rank]) -> Iterator[str]:
    first = (ranks[0].get("found") or {}).get("packages", {})
    for _, when, seen in _inspections(ranks):
        versions = seen.get("packages", {})
        for name, wanted in run.config.require.items() if versions else ():
            version = versions.get(name)
            if version is None or not is_met(wanted, version):
                yield f"{when} has {name} {version or 'not installed'}, required {wanted}"
        for name in sorted({*first, *versions}) if versions else ():
            if first.get(name) != versions.get(name):
                before = f"rank {ranks[0]['rank']} had {first.get(name, 'not installed')} before"
                yield f"{when} has {name} {versions.get(name, 'not installed')}, {before}"


def _steps(run: Run, ranks: Sequence[Rank]) -> Iterator[str]:
    requested = _requested(run, ranks[0], "steps")
    timed = Counter(len(r.step_s) for r in run.timed or run.records if r.status == "done" and r.step_s)
    if not timed:
        return
    fewest = min(timed)
    if isinstance(requested, int) and fewest < requested:
        yield f"{timed[fewest]} of {sum(timed.values())} timed answers were made in {fewest} steps, not {requested}"
    untimed = [a["num_steps"] for o in run.outcome.values() for a in o.get("replays", ()) if a.get("num_steps")]
    if untimed and fewest < min(untimed):
        yield f"timed answers were made in {fewest} steps, the same answers untimed in {min(untimed)}"


def _option(run: Run, ranks: Sequence[Rank]) -> Iterator[str]:
    first: Mapping[str, str] = ranks[0]["effective"]
    for rank in ranks:
        looks: Sequence[tuple[str, Mapping[str, str] | None]] = (
            (f"rank {rank['rank']} after the test", rank.get("effective_after")),
            (f"rank {rank['rank']}", rank["effective"]),
        )
        for when, other in looks:
            for key in sorted({*first, *other}) if other else ():
                now = (other or {}).get(key)
                if _without_numbers(key, first.get(key)) != _without_numbers(key, now):
                    yield f"{when} has {key} {now}; rank {ranks[0]['rank']} began with {first.get(key)}"


def _without_numbers(key: str, value: str | None) -> str | None:
    """The value without its numbers where they are measured; nothing of `.._choice`, which is the reason for a setting."""
    return None if key.endswith("_choice") else re.sub(r"[0-9.]+", "", value or "") if key in MEASURED else value


_DIFFERENCES = {
    "dtype": _dtype,
    "attention": _attention,
    "quantisation": _quantisation,
    "cache": _cache,
    "compile": _compile,
    "parallel": _parallel,
    "packages": _packages,
    "steps": _steps,
    "size": video_sizes.differences,
    "option": _option,
}


def _inspections(ranks: Sequence[Rank]) -> Iterator[tuple[Rank, str, Mapping[str, Any]]]:
    """What was read on each rank before the clock started and after it had stopped, where the rank got so far."""
    for rank in ranks:
        for key, when in (("found", f"rank {rank['rank']}"), ("found_after", f"rank {rank['rank']} after the test")):
            if seen := rank.get(key):
                yield rank, when, seen


def _all_weights(seen: Mapping[str, Any]) -> Counter[str]:
    total: Counter[str] = Counter()
    for counted in seen.get("weights", {}).values():
        total.update(counted)
    return total


def _percentages(counted: Mapping[str, int]) -> str:
    total = sum(counted.values())
    parts = [f"{100 * n / total:.3g} % {name}" for name, n in sorted(counted.items(), key=lambda item: -item[1])]
    return ", ".join(parts[:4])


def _is_nothing(value: object) -> bool:
    return value is None or str(value).lower() in NOTHING


def _text(requested: Any) -> str:
    if isinstance(requested, Mapping):
        return str(requested.get("name", requested))
    return "none" if requested is None else str(requested)
