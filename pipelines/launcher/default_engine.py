"""The engine of a run of `--workload llm` or `vlm` whose command names none: vLLM where it is installed, for a checkpoint on a GPU."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence

from configs.registry import find
from configs.run_config import RunConfig

WORKLOADS = ("llm", "vlm")
ENGINE = "vllm"


def with_default_engine(config: RunConfig, changes: Sequence[str]) -> RunConfig:
    """The configuration with vLLM as its pipeline where that is the better default, and with the reason for the engine that it has.

    changes: those of `--set`. What they set is kept; a preset's options that vLLM does not have are of another engine and are dropped.
    """
    names = [change.partition("=")[0].strip() for change in changes]
    model = str(config.pipeline_options.get("model", "embedded"))
    if config.workload not in WORKLOADS or {"pipeline", "pipeline.name"} & set(names) or model.startswith("embedded"):
        return config
    known = {field.name for field in dataclasses.fields(find("pipelines", ENGINE)) if field.init}
    if why_not := _why_not([name.removeprefix("pipeline.") for name in names if name.startswith("pipeline.")], known):
        return config.model_copy(update={"engine_because": f"{config.pipeline_name}, the workload's default: {why_not}"})
    kept = {name: value for name, value in config.pipeline_options.items() if name in known}
    because = "vllm is installed, and the default for a checkpoint on a GPU; another: --set pipeline.name=NAME"
    return config.model_copy(update={"pipeline": {"name": ENGINE, **kept}, "engine_because": because})


def _why_not(given: Sequence[str], known: set[str]) -> str | None:
    if importlib.util.find_spec("vllm") is None:
        return "vllm is not installed"
    import torch

    if not torch.cuda.is_available():
        return "there is no GPU for vllm"
    unknown = [name for name in given if name.partition(".")[0] not in known]
    return f"vllm has no option {unknown[0]!r}" if unknown else None
