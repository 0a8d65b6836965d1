"""The cost of a language or vision-language model, counted from its class on the meta device, where weights have shapes but no bytes.

FLOPs are counted from the modules (two for each weight that a token is multiplied with, and attention by heads and context), because a
mixture of experts cannot run without values: its routing depends on them. tests/pipelines/plan/test_language.py compares the result
with torch's FlopCounterMode on shrunk models of each kind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipelines.plan.device_peaks import PRECISIONS, Device
from pipelines.plan.roofline import Candidate, Ceiling, Layout, Roof

WORKING_BYTES = 2  # of an activation


class Attention(NamedTuple):
    """One layer's: key-value heads, and for each pair of tokens the multiply-adds of its scores and sums over all heads.

    kv_width: numbers cached for a token. window: of a sliding window; None: all tokens. In latent attention, kv_width is the latent's,
    which every device holds; a decoded token attends to latents (weights absorbed), a prompt to expanded heads.
    """

    num_kv_heads: int
    kv_width: int
    prefill_macs: int
    decode_macs: int
    window: int | None

    def pairs(self, length: int) -> int:
        """Pairs of a token and one that it attends to, itself included, in a text of that length."""
        w = self.window
        if w is None or length <= w:
            return length * (length + 1) // 2
        return w * (w + 1) // 2 + (length - w) * w

    def kept(self, length: int) -> int:
        return length if self.window is None else min(length, self.window)


class Vision(NamedTuple):
    """A vision tower and one image of its native size: patches, and the tokens made of them."""

    patches: int
    tokens: int
    weight_macs: int
    attention_macs: int


@dataclass(frozen=True)
class Job:
    """The load: queries at the same time on one replica, tokens of a prompt with its images, and of an answer.

    tokens_at_once: the most that pass through the model together. kv_precision: of the KV cache and of attention's products.
    """

    batch: int
    input_tokens: int
    output_tokens: int
    tokens_at_once: int
    kv_precision: str = "bf16"

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True)
class LanguageModel:
    """Parameters by their use. experts, linear and router: weights of the layers; vision: of everything before them.

    embedding: rows that are looked up; head: the weights of the last product, which are the embedding's where tied. active_share: the
    share of experts that run for a token. widest: numbers a token in a layer's widest tensor.
    """

    name: str
    experts: int
    active_share: float
    linear: int
    router: int
    embedding: int
    head: int
    tied: bool
    vision: int
    other: int
    hidden: int
    widest: int
    vocabulary: int
    num_heads: int
    attention: Sequence[Attention]
    image: Vision | None

    @property
    def parameters(self) -> int:
        return self.experts + self.linear + self.router + self.embedding + (0 if self.tied else self.head) + self.vision + self.other

    @property
    def active_parameters(self) -> int:
        """Parameters used for a token of text, without its row of the embedding, as in gpt-oss's model card."""
        return round(self.experts * self.active_share) + self.linear + self.router + self.head + self.other

    @property
    def body_macs(self) -> float:
        """Multiply-adds of a token with the layers' weights."""
        return self.experts * self.active_share + self.linear + self.router

    def decode_flops(self, context: int) -> float:
        """FLOPs of one more token after `context` tokens."""
        return 2 * (self.body_macs + self.head + sum(a.decode_macs * a.kept(context + 1) for a in self.attention))

    def prefill_flops(self, tokens: int, images: int = 0) -> float:
        """FLOPs of a prompt; the last product is only for its last token."""
        weights = self.body_macs * tokens + self.head
        return 2 * (weights + sum(a.prefill_macs * a.pairs(tokens) for a in self.attention)) + images * self.image_flops

    @property
    def image_flops(self) -> float:
        return 2 * (self.image.weight_macs + self.image.attention_macs) if self.image else 0.0

    def weight_bytes(self, precision: str, tensor: int = 1) -> int:
        """On each of `tensor` devices. Matrices of the layers have the precision; embeddings, routers, norms and vision 16 bits."""
        wide = max(16.0, PRECISIONS[precision].bits) / 8
        split = (self.experts + self.linear) * PRECISIONS[precision].bits / 8 + (self.embedding + self.vision) * wide
        split += 0 if self.tied else self.head * wide
        return math.ceil(split / tensor + (self.router + self.other) * wide)

    def touched_bytes(self, precision: str, batch: int) -> float:
        """Bytes of weights read for one token of each of `batch` texts. An expert is read if a token uses it; all are equally likely."""
        bits, wide = PRECISIONS[precision].bits, max(16.0, PRECISIONS[precision].bits)
        used = 1 - (1 - self.active_share) ** batch
        return (self.experts * used * bits + self.linear * bits + (self.router + self.head + self.other) * wide) / 8

    def kv_bytes(self, tokens: int, precision: str, tensor: int = 1) -> int:
        """Bytes of one text's cache on each of `tensor` devices: heads are split, and repeated where there are fewer than devices."""
        bits = PRECISIONS[precision].bits
        return math.ceil(sum(a.kept(tokens) * a.kv_width / min(tensor, a.num_kv_heads) for a in self.attention) * bits / 8)

    def activation_bytes(self, job: Job, tensor: int = 1) -> int:
        """An estimate: residual, norm and a layer's two widest tensors for all tokens at once; fp32 scores over the vocabulary."""
        tokens = max(job.tokens_at_once, job.batch)
        return tokens * (3 * self.hidden + 2 * self.widest // tensor) * WORKING_BYTES + job.batch * self.vocabulary * 4 // tensor

    def candidate(self, job: Job, precision: str, layout: Layout, devices: int, device: Device) -> Candidate:
        n, replicas = layout.tensor, devices // layout.size
        if self.num_heads % n:  # key-value heads are repeated where they are fewer
            why = f"{self.num_heads} heads do not split in {n}"
            return Candidate(precision, layout, replicas, job.batch, device.usable_bytes, impossible=why)
        one = self.kv_bytes(job.tokens, job.kv_precision, n)
        memory = {
            "weights": self.weight_bytes(precision, n),
            "kv_cache": one * job.batch,
            "activations": self.activation_bytes(job, n),
        }
        room = device.usable_bytes - memory["weights"] - memory["activations"]
        whole = self._whole(job, precision, n, device)
        ceiling = Ceiling(replicas * job.batch * job.output_tokens / whole.seconds, "tokens/s", whole.bound)
        stages = {"prefill": self._prefill(job, precision, n, device), "decode": self._decode(job, precision, n, device)}
        largest = room // one if room >= one else None
        return Candidate(precision, layout, replicas, job.batch, device.usable_bytes, memory, largest, stages, ceiling)

    def _prefill(self, job: Job, precision: str, n: int, device: Device) -> Roof:
        """The time of one prompt."""
        images = 1 if self.image else 0
        weights = 2 * (self.body_macs * job.input_tokens + self.head)
        attention = 2 * sum(a.prefill_macs * a.pairs(job.input_tokens) for a in self.attention)
        moved = self.touched_bytes(precision, job.input_tokens) / n + self.kv_bytes(job.input_tokens, job.kv_precision, n)
        vision = images * self.image_flops / device.flops_per_s("bf16")
        return self._roof(job, precision, n, device, weights, attention, moved, job.input_tokens, vision)

    def _decode(self, job: Job, precision: str, n: int, device: Device) -> Roof:
        """The time of one more token of every text, halfway through the answers."""
        context = job.input_tokens + job.output_tokens // 2
        weights = 2 * job.batch * (self.body_macs + self.head)
        attention = 2 * job.batch * sum(a.decode_macs * a.kept(context) for a in self.attention)
        moved = self.touched_bytes(precision, job.batch) / n + job.batch * self.kv_bytes(context, job.kv_precision, n)
        return self._roof(job, precision, n, device, weights, attention, moved, job.batch)

    def _whole(self, job: Job, precision: str, n: int, device: Device) -> Roof:
        """The time of a replica's batch from its prompts to its last tokens, where prompts may run while others are decoded.

        Weights are read once for each token of an answer, which is the minimum: prompts share those passes.
        """
        steps, passed = job.output_tokens, job.input_tokens + job.output_tokens - 1
        weights = 2 * job.batch * (self.body_macs * passed + self.head * steps)
        attention, read = 0.0, 0.0
        for a in self.attention:
            before = a.pairs(job.input_tokens)
            after = a.pairs(passed) - before
            attention += 2 * job.batch * (a.prefill_macs * before + a.decode_macs * after)
            read += job.batch * after * a.kv_width / min(n, a.num_kv_heads) * PRECISIONS[job.kv_precision].bits / 8
        moved = steps * self.touched_bytes(precision, job.batch) / n + read
        vision = job.batch * self.image_flops / device.flops_per_s("bf16")
        return self._roof(job, precision, n, device, weights, attention, moved, job.batch * passed, vision)

    def _roof(
        self,
        job: Job,
        precision: str,
        n: int,
        device: Device,
        weights: float,
        attention: float,
        moved: float,
        tokens: int,
        vision_s: float = 0.0,
    ) -> Roof:
        compute = weights / device.flops_per_s(precision) + attention / device.flops_per_s(job.kv_precision) + vision_s
        reduced = 2 * len(self.attention) * tokens * self.hidden * WORKING_BYTES  # attention and feed-forward of each layer
        return Roof(compute / n, moved / (device.memory_gb_s * 1e9), 2 * (n - 1) / n * reduced / (device.link_gb_s * 1e9))


def figures(model: LanguageModel, job: Job, precision: str) -> Mapping[str, Any]:
    """Figures that are the same on any device: counts, FLOPs and bytes."""
    context = job.input_tokens + job.output_tokens // 2
    values: dict[str, Any] = {
        "class": model.name,
        "parameters": model.parameters,
        "active_parameters": model.active_parameters,
        "embedding_parameters": model.embedding,
        "vision_parameters": model.vision,
        "kv_bytes_per_token": model.kv_bytes(1, job.kv_precision),
        "kv_bytes_per_query": model.kv_bytes(job.tokens, job.kv_precision),
        "prefill_flops_per_token": model.prefill_flops(job.input_tokens, 1) / job.input_tokens,
        "decode_flops_per_token": model.decode_flops(context),
        "decode_bytes_per_token": model.touched_bytes(precision, job.batch) / job.batch + model.kv_bytes(context, job.kv_precision),
    }
    if model.image:
        values |= {"image_patches": model.image.patches, "image_tokens": model.image.tokens, "flops_per_image": model.image_flops}
    return values
