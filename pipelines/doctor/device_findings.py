"""What is wrong with devices, hosts and their software."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from pipelines.doctor.examination import Examination, Finding, grouped, most_common
from pipelines.doctor.phrases import below, listed, name_of, plural, who

SLOW_GPU, SLOW_CPU = 0.9, 0.5  # what is under this share of the median of its like is named
PER_RANK = ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")  # may well differ between ranks


def broken_devices(examination: Examination) -> list[Finding]:
    """Devices on which the matrix product failed."""
    return [
        Finding("error", f"{name_of(r)} failed a matrix product: {r.error}; reset the device or leave it out", [r.rank])
        for r in examination.ranks
        if r.error
    ]


def slow_devices(examination: Examination) -> list[Finding]:
    """Devices slower than the median of the same model in the same dtype."""
    found = []
    for like in grouped(examination.ranks, lambda r: (r.device_name, r.dtype)):
        speeds = [r.tflops for r in like if r.tflops is not None]
        for r in like:
            share = SLOW_GPU if r.on_gpu else SLOW_CPU
            if r.tflops is not None and r.tflops < share * median(speeds):
                text = (
                    f"{name_of(r)} is slow: {r.tflops:.4g} TFLOP/s in {r.dtype}, {below(r.tflops, median(speeds))} the median of "
                    f"{len(speeds)} x {r.device_name} ({median(speeds):.4g}; named from {1 - share:.0%} below); "
                    "look at its clock, temperature, power limit and other processes, or leave it out"
                )
                found.append(Finding(examination.slow_level, text, [r.rank]))
    return found


def missing_devices(examination: Examination) -> list[Finding]:
    """GPUs that no rank uses, that the process may not see, or that one host has fewer of; two ranks on one GPU."""
    found = []
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
            found.append(Finding("warning" if alone else "error", text, numbers))
        for shared in (bus for bus, count in used.items() if count > 1):
            sharing = [r for r in ranks if (r.pci_bus or r.device) == shared]
            text = f"{listed(map(name_of, sharing))} share one GPU; launch no more ranks than GPUs, each with its own device"
            found.append(Finding("error", text, [r.rank for r in sharing]))
        seen = max(visible, len(used))  # a launcher may show each rank one GPU of its own
        if present and used and seen < present:
            text = (
                f"host {host}: {seen} of its {present} GPUs are visible; "
                "look at ROCR_VISIBLE_DEVICES, HIP_VISIBLE_DEVICES, CUDA_VISIBLE_DEVICES and at the container's devices"
            )
            found.append(Finding("warning", text, numbers))
        if present is not None and present < usual:
            text = f"host {host} has {present} GPUs where most have {usual}: one is gone from its bus; look at its kernel log (dmesg)"
            found.append(Finding("error", text, numbers))
    return found


def unequal_hosts(examination: Examination) -> list[Finding]:
    """Hosts with another number of ranks than most."""
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


def processor_fallback(examination: Examination) -> list[Finding]:
    """Ranks on a processor whose host has GPUs."""
    ranks = [r for r in examination.ranks if not r.on_gpu and (r.num_visible_gpus or r.num_host_gpus)]
    if not ranks:
        return []
    build = "this PyTorch is a CPU build: install the ROCm or CUDA wheel"
    gpu_build = "look at HIP_VISIBLE_DEVICES and ROCR_VISIBLE_DEVICES, at ACCELERATE_USE_CPU and at the rights to /dev/kfd"
    fix = gpu_build if ranks[0].versions.get("hip") or ranks[0].versions.get("cuda") else build
    named = who(examination, [r.rank for r in ranks])
    text = f"{named} is on the processor though its host has GPUs; {fix}"
    return [Finding("error", text, [r.rank for r in ranks])]


def unequal_software(examination: Examination) -> list[Finding]:
    """Ranks whose versions (an error), device models or variables (warnings) are not those of most."""
    ranks = examination.ranks
    found = []
    for key in dict.fromkeys(key for r in ranks for key in r.versions):
        found += _odd(examination, f"{key} version", [r.versions.get(key) for r in ranks], "error", "install the same everywhere")
    models = [r.device_name for r in ranks]
    found += _odd(examination, "device model", models, "warning", "figures are compared within one model only")
    for key in dict.fromkeys(key for r in ranks for key in r.environment if key not in PER_RANK):
        found += _odd(examination, key, [r.environment.get(key) for r in ranks], "warning", "set it alike on every host")
    return found


def unsuitable_settings(examination: Examination) -> list[Finding]:
    """Settings that are known to slow down GPUs or to mislead."""
    found = []
    hosts = [host for host, ranks in examination.hosts().items() if any(r.on_gpu and r.numa_balancing for r in ranks)]
    if hosts:
        # rocm.docs.amd.com, how-to/rocm-for-ai/inference/pytorch-inference-benchmark: the GPU may hang until balancing is done
        text = f"{plural('host', len(hosts))} {listed(hosts)}: automatic NUMA balancing is on; echo 0 > /proc/sys/kernel/numa_balancing"
        found.append(Finding("warning", text))
    ranks = [r.rank for r in examination.ranks if r.on_gpu and r.environment.get("HSA_OVERRIDE_GFX_VERSION")]
    if ranks:
        text = f"{who(examination, ranks)}: HSA_OVERRIDE_GFX_VERSION makes the GPU pass for another; unset it on a supported one"
        found.append(Finding("warning", text, ranks))
    return found


def _usual(counts: Iterable[int]) -> int:
    """What most have; the largest where as many have another."""
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
        Finding(level, f"{what} of {who(examination, ranks)} is {found or 'unset'} where most have {usual or 'none'}; {fix}", ranks)
        for found, ranks in odd.items()
    ]
