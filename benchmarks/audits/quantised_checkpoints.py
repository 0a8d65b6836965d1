"""Writes the embedded video model with quantised blocks in other libraries' formats: GGUF, and folders of AMD's Quark."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.models.embedded import VIDEO

EXPERTS = ("transformer", "transformer_2")


def write_gguf(file: Path, expert: str, kind: str, named: Callable[[str], str] = str) -> str:
    """Write one expert with the linear layers of its blocks in `kind`, such as Q8_0. Returns the file's name. Requires the package gguf.

    named: returns a tensor's name in the file, from diffusers' own.
    """
    import gguf
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel.from_pretrained(VIDEO, subfolder=expert)
    writer = gguf.GGUFWriter(file, "wan")
    quantised = gguf.GGMLQuantizationType[kind]
    for name, tensor in model.state_dict().items():
        array = tensor.float().numpy()
        if name.startswith("blocks") and array.ndim == 2:
            writer.add_tensor(named(name), gguf.quants.quantize(array, quantised), raw_dtype=quantised)
        else:
            writer.add_tensor(named(name), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(file)


def write_quark(folder: Path) -> Path:
    """Write the model with its experts' blocks in MXFP4, by Quark itself. Returns the folder. Requires amd-quark.

    The time embedder is not quantised, because Wan takes the dtype of its input from the time embedder's weights.
    """
    import importlib

    from diffusers import WanTransformer3DModel

    importlib.import_module("quark.integrations.diffusers")
    library: Any = importlib.import_module("quark.torch")
    config: Any = importlib.import_module("quark.torch.quantization.config.config")
    spec = config.OCP_MXFP4Spec(ch_axis=-1, is_dynamic=False).to_quantization_spec()
    whole = config.QConfig(global_quant_config=config.QLayerConfig(weight=spec), exclude=["condition_embedder.*", "proj_out"])
    shutil.copytree(VIDEO, folder)
    for expert in EXPERTS:
        model: Any = WanTransformer3DModel.from_pretrained(VIDEO, subfolder=expert)
        model = library.ModelQuantizer.freeze(library.ModelQuantizer(whole).quantize_model(model, dataloader=None))
        shutil.rmtree(folder / expert)
        library.export_safetensors(model, str(folder / expert), weight_format="real_quantized")
    return folder
