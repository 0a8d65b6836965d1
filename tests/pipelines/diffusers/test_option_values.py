"""The value that an option has for a family: given, or a default of the call, the pipeline or the checkpoint."""

from __future__ import annotations

from types import SimpleNamespace

from pipelines.diffusers.families import VideoFamily


class Sized:
    """A pipeline whose sizes are in its denoiser's configuration, in latents of 8 x 8 pixels."""

    vae_scale_factor_spatial = 8
    transformer = SimpleNamespace(config=SimpleNamespace(sample_height=4, sample_width=6, sample_frames=13))

    def __call__(
        self, prompt: str, height: int | None = None, width: int | None = None, num_frames: int | None = None, guidance_scale: float = 5.0
    ) -> None: ...


class SizedByDefault(Sized):
    default_height = 40


def test_an_options_value_is_the_one_given_or_the_calls_default_or_the_checkpoints() -> None:
    names = ("height", "width", "num_frames", "guidance_scale", "prompt", "max_sequence_length")
    family = VideoFamily(Sized(), "sized", {}, {})
    assert [family.value(name) for name in names] == [32, 48, 13, 5.0, None, None]
    family = VideoFamily(SizedByDefault(), "sized", {"width": 64, "num_frames": 9, "guidance_scale": 1.0}, {})
    assert [family.value(name) for name in names] == [40, 64, 9, 1.0, None, None]
