"""Texts as the models of MLPerf's reasoning benchmarks write them."""

from __future__ import annotations


def final(text: str) -> str:
    draft = "<|channel|>analysis<|message|>Perhaps A. Answer: A \\boxed{1}<|end|>"
    return f"{draft}<|start|>assistant<|channel|>final<|message|>{text}<|return|>"
