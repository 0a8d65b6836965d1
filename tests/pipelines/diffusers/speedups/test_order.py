"""Every kind of speed-up is listed, and every option of one is an option of the pipeline."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil

import pipelines.diffusers.speedups as folder
from pipelines.diffusers.speedups.base import SpeedUp
from pipelines.diffusers.speedups.order import SPEED_UPS
from pipelines.diffusers.t2v import DiffusersT2V

PARAMETERS = {"vae_overlap": "vae_split"}  # of a speed-up's option: a field of their own
MODEL_AND_CALL = {  # fields that say which model, which clips and in which batches
    *("model", "revision", "weights", "architecture", "shrink", "dtype", "batch_size", "extra", "fps", "first_frame"),
    *("num_frames", "height", "width", "num_inference_steps", "guidance_scale", "guidance_scale_2", "true_cfg_scale"),
    *("negative_prompt", "max_sequence_length"),
}


def test_every_speed_up_in_the_folder_is_in_the_order_once() -> None:
    found = []
    for entry in pkgutil.iter_modules(folder.__path__):
        module = importlib.import_module(f"{folder.__name__}.{entry.name}")
        classes = inspect.getmembers(module, inspect.isclass)
        found += [cls for _, cls in classes if cls.__module__ == module.__name__ and issubclass(cls, SpeedUp) and cls is not SpeedUp]
    assert sorted(cls.__name__ for cls in SPEED_UPS) == sorted(cls.__name__ for cls in found)


def test_every_option_of_a_speed_up_is_a_field_of_the_pipeline_and_no_field_is_without_one() -> None:
    options = {cls.option for cls in SPEED_UPS}
    assert len(options) == len(SPEED_UPS)
    fields = {field.name for field in dataclasses.fields(DiffusersT2V) if field.init}
    assert options - {"parallel"} == fields - MODEL_AND_CALL - set(PARAMETERS)  # `parallel` is a part of RunConfig
    assert set(PARAMETERS.values()) <= options


def test_entries_of_speed_ups_have_names_of_their_own() -> None:
    entries = [cls.entry for cls in SPEED_UPS]
    assert len(set(entries)) == len(entries)
    assert not {"pipeline", "dtype", "experts"} & set(entries)
