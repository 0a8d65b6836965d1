"""A scheduler in place of the checkpoint's own, with the checkpoint's shift and type of prediction."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from configs.errors import ConfigError, first_line, unknown
from pipelines.diffusers.library_options import named
from pipelines.diffusers.speedups.base import DiffusersOptions, Loaded, SpeedUp

SHIFTS = ("flow_shift", "shift")  # two names of one parameter


class Scheduler(SpeedUp):
    """A class of diffusers with parameters of its own, such as {name: FlowMatchEulerDiscreteScheduler, shift: 5}."""

    option = "scheduler"
    entry = "scheduler"

    def __init__(self, options: DiffusersOptions) -> None:
        super().__init__(options)
        if not self.requested:
            return
        import diffusers

        known = [n for n in dir(diffusers.schedulers) if n.endswith("Scheduler") and not n.startswith(("Flax", "_"))]
        self.name, given = named("pipeline 'diffusers_t2v'", "scheduler", self.value, known)
        self.what = f"pipeline 'diffusers_t2v': scheduler {self.name!r}"
        self._class: Any = getattr(diffusers, self.name)
        self._takes = set(inspect.signature(self._class.__init__).parameters) - {"self"}
        for option in given:
            if option not in self._takes:
                raise ConfigError(f"{self.what} has {unknown('option', option, self._takes)}")
        self._given = given
        if options.first_frame == "held":
            raise ConfigError(f"{self.what} cannot be combined with first_frame 'held', which has its own scheduler. Leave one out.")

    def apply(self, loaded: Loaded) -> None:
        """Raises ConfigError where it does not support the model's type of prediction, or draws random numbers."""
        pipe, num_steps = loaded.pipe, loaded.family.value("num_inference_steps") or 1
        own = pipe.scheduler
        if _is_flow(own) and not (self.name.startswith("FlowMatch") or "use_flow_sigmas" in self._takes):
            raise ConfigError(
                f"{self.what} does not support flow matching, for which the model was trained. Choose another, or leave it out."
            )
        if not _is_flow(own) and self.name.startswith("FlowMatch"):
            raise ConfigError(f"{self.what} is for flow matching, for which the model was not trained. Leave it out.")
        try:
            scheduler = self._class.from_config(own.config, **self._inherited(own), **self._given)
            is_random = _is_random(scheduler, num_steps)
        except (ValueError, TypeError, NotImplementedError, AttributeError, IndexError) as error:
            raise ConfigError(f"{self.what} does not work with {num_steps} steps: {first_line(error)}") from error
        if is_random:
            raise ConfigError(
                f"{self.what} adds noise at every step, which a {type(pipe).__name__} draws without the query's seed: the same query would "
                "get different answers. Choose one that adds none."
            )
        pipe.scheduler = scheduler

    def effective(self, loaded: Loaded) -> str:
        scheduler = loaded.pipe.scheduler
        values = ", ".join(f"{option}={scheduler.config.get(option)}" for option in self._given) if self.requested else ""
        return type(scheduler).__name__ + (f" ({values})" if values else "")

    def fallbacks(self, loaded: Loaded) -> list[str]:
        scheduler = loaded.pipe.scheduler
        sentences = [] if type(scheduler) is self._class else [f"scheduler is {type(scheduler).__name__}, not {self.name}"]
        wrong = {o: scheduler.config.get(o) for o, v in self._given.items() if scheduler.config.get(o) != v}
        return sentences + [f"scheduler option {option} is {value}, not {self._given[option]}" for option, value in wrong.items()]

    def _inherited(self, own: Any) -> dict[str, Any]:
        inherited: dict[str, Any] = {}
        if _is_flow(own) and "use_flow_sigmas" in self._takes:
            inherited = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
        shift = next((own.config[name] for name in SHIFTS if own.config.get(name) is not None), None)
        inherited |= {name: shift for name in SHIFTS if name in self._takes and shift is not None}
        return {name: value for name, value in inherited.items() if name in self._takes and name not in self._given}


def _is_flow(scheduler: Any) -> bool:
    config = scheduler.config
    return (
        type(scheduler).__name__.startswith("FlowMatch")
        or bool(config.get("use_flow_sigmas"))
        or config.get("prediction_type") == "flow_prediction"
    )


def _is_random(scheduler: Any, num_steps: int) -> bool:
    """Whether the steps depend on the process's random numbers, for a model that predicts zeros."""
    ends = []
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            scheduler.set_timesteps(num_steps)
            latents = torch.ones(1, 1, 1, 2, 2)
            for t in scheduler.timesteps:
                latents = scheduler.step(torch.zeros_like(latents), t, latents, return_dict=False)[0]
            ends.append(latents)
    return not torch.equal(*ends)
