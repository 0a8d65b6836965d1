"""Plans, made once a session, and configurations of published architectures."""

from __future__ import annotations

import functools
from typing import Any

from configs.load_config import load_config
from pipelines.models import architectures
from pipelines.plan.plan import Plan, PlanRequest, plan


def config_of(name: str, **shrink: Any) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    values = architectures.transformers_values(architectures.folder_of(name), architectures.Shrink.parse(shrink))
    for part in (values, values.get("text_config", {})):
        part.update(pad_token_id=None, bos_token_id=None, eos_token_id=None)
    return CONFIG_MAPPING[values.pop("model_type")].from_dict(values)


@functools.cache
def planned(preset: str, device: str, changes: tuple[str, ...] = (), **options: Any) -> Plan:
    return plan(load_config(None, preset, list(changes)), preset, PlanRequest(device, **options))
