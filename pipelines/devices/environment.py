"""Environment variables that change what a device does or how fast it is, and a combination of them that hides the wrong devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from configs.errors import ConfigError


class Variable(NamedTuple):
    name: str
    meaning: str


# Sources: rocm.docs.amd.com (ROCm, HIP, ROCR-Runtime and RCCL environment variables, MI300X workload optimization), docs.pytorch.org
# (CUDA environment variables, torch.cuda.tunable), NCCL user guide (env), pytorch aten/src/ATen/Context.h, vllm/envs.py, AITER's README.
ENVIRONMENT = (
    Variable("ROCR_VISIBLE_DEVICES", "GPUs shown to every ROCm program, by number or UUID; applied before HIP's"),
    Variable("HIP_VISIBLE_DEVICES", "GPUs shown to HIP programs, by number"),
    Variable("CUDA_VISIBLE_DEVICES", "the same for CUDA; HIP reads it too"),
    Variable("GPU_DEVICE_ORDINAL", "GPUs shown to HIP and OpenCL programs"),
    Variable("HSA_OVERRIDE_GFX_VERSION", "makes ROCm take the GPU for another architecture"),
    Variable("HSA_ENABLE_SDMA", "0: copies by kernels, not by the DMA engines"),
    Variable("HSA_ENABLE_PEER_SDMA", "0: copies between GPUs by kernels, not by the DMA engines"),
    Variable("HSA_NO_SCRATCH_RECLAIM", "1: a kernel's scratch memory stays with its queue"),
    Variable("HSA_FORCE_FINE_GRAIN_PCIE", "1: fine-grained memory over PCIe, for transfers between GPUs"),
    Variable("HSA_XNACK", "1: page faults on the GPU are handled by moving the page"),
    Variable("GPU_MAX_HW_QUEUES", "most hardware queues a process gets on a device; AMD advises 2 where RCCL overlaps compute"),
    Variable("HIP_FORCE_DEV_KERNARG", "1: kernel arguments in device memory, which shortens launches"),
    Variable("HIP_LAUNCH_BLOCKING", "1: every launch waits for its end, for debugging"),
    Variable("CUDA_LAUNCH_BLOCKING", "the same for CUDA"),
    Variable("CUDA_DEVICE_MAX_CONNECTIONS", "queues from the host to a device; 1 orders compute and communication"),
    Variable("AMD_SERIALIZE_KERNEL", "waits before and after kernels, for debugging"),
    Variable("PYTORCH_ALLOC_CONF", "PyTorch's memory allocator"),
    Variable("PYTORCH_HIP_ALLOC_CONF", "the same, an older name on ROCm"),
    Variable("PYTORCH_CUDA_ALLOC_CONF", "the same, an older name"),
    Variable("TORCH_BLAS_PREFER_HIPBLASLT", "1: matrix products by hipBLASLt, 0: by rocBLAS; unset: by architecture"),
    Variable("NVIDIA_TF32_OVERRIDE", "0: no TF32 in NVIDIA's libraries, whatever a program requests"),
    Variable("PYTORCH_TUNABLEOP_ENABLED", "1: matrix products by the kernels that were fastest when tried"),
    Variable("PYTORCH_TUNABLEOP_TUNING", "0: use the kernels of earlier runs, try nothing new"),
    Variable("PYTORCH_TUNABLEOP_FILENAME", "the file of those kernels"),
    Variable("MIOPEN_FIND_MODE", "how MIOpen looks for convolution kernels"),
    Variable("DIFFUSERS_ATTN_BACKEND", "diffusers' attention, where no option says otherwise"),
    Variable("FLASH_ATTENTION_TRITON_AMD_ENABLE", "TRUE: FlashAttention by Triton's kernels on ROCm"),
    Variable("VLLM_ROCM_USE_AITER", "1: vLLM by AITER's kernels"),
    Variable("VLLM_ROCM_USE_AITER_MHA", "0: attention not by AITER's kernels"),
    Variable("VLLM_ROCM_USE_AITER_MLA", "0: latent attention not by AITER's kernels"),
    Variable("VLLM_ROCM_USE_AITER_MOE", "0: experts not by AITER's kernels"),
    Variable("VLLM_ROCM_USE_AITER_LINEAR", "0: linear layers not by AITER's kernels"),
    Variable("VLLM_ROCM_USE_AITER_UNIFIED_ATTENTION", "1: attention by AITER's Triton kernels"),
    Variable("VLLM_ROCM_QUICK_REDUCE_QUANTIZATION", "how quick reduce sends its numbers: FP, INT8, INT6, INT4 or NONE"),
    Variable("VLLM_ROCM_QUICK_REDUCE_CAST_BF16_TO_FP16", "1: quick reduce turns bfloat16 into float16"),
    Variable("VLLM_USE_TRITON_FLASH_ATTN", "0: attention not by Triton's kernels"),
    Variable("TORCH_NCCL_HIGH_PRIORITY", "1: collectives on high-priority streams"),
    Variable("GLOO_SOCKET_IFNAME", "network interface of gloo, which carries control messages"),
    Variable("OMP_NUM_THREADS", "CPU threads a rank; accelerate launch sets 1 where it is unset"),
    Variable("ACCELERATE_USE_CPU", "true: ranks stay on the CPU"),
)

# Of the many that NCCL and RCCL read, those that change how data travels.
COLLECTIVES = (
    *("NCCL_ALGO", "NCCL_PROTO", "NCCL_MIN_NCHANNELS", "NCCL_MAX_NCHANNELS", "NCCL_NCHANNELS_PER_PEER", "NCCL_BUFFSIZE", "NCCL_NTHREADS"),
    *("NCCL_P2P_DISABLE", "NCCL_P2P_LEVEL", "NCCL_SHM_DISABLE", "NCCL_NVLS_ENABLE", "NCCL_CUMEM_ENABLE", "NCCL_SOCKET_IFNAME"),
    *("NCCL_NET", "NCCL_IB_DISABLE", "NCCL_IB_HCA", "NCCL_IB_GID_INDEX", "NCCL_IB_QPS_PER_CONNECTION", "NCCL_NET_GDR_LEVEL"),
    *("NCCL_CROSS_NIC", "NCCL_DEBUG", "RCCL_MSCCL_ENABLE", "RCCL_MSCCLPP_ENABLE", "RCCL_MSCCLPP_THRESHOLD"),
)
NAMES_A_FILE = ("PYTORCH_TUNABLEOP_FILENAME",)  # which may name its owner


def settings(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of a fixed list that are set, for system.json. No other variable is read, and no file is named."""
    known = dict.fromkeys((*(v.name for v in ENVIRONMENT), *COLLECTIVES))
    return {name: "set" if name in NAMES_A_FILE else variables[name] for name in known if name in variables}


def check_visible_devices(variables: Mapping[str, str]) -> None:
    """Refuse ROCR_VISIBLE_DEVICES and HIP_VISIBLE_DEVICES (or CUDA_VISIBLE_DEVICES, which HIP reads in its place) that clash.

    ROCR's list is applied first and numbers what is left from 0; HIP's chooses among these. Where HIP's numbers mean the same devices
    counted either way, or all that ROCR shows, they are unambiguous. Source: PyTorch, torch/cuda/__init__.py, and ROCm's page
    "GPU isolation techniques". Raises ConfigError.
    """
    name = "HIP_VISIBLE_DEVICES" if "HIP_VISIBLE_DEVICES" in variables else "CUDA_VISIBLE_DEVICES"
    if "ROCR_VISIBLE_DEVICES" not in variables or not variables.get(name, "").strip():
        return
    import torch

    if not torch.version.hip:
        return
    shown, chosen = ([item.strip() for item in variables[n].split(",")] for n in ("ROCR_VISIBLE_DEVICES", name))
    if chosen == [str(i) for i in range(len(shown))]:
        return
    places = [int(item) for item in chosen if item.isdigit()]
    left = [shown[i] for i in places if i < len(shown)]
    if len(left) == len(chosen) and left == chosen:
        return
    lost = f"names devices that are not among the {len(shown)} left"
    meant = f"is GPU {','.join(left)} of the host" if len(left) == len(chosen) else lost
    raise ConfigError(
        f"ROCR_VISIBLE_DEVICES={variables['ROCR_VISIBLE_DEVICES']} and {name}={variables[name]} clash: ROCm applies the first, numbers "
        f"what is left from 0, and then {name} {meant}. Unset {name}, or unset ROCR_VISIBLE_DEVICES and count {name} over the whole host."
    )
