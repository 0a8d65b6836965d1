"""The speed-ups of `diffusers_t2v`, in the order in which they are applied to a loaded pipeline.

Libraries are chosen first. Weights are changed before Placement, which moves them to the device or leaves them in host memory. Attention is
tried there. A cache puts its hooks around the denoiser's blocks, Parallel and GuidanceBatch around the whole denoiser with its cache.
Compile comes last: it compiles what is there.
"""

from __future__ import annotations

from pipelines.diffusers.speedups.attention import Attention
from pipelines.diffusers.speedups.base import SpeedUp
from pipelines.diffusers.speedups.cache import Cache
from pipelines.diffusers.speedups.compile import Compile
from pipelines.diffusers.speedups.guidance import GuidanceBatch
from pipelines.diffusers.speedups.lora import Lora
from pipelines.diffusers.speedups.offload import Placement
from pipelines.diffusers.speedups.parallel import Parallel
from pipelines.diffusers.speedups.quantisation import Quantisation
from pipelines.diffusers.speedups.rocm import Rocm
from pipelines.diffusers.speedups.scheduler import Scheduler
from pipelines.diffusers.speedups.vae import VaeChannelsLast, VaeDecode, VaeSlicing, VaeSplit, VaeTiling

SPEED_UPS: tuple[type[SpeedUp], ...] = (
    Rocm,
    Scheduler,
    Lora,
    Quantisation,
    Placement,
    Attention,
    VaeTiling,
    VaeSlicing,
    VaeChannelsLast,
    VaeDecode,
    Cache,
    Parallel,
    GuidanceBatch,
    VaeSplit,
    Compile,
)
