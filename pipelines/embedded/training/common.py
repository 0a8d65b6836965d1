"""Shared by all trainings of embedded models: weight averaging, the learning rate's schedule, progress, and resumable state."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch

SAVE_EVERY_S = 60.0
PRINT_EVERY_S = 15.0


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


class Ema:
    """An exponential moving average of a module's parameters, starting as their plain mean."""

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.shadow = {k: v.detach().clone() for k, v in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 10))
        for name, value in module.named_parameters():
            self.shadow[name].lerp_(value, 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: torch.nn.Module) -> None:
        for name, value in module.named_parameters():
            value.copy_(self.shadow[name])

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.updates, self.shadow = state_dict["updates"], state_dict["shadow"]


class Progress:
    """The next step, the seconds of all sessions, and a printed line every PRINT_EVERY_S."""

    def __init__(self, name: str, total: int, state: dict[str, Any] | None = None) -> None:
        self.name, self.total = name, total
        self.step: int = state["step"] if state else 0
        self._before_s: float = state["seconds"] if state else 0.0
        self._started = self._printed = self._saved = time.monotonic()
        self._first, self._sums = self.step, dict[str, list[float]]()
        if self.step:
            print(f"{name}: resuming at step {self.step} of {total}", flush=True)

    @property
    def was_finished(self) -> bool:
        """Whether there was nothing left to do when this session began."""
        return self._first >= self.total

    @property
    def seconds(self) -> float:
        return self._before_s + time.monotonic() - self._started

    def advance(self, **figures: float) -> None:
        self.step += 1
        for key, value in figures.items():
            self._sums.setdefault(key, []).append(value)
        now = time.monotonic()
        if now - self._printed >= PRINT_EVERY_S or self.step == self.total:
            pace = (now - self._started) / (self.step - self._first)
            shown = "  ".join(f"{k} {sum(v) / len(v):.4f}" for k, v in self._sums.items())
            left = f"{pace:.2f} s a step, {pace * (self.total - self.step) / 60:.0f} min left"
            print(f"{self.name} {self.step}/{self.total}  {shown}  ({left})", flush=True)
            self._printed, self._sums = now, {}

    def due(self) -> bool:
        """Whether it is time to save; true once every SAVE_EVERY_S."""
        if time.monotonic() - self._saved < SAVE_EVERY_S:
            return False
        self._saved = time.monotonic()
        return True


def cosine(step: int, total: int, peak: float, warmup: int, floor: float = 0.02) -> float:
    """Learning rate: linear warm-up to `peak`, then half a cosine down to `floor` of it."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(total - warmup, 1)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def descend(loss: torch.Tensor, parameters: Iterable[torch.Tensor], optimiser: torch.optim.Optimizer) -> None:
    """One step down the gradient, whose norm is cut to 1."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(list(parameters), 1.0)
    optimiser.step()


def save_state(path: Path, progress: Progress, **parts: Stateful) -> None:
    """Write atomically, so that an interruption leaves the last complete state."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"step": progress.step, "seconds": progress.seconds, **{k: v.state_dict() for k, v in parts.items()}}
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def load_state(path: Path, **parts: Stateful) -> dict[str, Any] | None:
    """Load the parts from `path`; None where nothing was saved yet."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state
