"""Peak figures of devices, from configs/devices.yaml, and the bits of a weight in each precision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from configs.errors import ConfigError, unknown
from configs.load_config import CONFIGS, read_yaml
from configs.registry import explain

SHIPPED = CONFIGS / "devices.yaml"
USABLE = 0.95  # the rest: runtime, collectives, fragmentation; AMD's MLPerf v6.1 runs set vLLM to 0.96


class Device(BaseModel):
    """One device. GB are 10^9 bytes, GiB 2^30; devices.yaml defines each figure."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    memory_gib: float = Field(gt=0)
    memory_gb_s: float = Field(gt=0)
    link_gb_s: float = Field(gt=0)
    host_gb_s: float = Field(gt=0)
    tflops: dict[str, float]

    @property
    def usable_bytes(self) -> int:
        return int(self.memory_gib * 2**30 * USABLE)

    def computes_in(self, precision: str) -> str:
        """The format in which products of such weights are computed: their own, or bf16 where the device has no unit for it."""
        unit = PRECISIONS[precision].unit
        return unit if unit in self.tflops else "bf16"

    def flops_per_s(self, precision: str) -> float:
        return self.tflops[self.computes_in(precision)] * 1e12


class Precision(NamedTuple):
    """bits: of a weight, with its share of the block's scale. unit: the one whose peak applies to its products."""

    bits: float
    unit: str


PRECISIONS = {
    "fp32": Precision(32, "fp32"),
    "bf16": Precision(16, "bf16"),
    "fp16": Precision(16, "bf16"),
    "fp8": Precision(8, "fp8"),
    "mxfp4": Precision(4.25, "fp4"),  # 8 bits of scale for 32 weights: OCP Microscaling Formats 1.0
    "nvfp4": Precision(4.5, "fp4"),  # 8 bits of scale for 16 weights
}


def read_devices(file: Path | None = None) -> Mapping[str, Device]:
    """The suite's devices, overridden by those of the user's file. Raises ConfigError naming the wrong device and figure."""
    devices: dict[str, Device] = {}
    if file is not None and not file.is_file():
        raise ConfigError(
            f"--devices-file {str(file)!r} does not exist; it is YAML in the form of {SHIPPED.relative_to(SHIPPED.parents[1])}"
        )
    for path in (SHIPPED, file):
        for name, values in read_yaml(path).items() if path else ():
            try:
                devices[str(name)] = Device.model_validate(values)
            except ValidationError as error:
                raise ConfigError(f"{path}: device {name!r}: {explain(error)}") from None
            if "bf16" not in devices[str(name)].tflops:
                raise ConfigError(f"{path}: device {name!r}: tflops lacks bf16, the fallback for other formats")
    return devices


def find_device(name: str, file: Path | None = None) -> Device:
    devices = read_devices(file)
    if name not in devices:
        raise ConfigError(
            unknown("device", name, devices) + "; describe another in a file: --devices-file FILE (form: configs/devices.yaml)"
        )
    return devices[name]


def check_precision(name: str) -> str:
    if name not in PRECISIONS:
        raise ConfigError(unknown("precision", name, PRECISIONS))
    return name
