"""Environment variables of devices: which clash, and which system.json keeps."""

from __future__ import annotations

import pytest

from configs.errors import ConfigError
from pipelines.devices.environment import check_visible_devices, settings
from tests.pipelines.devices.conftest import See


@pytest.mark.parametrize(
    "variables",
    [
        {"ROCR_VISIBLE_DEVICES": "4,5"},
        {"HIP_VISIBLE_DEVICES": "4,5"},
        {"ROCR_VISIBLE_DEVICES": "4,5", "HIP_VISIBLE_DEVICES": "0,1"},  # all that is left
        {"ROCR_VISIBLE_DEVICES": "0,1,2,3", "HIP_VISIBLE_DEVICES": "2, 3"},  # the same, counted either way
        {"ROCR_VISIBLE_DEVICES": "GPU-4b2c1a9f8d3e6f7a", "CUDA_VISIBLE_DEVICES": "0"},
        {"ROCR_VISIBLE_DEVICES": "4,5", "HIP_VISIBLE_DEVICES": ""},  # none: a run on the CPU
    ],
)
def test_visible_devices_that_are_unambiguous_are_accepted(variables: dict[str, str], sees: See) -> None:
    sees(hip="7.2.4")
    check_visible_devices(variables)


@pytest.mark.parametrize(
    ("hip", "meant"),
    [("4,5", "names devices that are not among the 2 left"), ("1", "is GPU 5 of the host"), ("1,0", "is GPU 5,4 of the host")],
)
def test_visible_devices_that_clash_are_refused_with_the_fix(hip: str, meant: str, sees: See) -> None:
    sees(hip="7.2.4")
    for name in ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        with pytest.raises(ConfigError, match=f"ROCR_VISIBLE_DEVICES=4,5 and {name}={hip} clash") as found:
            check_visible_devices({"ROCR_VISIBLE_DEVICES": "4,5", name: hip})
        assert meant in str(found.value)
        assert f"Unset {name}, or unset ROCR_VISIBLE_DEVICES" in str(found.value)
    sees(hip=None)  # CUDA's PyTorch reads neither of AMD's
    check_visible_devices({"ROCR_VISIBLE_DEVICES": "4,5", "HIP_VISIBLE_DEVICES": hip})


def test_system_json_keeps_a_fixed_list_of_variables_and_names_no_file() -> None:
    variables = {
        "VLLM_ROCM_USE_AITER": "1",
        "NCCL_ALGO": "Ring",
        "NCCL_COMM_ID": "node7:4000",
        "HF_TOKEN": "hf_secret",
        "PYTORCH_TUNABLEOP_FILENAME": "/home/jane/tuned.csv",
    }
    assert settings(variables) == {"VLLM_ROCM_USE_AITER": "1", "NCCL_ALGO": "Ring", "PYTORCH_TUNABLEOP_FILENAME": "set"}
