"""benchmarks/gpu.sh: its parts with tiny shapes on a CPU, parts that fail, and the arithmetic."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu import mfu
from benchmarks.gpu.__main__ import conclusion, default_output, main, select
from benchmarks.gpu.conduct import Entry, Proof, conduct
from benchmarks.gpu.part import PARTS, Part
from benchmarks.gpu.parts import caches, quality, wan
from benchmarks.gpu.parts.engines import OPTIONS
from benchmarks.gpu.parts.gpu_tests import read_outcomes
from configs.errors import ConfigError
from tests.conftest import ROOT, suite_env

HERE = "tests.benchmarks.parts"
PATIENCE_S = 300  # for processes that start on a crowded machine; no test waits for it to pass
SCRIPT = """
import sys
from pathlib import Path
from benchmarks.gpu.conduct import Proof, conduct
from benchmarks.gpu.part import Part
if __name__ == "__main__":
    proof = Proof(600, False, Path(sys.argv[1]), {"torch_device": "cpu", "name": "none"})
    names = ("keeps", "hangs", "lacks")
    conduct(proof, [Part(n, f"tests.benchmarks.parts.{n}", "one", 500, 1) for n in names], (), Path(sys.argv[1]).parent)
    sys.exit(130 if proof.interrupted else 0)
"""


def a_proof(folder: Path, budget_s: float = 2 * PATIENCE_S) -> Proof:
    return Proof(budget_s, False, folder / "proof.json", {"torch_device": "cpu", "name": "a device"})


def read(file: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return document


def rehearse(folder: Path, *options: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The last line and the document of gpu.sh --shrink, which must run all its parts."""
    command = [str(ROOT / "benchmarks/gpu.sh"), "--shrink", "--output", str(folder / "out/proof.json"), *options]
    done = subprocess.run(command, cwd=folder, env=suite_env() | {"PYTHON": sys.executable}, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1]), read(folder / "out/proof.json")


def test_the_script_writes_a_document_and_ends_with_one_line(tmp_path: Path) -> None:
    line, document = rehearse(tmp_path, "--only", "ceilings")
    assert (line["name"], line["value"], line["goal"], line["holds"], line["shrunk"]) == ("gpu", 1, 1, True, True)
    assert (document["schema"], document["shrunk"], list(document["parts"])) == ("triptych-gpu/1", True, ["ceilings"])
    assert document["device"]["name"] == line["device"]
    assert document["parts"]["ceilings"]["figures"]["products"]["fp32"]["tflops"] > 0


@pytest.mark.slow
def test_the_rehearsal_runs_every_part(tmp_path: Path) -> None:
    line, document = rehearse(tmp_path)
    parts = [part.name for part in PARTS]
    assert (line["value"], line["goal"], list(document["parts"])) == (len(parts), len(parts), parts)
    figures = {name: part["figures"] for name, part in document["parts"].items()}
    assert figures["tests"]["failed"] == []
    ceiling = figures["ceilings"]["products"]["fp32"]["tflops"]
    assert figures["wan"]["ceiling_tflops"] == figures["llama"]["ceilings"]["tflops"] == ceiling
    for stage in figures["wan"]["stages"].values():
        assert stage["mfu"] == pytest.approx(stage["flops"] / stage["seconds"] / 1e12 / ceiling)
    for how in ("decode", "decode_graph"):
        assert 0 < figures["llama"][how]["batch 1"]["bandwidth_use"] < 1
    engines = figures["engines"]["engines"]
    assert {name for name, row in engines.items() if row["ran"] and row["tokens"] == 24} >= {"static", "continuous", *OPTIONS}
    assert {name for name, row in figures["caches"]["caches"].items() if row["ran"] and row["fallbacks"] == []} == {"none", *caches.MILD}
    assert figures["quantisation"]["kinds"]["none"]["speed_up"] == 1
    assert "No GPU found" in (why := figures["quantisation"]["kinds"]["bitsandbytes 8 bit"]["why"]) or "pip install" in why
    backends = figures["attention"]["backends"]
    assert (backends["_native_flash"]["attention"], backends["_native_flash"]["mean_pixel_difference"]) == ("_native_flash", 0)
    assert "No viable backend" in backends["_native_cudnn"]["why"]
    chosen = figures["attention"]["chosen"]
    assert all(row["ran"] and row["fallbacks"] == [] for row in chosen.values())
    ways = figures["wan"]["decoding"]
    assert [way for way, row in ways.items() if row["ran"] and row["difference"] < 1e-4] == list(ways)[:4]
    assert "--only wan" in ways["compiled, channels last"]["why"]
    assert "--only compiled" in figures["compiled"]["denoiser"]["compiled"]["why"]
    assert line["panels"] == {"llm/toy": "VALID"}
    (cached,) = figures["quality"]["beside"].values()
    assert cached["world_score_difference"] == cached["world_score"][1] - cached["world_score"][0]
    assert "work skipped" in cached["cache"]


def test_a_part_that_fails_in_any_way_is_reported_and_the_others_run(tmp_path: Path) -> None:
    names = ("keeps", "breaks", "keeps again", "dies", "lacks", "keeps at last", "hangs")
    parts = [Part(n, f"{HERE}.{n.split()[0]}", "one", 1.5 if n == "hangs" else PATIENCE_S, 1) for n in names]
    proof = a_proof(tmp_path)
    conduct(proof, parts, (), tmp_path)
    entries = read(tmp_path / "proof.json")["parts"]
    assert [name for name in names if entries[name]["ran"]] == ["keeps", "keeps again", "keeps at last"]
    assert entries["breaks"]["why"] == "RuntimeError: an illegal memory access was encountered"
    assert entries["dies"]["why"] == "its process ended by SIGKILL"
    assert entries["lacks"]["why"] == "flux is not installed: pip install flux"
    assert entries["hangs"]["why"].startswith("cut off after ")
    assert [entries[name]["figures"]["first"] for name in ("breaks", "dies")] == [1, 1]
    processes = [entries[name]["figures"]["process"] for name in ("keeps", "keeps again", "keeps at last")]
    assert len(set(processes)) == 3  # a part that broke or died took its process with it
    assert _is_gone(entries["hangs"]["figures"]["started"])
    assert not conclusion(proof, parts)["holds"]


def test_parts_of_one_process_share_it_and_see_the_ceilings(tmp_path: Path) -> None:
    parts = [Part(name, f"{HERE}.keeps", process, PATIENCE_S, 1) for name, process in (("ceilings", "a"), ("second", "a"), ("third", "b"))]
    proof = a_proof(tmp_path)
    conduct(proof, parts, (), tmp_path)
    first, second, third = (proof.parts[part.name].figures for part in parts)
    assert first["process"] == second["process"] != third["process"]
    assert first["ceilings"] == {}
    assert second["ceilings"] == {"process": first["process"], "ceilings": {}}
    assert conclusion(proof, parts)["holds"]


def test_a_part_by_itself_keeps_the_others_of_the_file(tmp_path: Path) -> None:
    def once(name: str, device: str = "a device") -> dict[str, Any]:
        proof = a_proof(tmp_path)
        proof.device["name"] = device
        proof.keep_earlier()
        conduct(proof, [Part(name, f"{HERE}.keeps", "one", PATIENCE_S, 1)], (), tmp_path)
        return dict(read(tmp_path / "proof.json")["parts"])

    first = once("ceilings")["ceilings"]
    both = once("llama")
    assert list(both) == ["ceilings", "llama"]
    assert both["ceilings"] == first
    assert list(once("llama", "another device")) == ["llama"]
    (tmp_path / "proof.json").write_text("[", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"proof.json is damaged .*; remove it, or give another --output"):
        once("llama")


def test_parts_that_do_not_fit_the_budget_are_left_out_or_cut_off(tmp_path: Path) -> None:
    proof = a_proof(tmp_path)
    large = Part("large", f"{HERE}.keeps", "one", PATIENCE_S, 10 * PATIENCE_S)
    conduct(proof, [Part("small", f"{HERE}.keeps", "one", PATIENCE_S, 1), large], (), tmp_path)
    assert proof.parts["small"].ran
    assert re.fullmatch(r"\d+ s are left of the budget of 600 s, and it needs 3000 s", proof.parts["large"].why or "")
    assert not proof.parts["large"].figures
    proof.budget_s = time.monotonic() - proof.start + 1.0
    conduct(proof, [Part("hangs", f"{HERE}.hangs", "one", PATIENCE_S, 0)], (), tmp_path)
    assert (proof.parts["hangs"].why or "").startswith("cut off after ")
    assert proof.parts["hangs"].seconds < 0.5 * PATIENCE_S


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    file = tmp_path / "proof.json"
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, str(tmp_path / "script.py"), str(file)], env=env, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not (file.is_file() and "started" in file.read_text(encoding="utf-8")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
    finally:
        process.kill()
    document = read(file)
    assert document["interrupted"] is True
    assert [(p["ran"], p["why"]) for p in document["parts"].values()] == [(True, None), (False, "interrupted"), (False, "not reached")]
    assert _is_gone(document["parts"]["hangs"]["figures"]["started"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.sh", "--output", str(tmp_path / "proof.json")])
    assert main() == 1
    assert "PyTorch finds no GPU. Use --shrink to try the parts out on a CPU" in capfd.readouterr().err
    assert not (tmp_path / "proof.json").exists()


def test_parts_are_selected_by_name_and_run_in_their_own_order() -> None:
    assert [part.name for part in select(("llama", "ceilings"))] == ["ceilings", "llama"]
    assert select(()) == list(PARTS)
    with pytest.raises(ConfigError, match=r"--only: unknown part 'lama' \(did you mean 'llama'\?\); known: attention"):
        select(("lama",))


def test_a_result_is_named_after_the_device_and_a_rehearsal_is_no_result() -> None:
    proof = Proof(480, False, device={"name": "AMD Instinct MI300X (gfx942)"})
    assert default_output(proof) == ROOT / "benchmarks/results/gpu-amd-instinct-mi300x-gfx942.json"
    proof.shrink = True
    assert default_output(proof).parent == ROOT / "outputs"


def test_the_parts_fit_the_budget_and_have_names_of_their_own() -> None:
    assert sum(part.needs_s for part in PARTS) < 480
    assert all(part.needs_s < part.limit_s for part in PARTS)
    assert len({part.name for part in PARTS}) == len(PARTS)


def test_mfu_and_bandwidth_use_of_round_numbers() -> None:
    # 2 TFLOP in half a second are 4 TFLOP/s, half of a ceiling of 8; 3 GB in half a second are 6 GB/s, a quarter of 24
    assert mfu.work(2e12, 0.5, 8.0) == {"seconds": 0.5, "flops": 2e12, "tflops": 4.0, "mfu": 0.5}
    assert mfu.traffic(3e9, 0.5, 24.0) == {"bytes": 3e9, "gb_s": 6.0, "bandwidth_use": 0.25}
    assert mfu.work(2e12, 0.5, None)["mfu"] is None
    ceilings = {"products": {"bf16": {"tflops": 8.0}, "fp8": {"ran": False, "why": "it has none"}}, "memory": {"best_gb_s": 24.0}}
    assert (mfu.product_ceiling(ceilings, "bfloat16"), mfu.product_ceiling(ceilings, "fp8")) == (8.0, None)
    assert (mfu.bandwidth_ceiling(ceilings), mfu.bandwidth_ceiling({}), mfu.product_ceiling({}, "bfloat16")) == (24.0, None, None)
    assert (mfu.percent(0.456), mfu.percent(0.0456), mfu.percent(None)) == ("46%", "4.6%", "-")


@pytest.mark.slow
def test_the_denoisers_flops_equal_those_counted_by_hand_and_by_torch() -> None:
    from diffusers import WanTransformer3DModel

    from pipelines.models.architectures import folder_of
    from pipelines.plan.trace import on_meta

    config = WanTransformer3DModel.load_config(folder_of(wan.ARCHITECTURE) / "transformer")
    sizes = wan.FULL | {"num_frames": 33}
    denoiser = wan.trace_costs(sizes)["denoiser"]
    tokens, text, width, inner, layers = 9 * 30 * 52, 512, 12 * 128, 8960, 30  # latents of 9 x 60 x 104 in patches of 1 x 2 x 2
    by_hand = 2 * layers * (tokens * (6 * width**2 + 2 * width * inner) + text * 2 * width**2)
    assert denoiser.flops == pytest.approx(by_hand, rel=0.002)  # patches, time and text are embedded outside the blocks
    assert denoiser.attention_flops == 4 * layers * width * tokens * (tokens + text)
    with on_meta(), FlopCounterMode(display=False) as counter:
        network = WanTransformer3DModel.from_config(config)
        network(
            hidden_states=torch.empty(1, 16, 9, 60, 104),
            timestep=torch.empty(1, dtype=torch.long),
            encoder_hidden_states=torch.empty(1, text, 4096),
        )
    assert counter.get_total_flops() == pytest.approx(denoiser.flops + denoiser.attention_flops, rel=1e-6)


def test_a_cached_run_is_compared_with_the_plain_one() -> None:
    plain, cached = (
        {"headline": {"videos_per_s": speed}, "quality": {"world_score": {"value": score}}, "effective": {"cache": cache}}
        for speed, score, cache in ((2.0, 1.0, "none"), (3.0, 0.75, "first_block(..)"))
    )
    compared = quality.beside(plain, cached)
    assert compared == {"cache": "first_block(..)", "speed_up": 1.5, "world_score": [1.0, 0.75], "world_score_difference": -0.25}
    assert quality.beside(plain, cached | {"headline": {}})["speed_up"] is None


def test_the_share_of_work_is_read_from_the_effective_setting() -> None:
    assert caches.work_done("mag(threshold=0.06) in 30 modules; 58% of the last batch's work skipped (transformer 58%)") == 0.42


def test_outcomes_are_read_from_pytests_file(tmp_path: Path) -> None:
    file = tmp_path / "outcomes.xml"
    file.write_text(
        '<testsuites><testsuite><testcase name="a"/><testcase name="b"><failure message="no"/></testcase>'
        '<testcase name="c"><skipped message="needs a GPU"/></testcase><testcase name="d"><error message="no"/></testcase>'
        "</testsuite></testsuites>",
        encoding="utf-8",
    )
    assert read_outcomes(file) == {"a": "passed", "b": "failed", "c": "skipped: needs a GPU", "d": "failed"}


def test_a_failed_test_or_an_invalid_panel_does_not_hold() -> None:
    parts = [Part("tests", "benchmarks.gpu.parts.gpu_tests", "a", 1, 1), Part("panels", "benchmarks.gpu.parts.panels", "a", 1, 1)]
    proof = Proof(480, False, Path("x.json"), {"name": "a device"})
    runs = {"t2v/embedded": {"ran": True, "verdict": "VALID"}}
    proof.parts = {"tests": Entry(True, None, figures={"failed": []}), "panels": Entry(True, None, figures={"runs": runs})}
    assert conclusion(proof, parts)["holds"]
    runs["t2v/embedded"]["verdict"] = "INVALID"
    assert not conclusion(proof, parts)["holds"]
    runs["t2v/embedded"]["verdict"] = "VALID"
    proof.parts["tests"].figures["failed"] = ["test_the_doctor_passes_it"]
    assert not conclusion(proof, parts)["holds"]


def _is_gone(pid: int) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False
