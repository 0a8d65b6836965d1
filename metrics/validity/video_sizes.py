"""Truth check `size`: whether the saved videos have the frames, height, width and frame rate that the pipeline's options request.

The forms are read from the containers of all saved videos, so what a server or a pipeline says of its videos is not used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from metrics.base import Run
from pipelines.models.video_form import form_text, is_same, requested_form
from workloads.run_folder.media import Form, video_form


def forms(run: Run) -> dict[int, Form]:
    """The form of every saved video, by its place in run.records. Files that cannot be read trigger the canary `unreadable` instead."""
    found = {}
    for place, record in enumerate(run.records):
        if record.status == "done" and record.media is not None and (form := _form(run.folder / record.media)) is not None:
            found[place] = form
    return found


def differences(run: Run, ranks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One sentence for each form that is not the requested one."""
    requested, counted = _requested(run, ranks), Counter(forms(run).values())
    for form, count in counted.most_common():
        came = form._asdict()
        if not all(is_same(name, value, came[name]) for name, value in requested.items()):
            total = counted.total()
            yield f"{form_text(requested)} requested, {count} of {total} videos have {form_text(came)}"


def basis(run: Run, ranks: Sequence[Mapping[str, Any]]) -> str:
    """What was compared; where nothing could be, a dash and the reason."""
    counted = Counter(forms(run).values())
    if not counted:
        return "- there is no saved video"
    seen = ", ".join(f"{count} videos have {form_text(form._asdict())}" for form, count in counted.most_common(3))
    requested = _requested(run, ranks)
    return f"{form_text(requested)} requested, {seen}" if requested else f"- no option requests a size; {seen}"


def _requested(run: Run, ranks: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """From the configuration, or else the pipeline's defaults."""
    return requested_form({**ranks[0].get("requested", {}), **run.config.pipeline_options})


@lru_cache(maxsize=65536)
def _form(path: Path) -> Form | None:
    try:
        return video_form(path)
    except ValueError:
        return None
