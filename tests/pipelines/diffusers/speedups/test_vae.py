"""A VAE's decoding: several latent frames at once, with channels last, compiled, and split over ranks."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.diffusers.speedups import vae as options
from pipelines.diffusers.split_decode import merge, strips
from pipelines.diffusers.t2v import DiffusersT2V
from pipelines.diffusers.wan_decoder import WanDecoder, chunk_size, frames_at_once
from tests.pipelines.diffusers.conftest import Folder
from tests.pipelines.diffusers.conftest import load as load_family
from tests.pipelines.diffusers.conftest import options as family_options
from tests.pipelines.diffusers.speedups.conftest import EMBEDDED, generate, load, refusal

CLOSE = 1e-5  # of frames from -1 to 1, in float32: sums in another order


@pytest.fixture(scope="module")
def family(tiny_family: Folder) -> dict[str, DiffusersT2V]:
    """Wan 2.1's VAE, and that of Wan 2.2 5B, which has residual blocks and patches."""
    return {name: load_family(tiny_family(name), family_options(name)) for name in ("wan21", "wan22_5b")}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", ["wan21", "wan22_5b"])
def test_several_latent_frames_at_once_give_the_librarys_frames(family: dict[str, DiffusersT2V], name: str, last: bool) -> None:
    vae = family[name]._pipe.vae
    z = torch.randn((2, vae.config.z_dim, 5, 4, 6), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = vae.decode(z).sample
        options.lay_out(vae, last)
        for most, size in ((1, 1), (3, 2), (9, 4)):
            decoder, chunks = WanDecoder(vae, most, compiled=False), list[int]()
            hook = vae.decoder.mid_block.attentions[0].register_forward_hook(lambda _m, x, _o, c=chunks: c.append(x[0].shape[2]))
            frames = vae.decode(z).sample
            decoder.restore()
            hook.remove()
            assert chunks == [1, *[size] * (4 // size)]
            assert (frames - expected).abs().max() < CLOSE
        first_alone = vae.decode(z[:, :, :1]).sample
        decoder = WanDecoder(vae, 4, compiled=False)
        assert (vae.decode(z[:, :, :1]).sample - first_alone).abs().max() < CLOSE
        decoder.restore()
    options.lay_out(vae, False)


def test_chunks_have_one_shape_and_fit_into_memory(family: dict[str, DiffusersT2V]) -> None:
    assert [chunk_size(*case) for case in ((20, 4), (20, 7), (7, 4), (0, 4), (8, 100))] == [4, 5, 1, 1, 8]
    vae = family["wan21"]._pipe.vae
    half, whole = (frames_at_once(vae, 1, 480, 832, memory) for memory in (10**9, 2 * 10**9))
    assert whole // half == 2
    assert frames_at_once(vae, 100, 720, 1280, 10**9) == 1


@pytest.mark.feature("diffusers_t2v", "VAE: several latent frames at once, channels last")
def test_chunks_and_channels_last_are_effective_and_give_the_same_clip(tiny_wan: Path, plain: Any) -> None:
    pipeline = load(tiny_wan, vae_decode="chunks", vae_channels_last=True)
    assert pipeline.fallbacks() == ["option vae_decode: no clip was decoded that way"]
    assert np.abs(generate(pipeline, 2) - plain).max() <= 1
    assert pipeline.fallbacks() == []
    effective = pipeline.effective()
    assert effective["vae_decode"].startswith("chunks, up to ")
    assert effective["vae_layout"].startswith("channels last in ")
    options.lay_out(pipeline._pipe.vae, False)
    assert "convolutions are not" in pipeline.fallbacks()[0]


@pytest.mark.slow  # compiles for half a minute
@pytest.mark.feature("diffusers_t2v", "VAE: compiled between the convolutions")
def test_a_compiled_decode_gives_the_same_clip(tiny_wan: Path, plain: Any) -> None:
    pipeline = load(tiny_wan, vae_decode="compiled")
    assert np.abs(generate(pipeline, 2) - plain).max() <= 1
    assert pipeline.effective()["vae_decode"].startswith("compiled, up to ")


def test_a_gpu_gets_both_unless_a_small_clip_differs(tiny_wan: Path, plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "chooses", lambda _: True)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "triton" else real(name, *rest))
    pipeline = load(tiny_wan)
    assert np.abs(generate(pipeline, 2) - plain).max() <= 1
    effective = pipeline.effective()
    assert (effective["vae_decode"][:6], effective["vae_decode_choice"][:6]) == ("chunks", "chunks")
    assert effective["vae_layout_choice"].startswith("channels last; a small clip differs by ")
    monkeypatch.setattr(WanDecoder, "_before", lambda self, layer, x, past: x.new_ones((*x.shape[:2], past, *x.shape[3:])))
    broken = load(tiny_wan)
    assert broken.effective()["vae_decode_choice"].startswith("library: with 'chunks' a small clip differs by ")
    assert "vae_decode" not in broken.effective()
    assert np.abs(generate(broken, 2) - plain).max() <= 1
    assert "does not decode as diffusers does" in refusal(lambda: load(tiny_wan, vae_decode="chunks"))


def test_the_cpu_keeps_the_librarys_decode(tiny_wan: Path) -> None:
    pipeline = load(tiny_wan)
    assert not [name for name in pipeline.effective() if name.startswith("vae_")]
    assert "_decode" not in vars(pipeline._pipe.vae)


def test_where_several_frames_at_once_are_not_possible_the_option_is_refused(tiny_wan: Path, tiny_family: Folder) -> None:
    assert "'vae_tiling' is on. Leave it out" in refusal(lambda: load(tiny_wan, vae_decode="chunks", vae_tiling=True))
    ltx = family_options("ltx", vae_decode="chunks")
    assert "AutoencoderKLLTXVideo, not an AutoencoderKLWan" in refusal(lambda: load_family(tiny_family("ltx"), ltx))


@pytest.mark.gpu
@pytest.mark.feature("diffusers_t2v", "VAE: compiled between the convolutions")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_a_gpu_the_chosen_decode_gives_nearly_the_librarys_clip(dtype: str) -> None:
    chosen = load("embedded", torch.device("cuda"), **EMBEDDED, dtype=dtype, attention="native")
    plain = load(
        "embedded", torch.device("cuda"), **EMBEDDED, dtype=dtype, attention="native", vae_decode="library", vae_channels_last=False
    )
    assert {"vae_decode_choice", "vae_layout_choice"} <= chosen.effective().keys()
    assert np.abs(generate(chosen) - generate(plain)).mean() < 2
    assert chosen.fallbacks() == []


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
