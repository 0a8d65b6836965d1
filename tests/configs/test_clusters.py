"""The cluster examples ask for as many machines, ranks and GPUs as they start, by files that are there."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.conftest import ROOT


def test_the_kubernetes_job_starts_a_rank_for_every_gpu_that_it_asks_for() -> None:
    parts = list(yaml.safe_load_all((ROOT / "examples/kubernetes/job.yaml").read_text(encoding="utf-8")))
    service, job = ({p["kind"]: p for p in parts}[kind] for kind in ("Service", "Job"))
    spec: dict[str, Any] = job["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    given = dict(re.findall(r"--(\w+) (\S+)", container["args"][0]))
    assert (ROOT / given["config_file"]).is_file()
    assert int(given["num_machines"]) == spec["completions"] == spec["parallelism"]
    assert int(given["num_processes"]) == spec["completions"] * container["resources"]["limits"]["amd.com/gpu"]
    assert given["machine_rank"] == '"$JOB_COMPLETION_INDEX"'
    assert spec["completionMode"] == "Indexed"
    # What rank 0 is called: by the Job's name and index, under the service, which finds the pods by their label.
    assert given["main_process_ip"] == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == spec["template"]["metadata"]["labels"]
    output = given["output"]
    assert any(output.startswith(mount["mountPath"]) for mount in container["volumeMounts"])


def test_every_dockerfile_keeps_the_torch_of_its_base_image() -> None:
    for name, version in (("rocm", "hip"), ("cuda", "cuda")):
        text = (ROOT / f"docker/{name}.Dockerfile").read_text(encoding="utf-8")
        assert re.search(r"^ARG BASE=\S+:\S+$", text, re.MULTILINE)
        assert "latest" not in text
        assert f"assert torch.version.{version}" in text
        assert text.index("grep -v '^torch=='") < text.index("pip install --constraint /tmp/constraints.txt")
