"""LPIPS: the distance of two images in the features of a trained network. Lower is closer, 0 for equal videos.

Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, 2018: version 0.1 with AlexNet, mean over the
frames, at their own size. Two files are needed, and neither is downloaded here: the linear weights from the package `lpips` (its code is
not imported, nor the torchvision that it needs), and torchvision's AlexNet in torch's cache. Frames must have at least 31 pixels a side
for AlexNet's features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metrics.similarity.video import Video

if TYPE_CHECKING:
    import torch

BACKBONE = "alexnet-owt-7be5be79.pth"  # torchvision's AlexNet_Weights.IMAGENET1K_V1; named by its SHA-256, as torch.hub does
HOW = (
    "pip install --no-deps lpips, and on a machine with a network: "
    f"python -c \"import torch; torch.hub.load_state_dict_from_url('https://download.pytorch.org/models/{BACKBONE}', check_hash=True)\""
)
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of red, green, blue in -1..1 (lpips.ScalingLayer)
CHANNELS = (3, 64, 192, 384, 256, 256)
CONVS = ((0, 11, 4, 2), (3, 5, 1, 2), (6, 3, 1, 1), (8, 3, 1, 1), (10, 3, 1, 1))  # name in the file, kernel, stride, padding
POOLED = (1, 2)  # layers before which the image is halved
MIN_SIDE = 31
FRAMES = 16  # at a time


class Lpips:
    """The distance of two videos. backbone, linear: the state dicts of torchvision's AlexNet and of lpips' alex.pth."""

    def __init__(self, backbone: Mapping[str, Any], linear: Mapping[str, Any]) -> None:
        import torch

        found = torch.accelerator.current_accelerator(check_available=True)
        self.device = str(found or "cpu")
        self._convs = [[backbone[f"features.{at}.{of}"].to(self.device).float() for of in ("weight", "bias")] for at, *_ in CONVS]
        self._linear = [linear[f"lin{at}.model.1.weight"].to(self.device).float() for at in range(len(CONVS))]

    def __call__(self, one_THWC: Video, two_THWC: Video) -> float:
        """Raises ValueError for frames that are too small."""
        import torch

        if min(one_THWC.shape[1:3]) < MIN_SIDE:
            raise ValueError(f"frames of {one_THWC.shape[1]} x {one_THWC.shape[2]} are smaller than {MIN_SIDE} pixels")
        total = 0.0
        with torch.inference_mode():
            for at in range(0, len(one_THWC), FRAMES):
                sides = [self._features(video[at : at + FRAMES]) for video in (one_THWC, two_THWC)]
                for one_TCHW, two_TCHW, linear in zip(*sides, self._linear, strict=True):
                    distance = torch.nn.functional.conv2d((one_TCHW - two_TCHW) ** 2, linear)
                    total += float(distance.mean(dim=(1, 2, 3)).sum())
        return total / len(one_THWC)

    def _features(self, video_THWC: Video) -> list[torch.Tensor]:
        """Activations after each rectified convolution, scaled to length 1 over the channels."""
        import torch
        from torch.nn import functional

        values = torch.from_numpy(video_THWC).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        shift, scale = (torch.tensor(of, device=self.device).view(1, 3, 1, 1) for of in (SHIFT, SCALE))
        values = (values - shift) / scale
        found = []
        for at, ((_, _, stride, padding), (weight, bias)) in enumerate(zip(CONVS, self._convs, strict=True)):
            if at in POOLED:
                values = functional.max_pool2d(values, kernel_size=3, stride=2)
            values = functional.relu(functional.conv2d(values, weight, bias, stride=stride, padding=padding))
            found.append(values / (values.norm(dim=1, keepdim=True) + 1e-10))
        return found


def load_lpips() -> tuple[Lpips | None, str]:
    """LPIPS, or None with the reason and what to install."""
    spec = find_spec("lpips")
    linear = Path(spec.origin).parent / "weights/v0.1/alex.pth" if spec and spec.origin else None
    if linear is None or not linear.exists():
        return None, f"its weights are not installed; {HOW}"
    import torch

    backbone = Path(torch.hub.get_dir()) / "checkpoints" / BACKBONE
    if not backbone.exists():
        return None, f"{backbone} does not exist; {HOW}"
    if not hashlib.sha256(backbone.read_bytes()).hexdigest().startswith(Path(BACKBONE).stem.split("-")[-1]):
        return None, f"{backbone} is not torchvision's AlexNet: its SHA-256 differs; delete it, and {HOW}"
    return Lpips(*(torch.load(file, map_location="cpu", weights_only=True) for file in (backbone, linear))), ""
