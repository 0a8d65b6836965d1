"""What is wrong with devices, hosts and their software."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from pipelines.doctor.examination import Examination, Finding, grouped, most_common
from pipelines.doctor.phrases import below, listed, name_of, plural, who

SLOW_GPU, SLOW_CPU = 0.9, 0.5  # a device under this share of the median of its model is reported
PER_RANK = ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")  # each rank may have its own value


def broken_devices(examination: Examination) -> list[Finding]:
    """Devices on which the matrix product failed."""
    return [
        Finding("error", f"{name_of(r)} failed a matrix product: {r.error}; reset the device or leave it out", [r.rank])
        for r in examination.ranks
        if r.error
    ]


def slow_devices(examination: Examination) -> list[Finding]:
    """Devices slower than the median of the same model in the same dtype."""
    findings = []
    for like in grouped(examination.ranks, lambda r: (r.device_name, r.dtype)):
        speeds = [r.tflops for r in like if r.tflops is not None]
        for r in like:
            share = SLOW_GPU if r.on_gpu else SLOW_CPU
            if r.tflops is not None and r.tflops < share * median(speeds):
                text = (
                    f"{name_of(r)} is slow: {r.tflops:.4g} TFLOP/s in {r.dtype}, {below(r.tflops, median(speeds))} the median of "
                    f"{len(speeds)} x {r.device_name} ({median(speeds):.4g}; reported from {1 - share:.0%} below); "
                    "look at its clock, temperature, power limit and other processes, or leave it out"
                )
                findings.append(Finding(examination.slow_level, text, [r.rank]))
    return findings


def missing_devices(examination: Examination) -> list[Finding]:
    """GPUs that no rank uses, that are not visible, or that one host has fewer of; two ranks on one GPU."""
    findings = []
    alone = examination.num_ranks == 1
    usual = _usual(ranks[0].num_host_gpus or 0 for ranks in examination.hosts().values())
    for host, ranks in examination.hosts().items():
        visible, present = ranks[0].num_visible_gpus, ranks[0].num_host_gpus
        numbers = [r.rank for r in ranks]
        used = Counter(r.pci_bus or r.device for r in ranks if r.on_gpu)
        if used and len(used) < visible:
            idle = sorted(set(range(visible)) - {int(r.device.partition(":")[2] or 0) for r in ranks})
            text = (
                f"host {host} has {len(ranks)} {plural('rank', len(ranks))} for {visible} visible GPUs; without a rank: "
                f"GPU {', '.join(map(str, idle))}; launch one rank for each GPU, "
                "or hide those that are to be left out by HIP_VISIBLE_DEVICES"
            )
            findings.append(Finding("warning" if alone else "error", text, numbers))
        for shared in (bus for bus, count in used.items() if count > 1):
            sharing = [r for r in ranks if (r.pci_bus or r.device) == shared]
            text = f"{listed(map(name_of, sharing))} share one GPU; launch no more ranks than GPUs, each with its own device"
            findings.append(Finding("error", text, [r.rank for r in sharing]))
        seen = max(visible, len(used))  # a launcher may show each rank one GPU of its own
        if present and used and seen < present:
            text = (
                f"host {host}: {seen} of its {present} GPUs are visible; "
                "look at ROCR_VISIBLE_DEVICES, HIP_VISIBLE_DEVICES, CUDA_VISIBLE_DEVICES and at the container's devices"
            )
            findings.append(Finding("warning", text, numbers))
        if present is not None and present < usual:
            text = f"host {host} has {present} GPUs where most have {usual}: one is gone from its bus; look at its kernel log (dmesg)"
            findings.append(Finding("error", text, numbers))
    return findings


def unequal_hosts(examination: Examination) -> list[Finding]:
    """Hosts whose number of ranks differs from that of most."""
    counts = {host: len(ranks) for host, ranks in examination.hosts().items()}
    usual = _usual(counts.values())
    return [
        Finding(
            "error",
            f"host {host} has {count} ranks where most have {usual}; start as many there, or leave out the host",
            [r.rank for r in examination.hosts()[host]],
        )
        for host, count in counts.items()
        if count != usual
    ]


def cpu_fallback(examination: Examination) -> list[Finding]:
    """Ranks on a CPU whose host has GPUs."""
    ranks = [r for r in examination.ranks if not r.on_gpu and (r.num_visible_gpus or r.num_host_gpus)]
    if not ranks:
        return []
    build = "this PyTorch is a CPU build: install the ROCm or CUDA wheel"
    gpu_build = "look at HIP_VISIBLE_DEVICES and ROCR_VISIBLE_DEVICES, at ACCELERATE_USE_CPU and at the rights to /dev/kfd"
    fix = gpu_build if ranks[0].versions.get("hip") or ranks[0].versions.get("cuda") else build
    named = who(examination, [r.rank for r in ranks])
    text = f"{named} runs on the CPU though its host has GPUs; {fix}"
    return [Finding("error", text, [r.rank for r in ranks])]


def unequal_software(examination: Examination) -> list[Finding]:
    """Ranks whose versions (an error), device models or variables (warnings) differ from those of most."""
    ranks = examination.ranks
    findings = []
    for key in dict.fromkeys(key for r in ranks for key in r.versions):
        findings += _odd(examination, f"{key} version", [r.versions.get(key) for r in ranks], "error", "install the same everywhere")
    models = [r.device_name for r in ranks]
    findings += _odd(examination, "device model", models, "warning", "figures are compared within one model only")
    for key in dict.fromkeys(key for r in ranks for key in r.environment if key not in PER_RANK):
        findings += _odd(examination, key, [r.environment.get(key) for r in ranks], "warning", "set it alike on every host")
    return findings


def unsuitable_settings(examination: Examination) -> list[Finding]:
    """Settings that are known to slow down GPUs, or that misreport them."""
    findings = []
    hosts = [host for host, ranks in examination.hosts().items() if any(r.on_gpu and r.numa_balancing for r in ranks)]
    if hosts:
        # rocm.docs.amd.com, how-to/rocm-for-ai/inference/pytorch-inference-benchmark: the GPU may hang until balancing is done
        text = f"{plural('host', len(hosts))} {listed(hosts)}: automatic NUMA balancing is on; echo 0 > /proc/sys/kernel/numa_balancing"
        findings.append(Finding("warning", text))
    ranks = [r.rank for r in examination.ranks if r.on_gpu and r.environment.get("HSA_OVERRIDE_GFX_VERSION")]
    if ranks:
        text = f"{who(examination, ranks)}: HSA_OVERRIDE_GFX_VERSION presents the GPU as another; unset it where the GPU is supported"
        findings.append(Finding("warning", text, ranks))
    return findings


def _usual(counts: Iterable[int]) -> int:
    """The most common count; the largest of equally common ones."""
    tally = Counter(counts)
    return max(tally, key=lambda count: (tally[count], count), default=0)


def _odd(examination: Examination, what: str, values: Sequence[str | None], level: str, fix: str) -> list[Finding]:
    """One finding for each value that is not that of most ranks. values: one a rank."""
    usual = most_common(values)
    odd: dict[str | None, list[int]] = {}
    for r, value in zip(examination.ranks, values, strict=True):
        if value != usual:
            odd.setdefault(value, []).append(r.rank)
    return [
        Finding(level, f"{what} of {who(examination, ranks)} is {value or 'unset'} where most have {usual or 'none'}; {fix}", ranks)
        for value, ranks in odd.items()
    ]
