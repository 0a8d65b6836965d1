"""The negative prompt, which is the same for every query, encoded once for each size of batch.

Pipelines encode it anew for every batch. An encoding is kept by all that it depends on, the number of clips included, so that results
are the same bit by bit. The prompts of queries are always encoded.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

MOST = 8  # encodings that are kept: a run has one size of batch, and a last one that is smaller
NAMES = ("prompt", "negative_prompt", "prompt_embeds", "negative_prompt_embeds", "do_classifier_free_guidance")


def encode_once(pipe: Any) -> bool:
    """Wrap the pipeline's encode_prompt, where it returns two encodings (Wan, CogVideoX). Returns whether it does."""
    encode = getattr(pipe, "encode_prompt", None)
    signature = inspect.signature(encode) if encode is not None else None
    # Where it returns masks too (LTX-Video, Mochi), they would have to be kept beside the encodings.
    if encode is None or signature is None or set(NAMES) - set(signature.parameters) or "mask" in str(signature):
        return False
    kept: dict[Any, Any] = {}

    @functools.wraps(encode)
    def encode_prompt(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        if given["prompt"] is None or given["negative_prompt_embeds"] is not None or not given["do_classifier_free_guidance"]:
            return encode(*args, **kwargs)  # type: ignore[no-any-return]
        num_prompts = 1 if isinstance(given["prompt"], str) else len(given["prompt"])
        others = {name: value for name, value in given.items() if name not in ("prompt", "prompt_embeds")}
        key = (num_prompts, repr(sorted(others.items())))
        if key in kept:
            given["negative_prompt_embeds"] = kept[key]
            return encode(*bound.args, **bound.kwargs)  # type: ignore[no-any-return]
        both: tuple[Any, Any] = encode(*args, **kwargs)
        if len(kept) < MOST:
            kept[key] = both[1]
        return both

    pipe.encode_prompt = encode_prompt
    return True
