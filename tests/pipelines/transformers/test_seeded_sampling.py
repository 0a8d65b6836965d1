from __future__ import annotations

import torch

from pipelines.transformers.seeded_sampling import BatchNoise, gumbel_noise, place_seed


def test_argmax_with_noise_samples_the_distribution() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    seeds = torch.tensor([place_seed(99, place) for place in range(20_000)])
    picked = (logits.log_softmax(-1) + gumbel_noise(seeds, 4)).argmax(-1)
    shares = torch.bincount(picked, minlength=4) / len(picked)
    assert torch.allclose(shares, logits.softmax(-1), atol=0.012)


def test_noise_depends_on_seed_and_place_only() -> None:
    scores = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    prompt = torch.zeros(3, 7, dtype=torch.long)
    together = BatchNoise([11, 12, 13], prompt_length=5)(prompt, scores)
    alone = BatchNoise([12], prompt_length=1)(torch.zeros(1, 3, dtype=torch.long), scores[1:2])
    assert torch.equal(together[1], alone[0])
    later = BatchNoise([12], prompt_length=1)(torch.zeros(1, 4, dtype=torch.long), scores[1:2])
    assert not torch.equal(later, alone)
