"""The device layer against what torch, amdsmi and NVML return on machines that this one is not.

The structures are those of amdsmi 7.0.2 (amdsmi_interface.py) and nvidia-ml-py 13.615 (pynvml.py); the values are of an MI300X and an H100.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from configs.errors import ConfigError
from pipelines.devices.accelerators import ARCHITECTURES, FEATURES, accelerators, can, require
from pipelines.diffusers.speedups.quantisation import formats_needed
from tests.pipelines.devices.conftest import See

GPU = torch.device("cuda", 0)
MI300X = SimpleNamespace(
    name="AMD Instinct MI300X",
    gcnArchName="gfx942:sramecc+:xnack-",
    total_memory=192 * 2**30,
    pci_domain_id=0,
    pci_bus_id=0xC1,
    pci_device_id=0,
)
H100 = SimpleNamespace(
    name="NVIDIA H100 80GB HBM3", major=9, minor=0, total_memory=80 * 2**30, pci_domain_id=0, pci_bus_id=0x19, pci_device_id=0
)


def test_an_instinct_gpu_is_known_by_torch_and_amdsmi_together(sees: See, monkeypatch: pytest.MonkeyPatch) -> None:
    sees(MI300X, hip="7.2.4")
    buses = {"h0": "0000:05:00.0", "h1": "0000:c1:00.1", "h2": "0000:c1:00.0"}
    amdsmi = SimpleNamespace(
        amdsmi_init=lambda: None,
        amdsmi_get_processor_handles=lambda: list(buses),
        amdsmi_get_gpu_device_bdf=buses.__getitem__,
        amdsmi_get_gpu_asic_info=lambda handle: {"market_name": "AMD Instinct MI300X", "target_graphics_version": "gfx942"},
        amdsmi_get_gpu_driver_info=lambda handle: {"driver_name": "amdgpu", "driver_version": "6.16.6", "driver_date": "N/A"},
        amdsmi_get_power_cap_info=lambda handle: {"power_cap": 750000000 if handle == "h2" else 0, "default_power_cap": 750000000},
        amdsmi_get_gpu_compute_partition=lambda handle: "CPX",
    )
    monkeypatch.setitem(sys.modules, "amdsmi", amdsmi)
    (found,) = accelerators()
    assert found == {
        "name": "AMD Instinct MI300X",
        "architecture": "gfx942",
        "memory_bytes": 192 * 2**30,
        "pci_bus": "0000:c1:00",
        "told_by": "amdsmi",
        "hardware": "gfx942",
        "driver": "amdgpu 6.16.6",
        "partition": "CPX",
        "power_limit_w": 750.0,
    }


def test_an_nvidia_gpu_is_known_by_torch_and_nvml_together(sees: See, monkeypatch: pytest.MonkeyPatch) -> None:
    sees(H100)
    pynvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByPciBusId=lambda bus: {"0000:19:00.0": "handle"}[bus],
        nvmlDeviceGetCudaComputeCapability=lambda handle: [9, 0],
        nvmlSystemGetDriverVersion=lambda: "580.82.07",
        nvmlDeviceGetEnforcedPowerLimit=lambda handle: 700000,
    )
    monkeypatch.setitem(sys.modules, "pynvml", pynvml)
    (found,) = accelerators()
    assert (found["told_by"], found["hardware"], found["architecture"]) == ("nvml", "sm_90", "sm_90")
    assert (found["driver"], found["power_limit_w"]) == ("nvidia 580.82.07", 700.0)


def test_without_the_vendors_library_torch_alone_is_believed(sees: See) -> None:
    sees(MI300X, MI300X, hip="7.2.4")
    assert [(a["told_by"], a["architecture"], a["hardware"]) for a in accelerators()] == [("torch", "gfx942", None)] * 2
    sees()
    assert accelerators() == []


def test_what_an_architecture_lacks_is_refused_with_those_that_have_it(sees: See) -> None:
    sees(MI300X, hip="7.2.4")
    with pytest.raises(ConfigError, match=r"quantisation 'x' needs matrix products of MXFP4, which gfx942 \(MI300A, MI300X, MI325X\)") as e:
        require("quantisation 'x'", GPU, "mxfp4")
    assert "it has fp8_fnuz" in str(e.value)
    assert "gfx950 (MI350X, MI355X)" in str(e.value)
    with pytest.raises(ConfigError, match="float8_e4m3fn,"):
        require("x", GPU, "fp8_ocp")
    require("x", GPU, "fp8_fnuz")
    require("x", GPU, "aiter")
    sees(SimpleNamespace(**{**vars(MI300X), "gcnArchName": "gfx950:sramecc+:xnack-"}), hip="7.2.4")
    for feature in ("mxfp4", "mxfp6", "mxfp8", "fp8_ocp"):
        require("x", GPU, feature)
    with pytest.raises(ConfigError, match="fnuz"):
        require("x", GPU, "fp8_fnuz")


def test_no_vendor_has_the_others_formats(sees: See) -> None:
    assert not any("nvfp4" in a.can for n, a in ARCHITECTURES.items() if n.startswith("gfx"))
    assert not any({"fp8_fnuz", "aiter"} & a.can for n, a in ARCHITECTURES.items() if n.startswith("sm_"))
    assert all(a.can <= set(FEATURES) for a in ARCHITECTURES.values())
    sees(SimpleNamespace(**{**vars(MI300X), "gcnArchName": "gfx9999"}), hip="9")
    assert can(GPU, "nvfp4")  # an architecture that is not in the table is taken to have everything
    assert not can(torch.device("cpu"), "aiter")


@pytest.mark.parametrize(
    ("name", "dtypes", "needed"),
    [
        ("Float8DynamicActivationFloat8WeightConfig", {"activation_dtype": torch.float8_e4m3fn}, ["fp8_ocp"]),
        ("Float8DynamicActivationFloat8WeightConfig", {"activation_dtype": torch.float8_e4m3fnuz}, ["fp8_fnuz"]),
        ("Float8DynamicActivationInt4WeightConfig", {}, ["fp8_ocp"]),
        ("Float8WeightOnlyConfig", {"weight_dtype": torch.float8_e4m3fn}, []),
        ("Int8DynamicActivationInt8WeightConfig", {}, []),
        ("MXDynamicActivationMXWeightConfig", {"activation_dtype": torch.float4_e2m1fn_x2}, ["mxfp4"]),
        ("MXDynamicActivationMXWeightConfig", {"activation_dtype": torch.float8_e4m3fn}, ["mxfp8"]),
        ("NVFP4DynamicActivationNVFP4WeightConfig", {}, ["nvfp4"]),
    ],
)
def test_what_a_torchao_config_computes_in_is_read_off_it(name: str, dtypes: dict[str, torch.dtype], needed: list[str]) -> None:
    config = type(name, (), {})()
    vars(config).update(dtypes)
    assert formats_needed(config) == needed
