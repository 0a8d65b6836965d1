"""What the tests say of engines' features, and the table of docs/engines.md that is made of it.

A test marked `feature(engine, name)` proves that the feature runs where the test passes, and that it is written but was not run where it
is skipped. One marked `feature(engine, name, refused="why")` proves that the feature is refused by name, since it is not possible. A mark's
`note` stands in the table beside what runs.

    make features                                                                      # this machine's tests, and the table
    python -m pytest -m feature --features=docs/features.json --features-on="vLLM's CPU build" tests/pipelines/vllm/test_pipeline.py
    python -m tests.features                                                           # the table alone
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs/features.json"
PAGE = ROOT / "docs/engines.md"
BEGIN, END = "<!-- features: made by `make features` -->\n", "<!-- end of features -->\n"
STATES = ("failed", "runs", "written, not run", "not possible")  # where several are told of one feature, the first of these


class Told(NamedTuple):
    """One test's word on one feature."""

    engine: str
    feature: str
    state: str
    why: str


def told(mark: dict[str, str | None], outcome: str, skipped_for: str) -> Told:
    """mark: `engine`, `feature`, `refused`, `note` of a test's mark. outcome: pytest's, of the whole test."""
    engine, feature, refused = str(mark["engine"]), str(mark["feature"]), mark["refused"]
    if outcome == "failed":
        return Told(engine, feature, "failed", "its test fails")
    if outcome == "skipped":
        return Told(engine, feature, "written, not run", skipped_for)
    return Told(engine, feature, "not possible", refused) if refused else Told(engine, feature, "runs", mark["note"] or "")


def keep(file: Path, place: str, found: list[Told]) -> None:
    """Put what the tests of one place said in the file; what they said before of features that were not tried now stays."""
    kept: dict[str, list[dict[str, str]]] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    tried = {(t.engine, t.feature) for t in found}
    old = [t for t in kept.get(place, []) if (t["engine"], t["feature"]) not in tried]
    kept[place] = sorted(old + [t._asdict() for t in set(found)], key=lambda t: tuple(t.values()))
    file.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n", encoding="utf-8")


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """The matrix as Markdown, one row a feature."""
    rows: dict[tuple[str, str], list[tuple[str, Told]]] = {}
    for place, all_told in results.items():
        for values in all_told:
            one = Told(**values)
            rows.setdefault((one.engine, one.feature), []).append((place, one))
    lines = ["| engine | feature | | where, or why not |", "|---|---|---|---|"]
    for (engine, feature), seen in sorted(rows.items()):
        state = min((one.state for _, one in seen), key=STATES.index)
        counted = [(place, one) for place, one in seen if one.state == state]
        whys = dict.fromkeys(one.why for _, one in counted if one.why)
        if state == "runs":
            whys = dict.fromkeys([", ".join(dict.fromkeys(place for place, _ in counted)), *whys])
            whys |= dict.fromkeys(f"refused elsewhere: {one.why}" for _, one in seen if one.state == "not possible")
        lines.append(f"| `{engine}` | {feature} | {state} | {'; '.join(whys)} |")
    return "\n".join(lines) + "\n"


def page_with(text: str, results: dict[str, list[dict[str, Any]]]) -> str:
    """The page with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"the page has no place for the table: a line {BEGIN.strip()!r} and a line {END.strip()!r}")
    return f"{before}{BEGIN}{table(results)}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page_with(PAGE.read_text(encoding="utf-8"), json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")
    print(f"wrote the table of {PAGE.relative_to(ROOT)}")
