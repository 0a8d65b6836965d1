"""A VAE's decoding split over ranks."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from pipelines.diffusers.speedups.vae import merge, strips
from tests.pipelines.diffusers.speedups.conftest import load, refusal


def test_splitting_the_vae_on_one_rank_is_refused(tiny_wan: Path) -> None:
    assert "option 'vae_split' needs replicas of several ranks" in refusal(lambda: load(tiny_wan, vae_split=True))


@pytest.mark.parametrize(("total", "ranks", "overlap"), [(8, 2, 1), (9, 2, 2), (7, 3, 0), (10, 4, 1), (4, 4, 8)])
def test_strips_cover_a_picture_and_merge_into_it(total: int, ranks: int, overlap: int) -> None:
    starts, size = strips(total, ranks, overlap)
    whole = torch.arange(total, dtype=torch.float32).expand(1, 3, 2, 5, total).contiguous()
    parts = [whole[..., start : start + size] for start in starts]
    assert starts[0] == 0
    assert starts[-1] + size == total
    assert all(later <= sooner + size for sooner, later in itertools.pairwise(starts))
    assert torch.allclose(merge(parts, starts, total, -1), whole)
    upright = [part.transpose(-1, -2) for part in parts]
    assert torch.allclose(merge(upright, starts, total, -2), whole.transpose(-1, -2))


def test_strips_fade_into_each_other() -> None:
    merged = merge([torch.zeros(1, 1, 1, 1, 6), torch.ones(1, 1, 1, 1, 6)], [0, 4], 10, -1)
    assert merged.flatten().tolist() == [0, 0, 0, 0, 0.25, 0.75, 1, 1, 1, 1]
