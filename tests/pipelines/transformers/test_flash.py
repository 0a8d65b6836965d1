"""Flash attention without the package flash-attn: its functions, its paged decoding, and which one a model gets."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers.generation.continuous_batching import continuous_api, initialization

from pipelines.models.embedded import LANGUAGE
from pipelines.transformers.flash import choose, functions
from pipelines.transformers.llm import TransformersLLM
from pipelines.transformers.seeded_sampling import place_of
from tests.conftest import suite_env
from workloads.llm import Language
from workloads.records import Query

CPU, ROOT = torch.device("cpu"), Path(__file__).parents[3]
SHAPES = [(4, 2, 24, 8, 20), (6, 6, 16, 4, 60), (8, 1, 64, 16, 3)]  # heads, key heads, width of a head, tokens a page, pages a request
Paged = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def paged(batch: int, heads: int, key_heads: int, width: int, page: int, pages: int) -> Paged:
    """q, key pages, value pages, k, v, lengths and block table; the first request is new, the last row is padding."""
    generator = torch.Generator().manual_seed(batch)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    table = torch.randperm(batch * pages + 2, generator=generator)[: batch * pages].reshape(batch, pages).to(torch.int32)
    lengths = torch.randint(0, page * pages - 1, (batch,), generator=generator).to(torch.int32)
    lengths[0], lengths[-1] = 0, -1
    caches = draw(batch * pages + 2, page, key_heads, width), draw(batch * pages + 2, page, key_heads, width)
    return draw(batch, 1, heads, width), *caches, draw(batch, 1, key_heads, width), draw(batch, 1, key_heads, width), lengths, table


def expected(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float | None = None) -> torch.Tensor:
    """One request's query against all its keys; q: (1, H, D), keys: (N, K, D)."""
    q, keys, values = (x.transpose(0, 1)[None] for x in (q, keys, values))
    return F.scaled_dot_product_attention(q, keys, values, enable_gqa=True, scale=scale)[0].transpose(0, 1)


@pytest.mark.parametrize(("heads", "key_heads", "width", "page", "pages"), SHAPES)
def test_paged_decoding_attends_to_every_key_and_keeps_the_new_one(heads: int, key_heads: int, width: int, page: int, pages: int) -> None:
    q, k_cache, v_cache, k, v, lengths, table = paged(4, heads, key_heads, width, page, pages)
    before = k_cache.clone(), v_cache.clone()
    out = functions.flash_attn_with_kvcache(q, k_cache, v_cache, k, v, lengths, table, softmax_scale=0.3)
    for b, length in enumerate(lengths.tolist()):
        if length < 0:
            assert not out[b].any()
            continue
        own = table[b].long()
        keys, values = (torch.cat([old[own].flatten(0, 1)[:length], new[b]]) for old, new in zip(before, (k, v), strict=True))
        torch.testing.assert_close(out[b], expected(q[b], keys, values, 0.3), rtol=1e-4, atol=1e-5)
        assert torch.equal(k_cache[own].flatten(0, 1)[: length + 1], keys)
        assert torch.equal(v_cache[own].flatten(0, 1)[: length + 1], values)


@pytest.mark.feature("transformers_llm", "paged decoding in Triton, interpreted")
def test_paged_decoding_in_triton_does_the_same() -> None:
    """In a process of its own: Triton reads whether to interpret kernels where it is imported."""
    pytest.importorskip("triton")
    env = suite_env() | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "tests.pipelines.transformers.test_flash"], env=env, cwd=ROOT, check=True, timeout=120)


def compare_kernels() -> None:
    from pipelines.transformers.flash import paged_decode

    for shape in SHAPES:
        for dtype in (torch.float32, torch.float16):  # the interpreter cannot multiply matrices of bfloat16
            arguments = [x if x.dtype == torch.int32 else x.to(dtype) for x in paged(4, *shape)]
            others = [x.clone() for x in arguments]
            out = paged_decode.flash_attn_with_kvcache(*arguments)  # type: ignore[arg-type]
            wanted = functions.flash_attn_with_kvcache(*others)  # type: ignore[arg-type]
            torch.testing.assert_close(out, wanted, rtol=2e-3, atol=2e-3)
            assert torch.equal(arguments[1], others[1])
            assert torch.equal(arguments[2], others[2])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_paged_decoding_on_a_gpu_does_the_same(dtype: torch.dtype) -> None:
    for shape in [*SHAPES, (32, 8, 128, 256, 9)]:
        arguments = [x if x.dtype == torch.int32 else x.to(dtype) for x in paged(4, *shape)]
        wanted = functions.flash_attn_with_kvcache(*[x.float() if x.is_floating_point() else x for x in arguments])  # type: ignore[arg-type]
        out = functions.flash_attn_with_kvcache(*[x.to("cuda") for x in arguments])  # type: ignore[arg-type]
        torch.testing.assert_close(out.float().cpu(), wanted, rtol=2e-2, atol=2e-2)


@pytest.mark.gpu
def test_requests_side_by_side_on_a_gpu_do_not_see_each_other() -> None:
    q, k, v = (torch.randn(n, heads, 64) for n, heads in ((6, 4), (9, 2), (9, 2)))
    ends_q, ends_k = torch.tensor([0, 3, 6], dtype=torch.int32), torch.tensor([0, 3, 9], dtype=torch.int32)
    wanted = functions.flash_attn_varlen_func(q, k, v, ends_q, ends_k, 3, 6, causal=True)
    q, k, v = (x.to("cuda", torch.float16) for x in (q, k, v))
    out = functions.flash_attn_varlen_func(q, k, v, ends_q.cuda(), ends_k.cuda(), 3, 6, causal=True)
    torch.testing.assert_close(out.float().cpu(), wanted, rtol=2e-2, atol=2e-2)


@pytest.mark.gpu
@pytest.mark.feature("transformers_llm", "a GPU, decoding from CUDA graphs")
@pytest.mark.parametrize("batching", ["continuous", "static"])
@pytest.mark.parametrize("do_sample", [False, True])
def test_answers_from_graphs_on_a_gpu_are_those_without(batching: str, do_sample: bool) -> None:
    def on_gpu(**options: Any) -> tuple[dict[str, str], list[str | None]]:
        pipeline = TransformersLLM(max_new_tokens=48, batch_size=4, batching=batching, do_sample=do_sample, **options)  # type: ignore[arg-type]
        pipeline.load(torch.device("cuda:0"))
        samples = list(Language(num_prompts=12).samples())
        try:
            responses = pipeline.generate(samples, [Query(i, i, i) for i in range(len(samples))])
            return dict(pipeline.effective()), [r.text for r in responses]
        finally:
            pipeline.close()

    effective, texts = on_gpu()
    plain, expected_texts = on_gpu(use_cuda_graph=False, use_async_batching=False)
    assert (effective["cuda_graphs"], plain["cuda_graphs"].split(":")[0]) == ("decoding", "none")
    if batching == "continuous":
        assert "flash" in effective["attention"]
        assert effective["async_batching"] == "on"
    assert sum(a == b for a, b in zip(texts, expected_texts, strict=True)) >= len(texts) - 2  # bfloat16 sums in another order


def test_keys_are_split_so_that_few_requests_fill_the_device() -> None:
    pytest.importorskip("triton")
    from pipelines.transformers.flash.paged_decode import num_parts

    assert num_parts(8, 8192, 132) == 33  # one request of 8 key heads: 264 programs on 132 processors
    assert num_parts(64 * 8, 8192, 132) == 1
    assert num_parts(8, 100, 132) == 2  # never more parts than blocks of 64 keys


def test_requests_side_by_side_do_not_see_each_other() -> None:
    q, k, v = torch.randn(7, 4, 8), torch.randn(9, 2, 8), torch.randn(9, 2, 8)
    ends_q, ends_k = torch.tensor([0, 3, 6], dtype=torch.int32), torch.tensor([0, 3, 9], dtype=torch.int32)  # the second has 3 keys before
    out = functions.flash_attn_varlen_func(q, k, v, ends_q, ends_k, 3, 6, causal=True)
    for place, keys in ((0, 1), (2, 3)):
        torch.testing.assert_close(out[place : place + 1], expected(q[place : place + 1], k[:keys], v[:keys]))
    for place, keys in ((3, 4), (5, 6)):
        torch.testing.assert_close(out[place : place + 1], expected(q[place : place + 1], k[3 : 3 + keys], v[3 : 3 + keys]))
    assert not out[6].any()  # padding


@pytest.fixture
def fast_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """transformers' fast path of decoding on a CPU; counts the calls of paged decoding."""
    calls = []
    decode, resolve = functions.flash_attn_with_kvcache, initialization.resolve_continuous_batching_config

    def counted(
        q: Any,
        k_cache: Any,
        v_cache: Any,
        k: Any,
        v: Any,
        cache_seqlens: Any,
        block_table: Any,
        softmax_scale: Any = None,
        causal: bool = True,
    ) -> torch.Tensor:
        calls.append(len(q))
        return decode(q, k_cache, v_cache, k, v, cache_seqlens, block_table, softmax_scale, causal)

    def resolved(*args: Any, **kwargs: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.cuda, "is_available", lambda: True)
            return resolve(*args, **kwargs)

    monkeypatch.setattr(functions, "flash_attn_with_kvcache", counted)
    monkeypatch.setattr(continuous_api, "resolve_continuous_batching_config", resolved)
    forget_implementation()
    yield calls
    forget_implementation()


def forget_implementation() -> None:
    from transformers import modeling_flash_attention_utils

    modeling_flash_attention_utils._loaded_implementation = None


def answers(**options: Any) -> list[tuple[str | None, int]]:
    pipeline = TransformersLLM(max_new_tokens=24, batch_size=4, **options)
    pipeline.load(CPU)
    samples = list(Language(num_prompts=6).samples())
    try:
        return [(r.text, r.num_units) for r in pipeline.generate(samples, [Query(i, i, i) for i in range(len(samples))])]
    finally:
        pipeline.close()


@pytest.mark.feature("transformers_llm", "flash attention without flash-attn")
@pytest.mark.parametrize("do_sample", [False, True])
def test_answers_from_the_paged_cache_are_the_same(fast_path: list[int], do_sample: bool) -> None:
    plain = answers(do_sample=do_sample, batching="static")
    assert answers(do_sample=do_sample, attn_implementation=functions.TORCH) == plain
    assert max(fast_path) == 4  # a whole batch at once


def test_a_tokens_noise_depends_on_its_place_although_the_one_before_is_not_there_yet() -> None:
    def state(position: int, prompt: int, before_eviction: int = 0) -> Any:
        return SimpleNamespace(position_offset=position, initial_tokens=[0] * prompt, _true_initial_tokens=before_eviction)

    assert [place_of(state(10, 10)), place_of(state(11, 10)), place_of(state(12, 10))] == [0, 1, 2]
    assert place_of(state(13, 13, before_eviction=10)) == 3  # three answered tokens became part of the prompt


def model(device: str = "cuda", dtype: torch.dtype = torch.bfloat16, **config: Any) -> Any:
    defaults = {"layer_types": None, "head_dim": 128, "hidden_size": 4096, "num_attention_heads": 32}
    text = SimpleNamespace(**(defaults | config))
    tried: list[str] = []
    return SimpleNamespace(
        device=torch.device(device),
        dtype=dtype,
        _supports_flash_attn=True,
        config=SimpleNamespace(get_text_config=lambda: text, _attn_implementation="sdpa"),
        set_attn_implementation=tried.append,
        tried=tried,
    )


@pytest.mark.parametrize(
    ("unfit", "why"),
    [
        (model("cpu"), "sdpa: the device is cpu"),
        (model(dtype=torch.float32), "sdpa: dtype is float32, and flash attention takes bfloat16 and float16"),
        (model(layer_types=["full_attention", "sliding_attention"]), "sdpa: its layers are full_attention, sliding_attention"),
        (model(head_dim=260), "sdpa: its heads are 260 wide, and flash attention takes multiples of 8 up to 256"),
    ],
)
def test_a_model_that_flash_attention_does_not_fit_keeps_its_own(unfit: Any, why: str) -> None:
    assert choose.use_best(unfit) == why
    assert not unfit.tried


def test_the_first_flash_attention_at_hand_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.utils import import_utils

    at_hand: set[str] = {"triton"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in at_hand or None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(import_utils, "is_flash_attn_3_available", lambda: "fa3" in at_hand)
    monkeypatch.setattr(import_utils, "is_flash_attn_2_available", lambda: "fa2" in at_hand)
    assert [name for name, _ in choose.candidates(model())] == ["flash_torch_2"]
    at_hand.add("fa3_fwd_interface")
    assert [name for name, _ in choose.candidates(model())] == ["flash_fa3_fwd_3", "flash_torch_2"]
    assert [name for name, _ in choose.candidates(model(dtype=torch.float16))] == ["flash_torch_2"]  # that build has bfloat16 alone
    at_hand |= {"fa2", "fa3"}
    assert next(choose.candidates(model()))[0] == "flash_attention_3"
    monkeypatch.setattr(torch.version, "hip", "7.1")
    assert [name for name, _ in choose.candidates(model())] == ["flash_attention_2", "flash_torch_2"]


def test_a_hub_that_does_not_answer_leaves_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        if name == "flash_attention_3":
            raise OSError("no route to the hub\nand more")

    asked = model()
    asked.set_attn_implementation = refuse
    monkeypatch.setattr(choose, "candidates", lambda _: iter([("flash_attention_3", "from the hub"), ("flash_torch_2", "torch's")]))
    assert choose.use_best(asked) == "torch's; flash_attention_3: no route to the hub"


def test_the_embedded_models_configuration_is_understood() -> None:
    from transformers import AutoConfig

    real = model()
    real.config = AutoConfig.from_pretrained(LANGUAGE["embedded"])
    assert choose.unfit(real) is None


if __name__ == "__main__":
    compare_kernels()
