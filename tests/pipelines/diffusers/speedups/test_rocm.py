"""Libraries of AMD GPUs: refused elsewhere, set before weights are read, and read back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.diffusers.speedups.rocm import FIND, TRITON, Rocm
from tests.pipelines.diffusers.speedups.conftest import EMBEDDED, load, refusal


def test_libraries_of_amd_gpus_are_refused_elsewhere(tiny_wan: Path) -> None:
    assert "option 'rocm' requires an AMD GPU; this device is a CPU" in refusal(lambda: load(tiny_wan, rocm={"tunable_op": True}))


@pytest.mark.parametrize(
    ("given", "message"), [({"tunableop": True}, "did you mean 'tunable_op'"), ({"miopen_find": "slow"}, "miopen_find")]
)
def test_a_library_that_does_not_exist_is_refused_by_name(tiny_wan: Path, given: dict[str, Any], message: str) -> None:
    assert message in refusal(lambda: load(tiny_wan, rocm=given))


def test_libraries_are_set_before_weights_are_read_and_read_back(tiny_wan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = load(tiny_wan)
    state: dict[str, Any] = {"tunable": False, "blas": "_BlasBackend.Cublas"}
    monkeypatch.setattr(torch.version, "hip", "7.0")
    monkeypatch.setattr(torch.cuda.tunable, "enable", lambda on: state.update(tunable=on))
    monkeypatch.setattr(torch.cuda.tunable, "is_enabled", lambda: state["tunable"])

    def preferred(name: str | None = None) -> str:
        state["blas"] = {"hipblaslt": "_BlasBackend.Cublaslt", None: state["blas"]}[name]
        return str(state["blas"])

    monkeypatch.setattr(torch.backends.cuda, "preferred_blas_library", preferred)
    for name in (FIND, TRITON):
        monkeypatch.setenv(name, "not set")
    pipeline.rocm = {"tunable_op": True, "hipblaslt": True, "miopen_find": "fast", "triton_flash": True}
    option, target = Rocm(pipeline), type("Target", (), {"device": torch.device("cuda")})()
    assert len(option.fallbacks(pipeline._loaded)) == 4
    option.check(target)
    assert option.effective(pipeline._loaded) == "tunable_op true, hipblaslt true, miopen_find fast, triton_flash true"
    assert (option.fallbacks(pipeline._loaded), os.environ[FIND], os.environ[TRITON]) == ([], "FAST", "TRUE")
    state["tunable"] = False
    assert option.fallbacks(pipeline._loaded) == ["option rocm: tunable_op is false, not true"]


@pytest.mark.gpu
@pytest.mark.feature("diffusers_t2v", "rocm: TunableOp, hipBLASLt, MIOpen's find mode")
def test_libraries_are_in_force_on_an_amd_gpu() -> None:
    if not torch.version.hip:
        pytest.skip("this PyTorch is not for ROCm")
    pipeline = load("embedded", torch.device("cuda"), **EMBEDDED, rocm={"tunable_op": True, "hipblaslt": True, "miopen_find": "fast"})
    assert pipeline.effective()["rocm"] == "tunable_op true, hipblaslt true, miopen_find fast"
    torch.cuda.tunable.enable(False)
