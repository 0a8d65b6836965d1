"""Facts about hosts and their links, environment variables, and the examination that a run keeps."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from pipelines.devices.environment import ENVIRONMENT
from pipelines.doctor.examination import (
    Examination,
    Link,
    newest_fitting,
    without_names,
    write_examination,
)
from pipelines.doctor.facts import environment, num_host_gpus
from pipelines.doctor.findings import findings
from pipelines.doctor.topology import parse_amd_smi, parse_nvidia_smi, parse_rocm_smi
from pipelines.launcher.provenance import write_system
from tests.pipelines.doctor.clusters import cluster, with_rank


def test_the_vendors_programs_are_understood() -> None:
    amd = [
        {"gpu": 0, "links": [{"gpu": 0, "link_type": "SELF"}, {"gpu": 1, "link_type": "XGMI", "num_hops": 1}]},
        {"gpu": 1, "links": [{"gpu": 0, "link_type": "XGMI", "num_hops": 1}, {"gpu": 1, "link_type": "SELF"}]},
    ]
    assert parse_amd_smi(json.dumps(amd)) == [Link((0, 1), "XGMI", 1)]
    rocm = {
        "(Topology) Weight between DRM devices 0 and 1": "15",
        "(Topology) Hops between DRM devices 0 and 1": "1",
        "(Topology) Link type between DRM devices 0 and 1": "XGMI",
    }
    assert parse_rocm_smi(json.dumps({"card0": {"(Topology) Numa Node": "0"}, "system": rocm})) == [Link((0, 1), "XGMI", 1)]
    nvidia = "\tGPU0\tGPU1\tNIC0\tCPU Affinity\nGPU0\t X \tNV18\tPIX\t0-7\nGPU1\tNV18\t X \tSYS\t0-7\nNIC0\tPIX\tSYS\t X \n\nLegend:\n"
    assert parse_nvidia_smi(nvidia) == [Link((0, 1), "NV18")]
    assert parse_nvidia_smi("\tGPU0\tCPU Affinity\nGPU0\t X \t0-7\n") == []
    assert parse_nvidia_smi("\tGPU0\tGPU1\nGPU0\n X\nGPU1\tNV18\t X\nGPU0\tX\n") == []


def test_gpus_are_counted_by_the_kernels_drivers(tmp_path: Path) -> None:
    assert num_host_gpus(tmp_path, tmp_path) is None
    for number, units in enumerate((0, 304, 304)):
        node = tmp_path / f"class/kfd/kfd/topology/nodes/{number}"
        node.mkdir(parents=True)
        (node / "properties").write_text(f"cpu_cores_count 0\nsimd_count {units}\n", encoding="utf-8")
    assert num_host_gpus(tmp_path, tmp_path) == 2


def test_only_variables_that_matter_are_kept_and_each_has_a_meaning() -> None:
    variables = {"HOME": "/x", "NCCL_IB_HCA": "mlx5", "NCCL_HOSTID": "secret", "RCCL_MSCCL_ENABLE": "0", "HIP_VISIBLE_DEVICES": "0"}
    assert environment(variables) == {"HIP_VISIBLE_DEVICES": "0", "NCCL_IB_HCA": "mlx5", "RCCL_MSCCL_ENABLE": "0"}
    assert all(variable.meaning for variable in ENVIRONMENT)
    assert len({variable.name for variable in ENVIRONMENT}) == len(ENVIRONMENT)


def test_a_runs_system_file_holds_the_newest_fitting_examination_without_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    run = tmp_path / "outputs/run"
    run.mkdir(parents=True)
    write_system(run)
    assert json.loads((run / "system.json").read_text(encoding="utf-8"))["doctor"] is None
    here = with_rank(cluster(1, 2), 1, tflops=100.0, environment={"NCCL_TOPO_FILE": "/home/me/topo.xml"})
    here = replace(here, ranks=[replace(r, host=socket.gethostname()) for r in here.ranks])
    for name, time, made in (
        ("doctor.json", "2026-01-02", here),
        ("doctor_old.json", "2026-01-01", here),
        ("doctor_elsewhere.json", "2026-01-03", cluster(1, 2)),
        ("doctor_more.json", "2026-01-04", cluster(1, 3)),
    ):
        write_examination(tmp_path / "outputs" / name, replace(made, time=time), findings(made))
    (tmp_path / "outputs/doctor_cut.json").write_text('{"schema": "trip', encoding="utf-8")
    write_system(run)
    text = (run / "system.json").read_text(encoding="utf-8")
    doctor = json.loads(text)["doctor"]
    assert doctor["time"] == "2026-01-02"
    assert "rank 1 (cuda:1 at 0000:10:00.0 on host 0) is slow" in doctor["findings"][0]["text"]
    assert [r["host"] for r in doctor["ranks"]] == ["host 0", "host 0"]
    assert "/home/me" not in text
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert newest_fitting([tmp_path / "outputs"]) is None


def test_an_examination_is_read_as_it_was_written(tmp_path: Path) -> None:
    whole = without_names(cluster(2, 2, silent={1: "start"}))
    write_examination(tmp_path / "doctor.json", whole, findings(whole))
    assert msgspec.json.decode((tmp_path / "doctor.json").read_bytes(), type=Examination) == whole
