"""Reports of text runs, from folders made by hand to the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import ConfigError
from metrics.report.html.combined import write_combined
from metrics.report.html.page import write_html
from metrics.report.html.render import label
from metrics.report.html.text_answers import thumbnail, worst_answers
from metrics.report.report import build_report, headline
from tests.conftest import record
from tests.metrics.conftest import TOKEN_LIMITS, write_run
from workloads.records import Record, Sample
from workloads.vlm import encode_png

NASTY = '<script>alert(1)</script> & "quotes" {{ 7 * 7 }}'
SEARCH: dict[str, Any] = {
    "limits": {"target_ttft_s": 1.0, "target_tpot_s": 0.1, "target_latency_s": 10.0},
    "probes": [
        {
            "target_qps": 4.0,
            "verdict": "VALID",
            "completed_per_s": 3.9,
            "ttft_s": 0.5,
            "tpot_s": 0.05,
            "latency_s": 2.0,
            "full": True,
            "folder": "probes/4",
        },
        {
            "target_qps": 8.0,
            "verdict": "INVALID",
            "completed_per_s": 6.0,
            "ttft_s": 3.0,
            "tpot_s": None,
            "latency_s": None,
            "folder": NASTY,
        },
    ],
    "max_valid_qps": 4.0,
    "confirmed": True,
}


def answer(query_id: int, text: str | None, **fields: Any) -> Record:
    start = float(query_id)
    values = {
        "issued_s": start,
        "started_s": start + 0.25,
        "first_token_s": start + 0.5,
        "completed_s": start + 1.5,
        "num_units": 11,
        "num_input_tokens": 40,
        "finish_reason": "stop",
        "text": text,
    }
    return record(query_id, **values | fields)


@pytest.fixture
def without_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is most of a page's time."""
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda self, out, **_: out.write("<svg></svg>"))


@pytest.fixture
def server_run(tmp_path: Path) -> Path:
    """Six queries: right, wrong, failed, empty, a good and a poor summary."""
    exact = {"answer": "red", "task": "colour"}
    rouge = {"answer": "one disc moves", "task": "summary", "scored_by": "rouge"}
    samples = [Sample(i, f"question {i}", meta) for i, meta in enumerate([exact, exact, exact, exact, rouge, rouge])]
    records = [answer(0, "red"), answer(1, "blue"), answer(2, None, status="failed", error=f"RuntimeError: {NASTY}")]
    records += [answer(3, ""), answer(4, "one disc moves"), answer(5, "one disc falls")]
    return write_run(tmp_path / "run", samples, records, scenario="server", **TOKEN_LIMITS)


def test_the_report_of_a_text_run_has_speed_and_quality(server_run: Path) -> None:
    report = build_report(server_run)
    figures = {name: figure["value"] for name, figure in report.data["figures"].items()}
    assert figures["ttft_mean"] == pytest.approx(0.5)
    assert figures["goodput_share"] == pytest.approx(5 / 6)
    assert figures["exact_match"] == 0.25
    assert figures["rouge_1"] == pytest.approx((1 + 2 / 3) / 2)
    assert headline(report)["rouge_l"] == figures["rouge_l"]
    assert report.data["limits"] == {"percentile": 0.9, "ttft": 1.0, "tpot": 0.1}
    assert report.data["alarms"] == ["empty"]
    assert report.data["canaries"] == {"nan": 0, "empty": 1, "looping": 0, "cut_off": 0, "echo": 0, "utf8": 0, "identical": 0}
    assert "canary 'empty': 1 of 5 answers, first query 3" in report.data["reasons"]


def test_tolerated_canaries_are_counted_and_leave_the_run_valid(tmp_path: Path) -> None:
    samples = [Sample(i, f"question {i}") for i in range(20)]
    records = [answer(i, "no " * 30 if i == 7 else f"answer {i}") for i in range(20)]
    report = build_report(write_run(tmp_path / "run", samples, records))
    assert (report.data["canaries"]["looping"], report.data["alarms"]) == (1, [])
    assert report.valid


def test_the_worst_answers_come_first(server_run: Path) -> None:
    answers = worst_answers(build_report(server_run))
    assert [a["query_id"] for a in answers] == [2, 3, 1, 5, 0, 4]
    assert answers[1]["marks"] == [("canary: empty", "no"), ("exact match NO", "no"), ("colour", "is"), ("11 tokens", "is")]


def test_answers_cut_on_purpose_are_not_the_worst(tmp_path: Path) -> None:
    samples = [Sample(0, "tell me all"), Sample(1, "what is it?"), Sample(2, "what colour is it?", {"answer": "red"})]
    records = [answer(0, "well, once", finish_reason="length"), answer(1, "a disc"), answer(2, "blue")]
    answers = worst_answers(build_report(write_run(tmp_path / "run", samples, records)))
    assert [a["query_id"] for a in answers] == [2, 0, 1]
    assert ("cut_off", "is") in answers[1]["marks"]


def test_the_page_needs_nothing_else_and_escapes_what_it_shows(server_run: Path) -> None:
    (server_run / "search.json").write_text(json.dumps(SEARCH), encoding="utf-8")
    page = write_html(build_report(server_run)).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "{{ 7 * 7 }}" in page
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    for expected in (
        "Waiting for tokens",
        "limit 1 s for 90% of queries: 100.0% meet it",
        "Queries in service",
        "tokens of the prompt",
        "NO",
    ):
        assert expected in page
    for video in ("black", "frozen", "Queries on each rank"):
        assert video not in page


def test_a_search_is_drawn_and_linked(server_run: Path) -> None:
    (server_run / "search.json").write_text(json.dumps(SEARCH), encoding="utf-8")
    (server_run / "probes/4").mkdir(parents=True)
    (server_run / "probes/4/report.html").write_text("", encoding="utf-8")
    report = build_report(server_run)
    assert report.data["search"]["max_valid_qps"] == 4.0
    page = write_html(report).read_text(encoding="utf-8")
    assert "confirmed by a full run" in page
    assert '<a href="probes/4/report.html">' in page
    assert page.count("<td>full run</td>") == page.count("<td>probe</td>") == 1
    assert "TTFT, limit 1.00 s" in page
    assert "latency, limit" not in page  # tokens are limited in its place


def test_a_damaged_search_is_named(server_run: Path) -> None:
    (server_run / "search.json").write_text('{"limits": {}, "probes": [{"verdict": "MAYBE"}]}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"search\.json is damaged"):
        build_report(server_run)


@pytest.mark.usefixtures("without_drawing")
def test_images_are_shown_small_and_a_missing_one_is_named(tmp_path: Path) -> None:
    clip = encode_png(np.random.default_rng(0).integers(0, 256, (3, 500, 400, 3)).astype(np.uint8))
    samples = [Sample(0, "what?", {"answer": "a"}, clip), Sample(1, "and?", {"answer": "b"}, (b"no picture",))]
    folder = write_run(tmp_path / "run", samples, [answer(0, "a"), answer(1, "c")], workload="vlm", pipeline={"name": "toy_vlm"})
    (folder / "inputs/000000-1.png").unlink()
    page = write_html(build_report(folder)).read_text(encoding="utf-8")
    assert page.count('class="thumb"') == 2
    assert page.count("image missing or unreadable") == 2


def test_a_thumbnail_is_a_small_image_or_empty() -> None:
    (png,) = encode_png(np.zeros((1, 24, 24, 3), np.uint8))
    assert thumbnail(png).startswith("data:image/png;base64,")
    assert [thumbnail(b) for b in (b"", b"no picture", png[:40])] == ["", "", ""]


@pytest.mark.usefixtures("without_drawing")
def test_a_long_text_is_folded(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [Sample(0, "word " * 100)], [answer(0, "short")])
    page = write_html(build_report(folder)).read_text(encoding="utf-8")
    assert page.count("<details>") == 1
    assert "500 characters" in page


def test_names_of_figures_are_written_in_words() -> None:
    assert [label(n) for n in ("ttft_p90", "tokens_per_s", "rouge_l", "hierarchical_f1")] == [
        "TTFT p90",
        "tokens per second",
        "ROUGE L",
        "hierarchical F1",
    ]


@pytest.mark.usefixtures("without_drawing")
def test_a_combined_page_links_to_each_run(tmp_path: Path) -> None:
    good = write_run(tmp_path / "runs/a b", [Sample(0, "q", {"answer": "red"})], [answer(0, "red")])
    poor = write_run(tmp_path / "runs/poor", [Sample(0, NASTY)], [answer(0, None, status="failed", error=NASTY)])
    for folder in (good, poor):
        write_html(build_report(folder))
    page = write_combined([good, poor], tmp_path / "out/suite.html").read_text(encoding="utf-8")
    assert 'href="../runs/a%20b/report.html"' in page
    assert "1 of 2 runs are VALID" in page
    assert 'class="verdict INVALID"' in page
    assert "<script" not in page
    assert "exact match" in page


def test_a_run_without_a_report_cannot_be_combined(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [Sample(0, "q")], [answer(0, "a")])
    with pytest.raises(ConfigError, match=r"has no report\.json; run: suite\.py report"):
        write_combined([folder], tmp_path / "suite.html")
    with pytest.raises(ConfigError, match="at least one run folder"):
        write_combined([], tmp_path / "suite.html")
