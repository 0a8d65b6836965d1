"""How close two runs' answers are, compared with values computed in another way; pairs that cannot be compared."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from metrics.base import Run
from metrics.similarity import lpips as lpips_module
from metrics.similarity import vmaf as vmaf_module
from metrics.similarity.lpips import Lpips, load_lpips
from metrics.similarity.pairwise import closeness
from metrics.similarity.text import edit_similarities, token_agreement
from metrics.similarity.video import psnr, ssim
from metrics.similarity.vmaf import enlarged, find_ffmpeg, vmaf
from tests.conftest import record
from workloads.run_folder.media import write_video

Make = Callable[..., Run]


def clip(seed: int = 0, size: int = 24, frames: int = 3) -> NDArray[np.uint8]:
    """A smooth pattern that moves."""
    y, x = np.mgrid[:size, :size]
    waves = [127 + 90 * np.sin((x + 2 * t) / 4 + seed)[..., None] * np.cos(y[..., None] / 5 + np.arange(3)) for t in range(frames)]
    return np.stack(waves).astype(np.uint8)


def noisy(video: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    noise = np.random.default_rng(1).normal(0, sigma, video.shape)
    return np.clip(video + noise, 0, 255).astype(np.uint8)


def test_psnr_of_a_known_error() -> None:
    black = np.zeros((2, 4, 4, 3), np.uint8)
    assert psnr(black, black) == 100.0
    assert psnr(black, black + np.uint8(255)) == 0.0
    assert psnr(black, black + np.uint8(16)) == pytest.approx(20 * np.log10(255 / 16))


def test_ssim_is_wangs_formula_over_every_window_inside_the_frame() -> None:
    one, two = clip(size=16, frames=2), noisy(clip(size=16, frames=2), 20)
    at = np.arange(-5, 6)
    window = np.exp(-(at[:, None] ** 2 + at**2) / (2 * 1.5**2))
    window /= window.sum()
    scores = []
    for frames in zip(one, two, strict=True):
        a, b = (0.299 * f[..., 0] + 0.587 * f[..., 1] + 0.114 * f[..., 2] for f in frames)
        for top in range(6):
            for left in range(6):
                x, y = (f[top : top + 11, left : left + 11] for f in (a, b))
                mx, my = (window * x).sum(), (window * y).sum()
                vx, vy, shared = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum(), (window * (x - mx) * (y - my)).sum()
                alike = (2 * mx * my + 6.5025) * (2 * shared + 58.5225)
                scores.append(alike / ((mx**2 + my**2 + 6.5025) * (vx + vy + 58.5225)))
    assert ssim(one, two) == pytest.approx(np.mean(scores), abs=1e-9)
    assert 0.1 < ssim(one, two) < 0.95


def test_ssim_of_two_flat_greys_is_its_luminance_term() -> None:
    grey = np.full((1, 12, 12, 3), 100, np.uint8)
    assert ssim(grey, grey) == pytest.approx(1.0)
    assert ssim(grey, grey + np.uint8(20)) == pytest.approx((2 * 100 * 120 + 6.5025) / (100**2 + 120**2 + 6.5025))
    with pytest.raises(ValueError, match=r"frames of 8 x 8 are smaller than its window of 11"):
        ssim(grey[:, :8, :8], grey[:, :8, :8])


@pytest.mark.parametrize(
    ("reference", "candidate", "agreed"),
    [
        ("A red ring, moving left.", "A red ring, moving left.", 1.0),
        ("A red ring, moving left.", "A red ring moving left.", 3 / 7),
        ("two  words", "two\nwords", 1.0),
        ("one two", "one two three", 1.0),
        ("one two three four", "one", 0.25),
        ("\u7ea2\u8272\u7684\u5706", "\u7ea2\u8272\u5706", 0.5),
        ("", "", 1.0),
        ("", "words", 0.0),
        ("words", "", 0.0),
    ],
)
def test_texts_agree_up_to_the_first_word_or_sign_that_differs(reference: str, candidate: str, agreed: float) -> None:
    assert token_agreement(reference, candidate) == agreed


def test_edit_similarity_counts_characters_of_the_longer_text() -> None:
    assert edit_similarities(["kitten", "", "same", "abc"], ["sitting", "", "same", ""]) == pytest.approx([1 - 3 / 7, 1.0, 1.0, 0.0])


def test_vmaf_scores_each_pair_enlarges_small_clips_and_names_a_bad_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ffmpeg, why = find_ffmpeg()
    assert ffmpeg, why
    files = []
    for i, video in enumerate((clip(size=16), noisy(clip(size=16), 6), noisy(clip(size=16), 40))):
        files.append(tmp_path / f"it's, [{i}]; 0:v.mkv")
        write_video(files[-1], video, 8)
    broken = tmp_path / "broken.mkv"
    broken.write_bytes(b"no video")
    pairs = {7: (files[0], files[0]), 8: (files[0], files[1]), 9: (files[0], broken), 10: (files[0], files[2])}
    monkeypatch.setattr(vmaf_module, "MIN_SIDE", 48)
    scored = vmaf(ffmpeg, pairs, dict.fromkeys(pairs, (3, 16, 16, 3)))
    assert list(scored.failed) == [9]
    assert "ffmpeg failed with exit code" in scored.failed[9]
    assert scored.values[7] > 90 > scored.values[8] > scored.values[10]
    assert scored.made_with is not None
    assert scored.made_with.endswith("vmaf_v0.6.1, clips enlarged 3 times")
    alone = vmaf(ffmpeg, {8: pairs[8]}, {8: (3, 16, 16, 3)})
    assert alone.values[8] == scored.values[8]
    assert vmaf(ffmpeg, {8: pairs[8]}, {8: (4, 16, 16, 3)}).failed == {8: "libvmaf scored 3 of 4 frames"}


def test_clips_are_enlarged_by_the_smallest_whole_factor_that_is_enough() -> None:
    assert [enlarged((9, side, 2 * side, 3)) for side in (48, 64, 100, 191, 192, 720)] == [4, 3, 2, 2, 1, 1]


def weights() -> tuple[dict[str, Any], dict[str, Any]]:
    """Random, named as torchvision's AlexNet and lpips' alex.pth are."""
    import torch

    generator = torch.Generator().manual_seed(0)
    shapes = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
    backbone = {f"features.{at}.weight": torch.randn(shape, generator=generator) * 0.05 for at, shape in shapes.items()}
    backbone |= {f"features.{at}.bias": torch.randn(shape[0], generator=generator) for at, shape in shapes.items()}
    linear = {f"lin{at}.model.1.weight": torch.rand(1, shape[0], 1, 1, generator=generator) for at, shape in enumerate(shapes.values())}
    return backbone, linear


def test_lpips_is_its_definition_over_alexnets_layers() -> None:
    import torch
    from torch import nn

    backbone, linear = weights()
    order = [nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    order += [nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 256, 3, padding=1)]
    network = nn.Sequential(*order, nn.ReLU())
    network.load_state_dict({name.removeprefix("features."): value for name, value in backbone.items()})
    one, two = clip(size=40, frames=18), noisy(clip(size=40, frames=18), 30)
    expected, sides = 0.0, []
    for video in (one, two):
        values = torch.tensor(video.transpose(0, 3, 1, 2) / 127.5 - 1, dtype=torch.float32)
        values = (values - torch.tensor([-0.030, -0.088, -0.188])[:, None, None]) / torch.tensor([0.458, 0.448, 0.450])[:, None, None]
        layers = []
        with torch.no_grad():
            for module in network:
                values = module(values)
                if isinstance(module, nn.ReLU):
                    layers.append(values / values.pow(2).sum(1, keepdim=True).sqrt())
        sides.append(layers)
    for at, (a, b) in enumerate(zip(*sides, strict=True)):
        expected += float((linear[f"lin{at}.model.1.weight"] * (a - b) ** 2).sum(1).mean())
    lpips = Lpips(backbone, linear)
    assert lpips(one, two) == pytest.approx(expected, rel=1e-4)
    assert lpips(one, one) == 0.0
    with pytest.raises(ValueError, match="frames of 24 x 24 are smaller than 31"):
        lpips(clip(), clip())


def test_lpips_says_how_to_get_its_weights_and_refuses_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    package = tmp_path / "site/lpips"
    (package / "weights/v0.1").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('its code is not needed')")
    backbone, linear = weights()
    torch.save(linear, package / "weights/v0.1/alex.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    found, why = load_lpips()
    assert found is None
    assert f"{tmp_path}/hub/checkpoints/alexnet-owt-7be5be79.pth does not exist; pip install --no-deps lpips" in why
    file = tmp_path / "hub/checkpoints/alexnet-owt-7be5be79.pth"
    file.parent.mkdir(parents=True)
    torch.save(backbone, file)
    found, why = load_lpips()
    assert found is None
    assert "is not torchvision's AlexNet: its SHA-256 differs" in why
    own_name = f"alexnet-owt-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"
    file.rename(file.with_name(own_name))
    monkeypatch.setattr(lpips_module, "BACKBONE", own_name)
    found, why = load_lpips()
    assert why == ""
    assert found is not None
    assert found(clip(size=32), noisy(clip(size=32), 20)) > 0


@pytest.fixture
def two_runs(make_run: Make, tmp_path: Path) -> tuple[Run, Run]:
    """Four pairs: equal, noisy, of other sizes, and one whose candidate's file is missing; and one that the candidate did not answer."""
    videos = [clip(i) for i in range(5)]
    one = make_run(videos)
    others = [videos[0], noisy(videos[1], 10), clip(2, size=16)]
    records = []
    for i, video in enumerate(others):
        write_video(tmp_path / f"other/{i}.mkv", video, 8)
        records.append(record(i, media=f"other/{i}.mkv", digest=one.records[0].digest if i == 0 else f"other {i}"))
    records += [record(3, media="other/gone.mkv", digest="gone"), record(4, status="failed")]
    return one, replace(one, records=records)


def test_pairs_that_cannot_be_compared_are_counted_and_named(two_runs: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vmaf_module, "MIN_SIDE", 24)
    found = closeness(*two_runs)
    assert (found["num_pairs"], found["equal_share"]) == (5, 0.25)
    assert {name: m["n"] for name, m in found["measures"].items() if name != "lpips"} == {"psnr_db": 2, "ssim": 2, "vmaf": 2}
    why = {f["sample_index"]: f["why"] for f in found["failed"]}
    assert list(why) == [2, 3, 4]
    assert why[2] == "the videos' shapes differ: (3, 24, 24, 3) and (3, 16, 16, 3)"
    assert "gone.mkv is missing" in why[3]
    assert why[4] == "the candidate gave no answer"
    pairs = {p["sample_index"]: p for p in found["pairs"]}
    assert (pairs[0]["psnr_db"], pairs[0]["equal"], pairs[1]["equal"]) == (100.0, True, False)
    assert found["measures"]["psnr_db"]["median"] == pytest.approx((100.0 + pairs[1]["psnr_db"]) / 2)
    assert "psnr_db" not in pairs[3]


def test_without_an_ffmpeg_the_audit_says_what_to_install(two_runs: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    find_ffmpeg.cache_clear()
    try:
        found = closeness(*two_runs)
    finally:
        find_ffmpeg.cache_clear()
    assert found["not_made"]["vmaf"].startswith("no ffmpeg was found; pip install imageio-ffmpeg")
    assert "vmaf" not in found["measures"]
    assert found["measures"]["ssim"]["n"] == 2


def test_texts_have_the_share_that_begins_with_the_same_token(make_text_run: Make) -> None:
    texts = [("red ring", "red ring"), ("red ring", "red disc"), ("", "")]
    one, two = (
        make_text_run([record(i, text=t[side], digest=t[side], first_token_id=5 + side * (i == 1)) for i, t in enumerate(texts)])
        for side in (0, 1)
    )
    found = closeness(one, two)
    assert found["equal_share"] == pytest.approx(2 / 3)
    assert found["first_token"] == {"equal_share": pytest.approx(2 / 3), "n": 3}
    assert found["measures"]["token_agreement"]["p10"] == pytest.approx(0.6)
    assert found["pairs"][1]["edit_similarity"] == pytest.approx(1 - 3 / 8)
    assert found["failed"] == []
