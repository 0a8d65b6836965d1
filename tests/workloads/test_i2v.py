"""Image to video: captions, images, the toy pipeline, and wrong files."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from configs.errors import ConfigError
from metrics.audit.audit import audit
from metrics.base import Run
from metrics.quality.first_frame_psnr import FirstFramePsnr
from metrics.validity.canaries import scan
from pipelines.toy.i2v import ToyI2V
from tests.conftest import QUICK, SuiteRun, last_line, read_report
from workloads.i2v import ImageToVideo
from workloads.readers.image_file import fit_to_frame, read_image
from workloads.records import Query
from workloads.t2v import TextToVideo
from workloads.world.checker import check_clip


def test_each_caption_comes_with_the_first_frame_of_its_scene() -> None:
    samples, more = ImageToVideo(num_prompts=8).samples(), ImageToVideo(num_prompts=12).samples()
    assert [s.prompt for s in samples] == [s.prompt for s in TextToVideo(num_prompts=8).samples()]
    assert [s.images for s in more[:8]] == [s.images for s in samples]
    assert len({s.images for s in samples}) == 8
    for sample in samples:
        image_HWC = read_image(*sample.images)
        assert image_HWC.shape == (48, 48, 3)
        verdict = check_clip(np.repeat(image_HWC[None], 9, axis=0), sample.prompt)
        assert verdict["colour"]
        assert verdict["count"]


def test_the_toy_shifts_the_image_as_the_caption_says() -> None:
    samples = ImageToVideo(num_prompts=8).samples()
    answers = ToyI2V().generate(samples, [Query(i, i, i) for i in range(8)])
    for sample, answer in zip(samples, answers, strict=True):
        assert answer.video_THWC is not None
        assert all(check_clip(answer.video_THWC, sample.prompt).values()), sample.prompt
        assert np.array_equal(answer.video_THWC[0], read_image(*sample.images))


def test_prompts_and_images_of_a_file(tmp_path: Path) -> None:
    write(tmp_path / "a.png", 30, 40)
    lines = ["", json.dumps({"prompt": "it turns", "image": "a.png"})]
    (tmp_path / "p.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (sample,) = ImageToVideo(prompts=str(tmp_path / "p.jsonl")).samples()
    assert (sample.prompt, sample.meta) == ("it turns", {"world": False})
    assert read_image(*sample.images).shape == (30, 40, 3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "x", "image": "gone.png"}', "line 2 of prompt file .*: image 'gone.png' does not exist; paths are relative to"),
        (
            '{"prompt": "x", "image": "bad.png"}',
            "line 2 of .*: image 'bad.png': the file is not an image, or damaged .*; give a PNG or JPEG",
        ),
        ('{"prompt": "x", "image": "cut.png"}', "line 2 of .*: image 'cut.png': the file is not an image, or damaged"),
        ('{"prompt": "x", "image": "."}', r"line 2 of .*: image '\.' cannot be read: Is a directory"),
        ('{"prompt": "x"}', "line 2 of .* has no 'image' path; write lines like"),
        ('{"image": "good.png"}', "line 2 of .* has no 'prompt' text"),
        ('{"prompt": "x", "images": ["good.png"]}', r"line 2 of .* has an unknown field 'images' \(did you mean 'image'\?\)"),
        ("a prompt", "line 2 of .* is not JSON"),
        ("[]", "line 2 of .* is neither a text nor a JSON object with a prompt"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    write(tmp_path / "good.png", 8, 8)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    good = '{"prompt": "x", "image": "good.png"}'
    (tmp_path / "p.jsonl").write_text(f"{good}\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        ImageToVideo(prompts=str(tmp_path / "p.jsonl")).samples()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": "gone.jsonl"}, "prompt file 'gone.jsonl' does not exist; give dataset.prompts lines like"),
        ({"num_prompts": 0}, "workload 'i2v': option 'num_prompts' must be at least 1, got 0"),
    ],
)
def test_unusable_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ImageToVideo(**options).samples()


def test_an_image_is_scaled_to_cover_the_frame_and_cropped_evenly() -> None:
    wide = np.zeros((20, 80, 3), np.uint8)
    wide[:, 30:50] = 200  # the middle quarter
    made = fit_to_frame(wide, 40, 40)
    assert made.shape == (40, 40, 3)
    assert (made[:, 6:-6] == 200).all()
    assert (made > 150).all()  # what is cut off touches the edges alone
    assert fit_to_frame(made, 40, 40) is made
    tall = fit_to_frame(np.full((80, 20, 3), 7, np.uint8), 16, 32)
    assert tall.shape == (16, 32, 3)
    assert (tall == 7).all()


def test_an_image_is_rotated_by_its_exif_orientation() -> None:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright
    Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(out, "JPEG", exif=exif)
    assert read_image(out.getvalue()).shape == (20, 10, 3)


def test_the_toy_runs_from_load_to_report_and_again_from_its_folder(suite: SuiteRun) -> None:
    done = suite("--config", "i2v/toy", *QUICK, "--output", "run")
    assert done.returncode == 0, done.stderr
    report = read_report(done)
    figures = report["figures"]
    assert (report["verdict"], report["workload"]) == ("VALID", "i2v")
    assert (figures["world_score"]["value"], figures["first_frame_psnr"]["value"]) == (1, 100)
    assert figures["first_frame_psnr"]["unit"] == "dB"
    assert {"world_score", "first_frame_psnr"} <= set(last_line(done)["headline"])
    folder = Path(last_line(done)["run"])
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count('alt="given image"') == 8
    assert len(list((folder / "inputs").glob("*.png"))) == 8
    again = suite("report", "run")
    assert again.returncode == 0, again.stderr
    assert json.loads((folder / "report.json").read_text(encoding="utf-8"))["figures"]["first_frame_psnr"]["value"] == 100


@pytest.mark.parametrize(
    ("fault", "triggers", "between"), [("none", False, (100, 100)), ("frozen", True, (100, 100)), ("other_image", False, (0, 10))]
)
def test_frozen_videos_and_other_first_frames_are_detected(
    make_run: Callable[..., Run], fault: Literal["none", "frozen", "other_image"], triggers: bool, between: tuple[float, float]
) -> None:
    samples = [s for s in ImageToVideo(num_prompts=12).samples() if s.meta["expects_motion"]][:4]
    answers = ToyI2V(fault=fault).generate(samples, [Query(i, i, i) for i in range(4)])
    run = make_run([a.video_THWC for a in answers])
    run = dataclasses.replace(run, samples=samples)
    assert bool(scan(run)) == triggers
    scores = [s["first_frame_psnr"] for s in FirstFramePsnr().scores(run).values()]
    assert len(scores) == 4
    assert between[0] <= min(scores) <= max(scores) <= between[1]


@pytest.mark.slow
def test_an_audit_pairs_runs_of_the_same_images_and_refuses_others(suite: SuiteRun, tmp_path: Path) -> None:
    for name, shade in (("one", 90), ("two", 200)):
        (tmp_path / name).mkdir()
        for number in range(2):
            write(tmp_path / name / f"{number}.png", 16 + number, 16, shade)
        lines = [json.dumps({"prompt": f"it moves {number} times", "image": f"{number}.png"}) for number in range(2)]
        (tmp_path / name / "p.jsonl").write_text("\n".join(lines), encoding="utf-8")
    words = ["--config", "i2v/toy", "--mode", "accuracy", "--set", "metrics=[first_frame_psnr]"]
    for output, name in (("r", "one"), ("d", "two")):
        done = suite(*words, "--set", f"dataset.prompts={name}/p.jsonl", "--output", output)
        assert done.returncode == 0, done.stderr
    shutil.copytree(tmp_path / "r", tmp_path / "c")
    assert "first_frame_psnr" in json.dumps(audit(tmp_path / "r", tmp_path / "c"))
    with pytest.raises(ConfigError, match="the runs have different prompts: number 0 is 'it moves 0 times'"):
        audit(tmp_path / "r", tmp_path / "d")


def write(path: Path, height: int, width: int, shade: int = 100) -> None:
    image_HWC = np.full((height, width, 3), shade, np.uint8)
    image_HWC[: height // 2, : width // 2] //= 2
    Image.fromarray(image_HWC).save(path)


def test_a_plan_without_image_to_video_refuses_it(suite: SuiteRun) -> None:
    done = suite("plan", "--preset", "i2v/embedded", "--device", "h100")
    assert done.returncode == 1
    assert "a plan can only count text to video, without images" in " ".join(done.stderr.split())
