"""The language decoder's projections in 8 or 4 bits while a model loads; all else keeps its precision.

8 bits (torchao) round weights only, and 4 bits (NF4 of bitsandbytes, as QLoRA trains on) compute in the model's
precision: the result of a sample does not depend on the others in its batch.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from owl2.files import read_json_object
from owl2.modeling import Owl2Config
from owl2.modeling.parts import projection_sizes

BITS = (8, 4)
_WHOLE = ("model.vision_tower", "model.abstractor", "lm_head")
_WIDTH = 32  # of a row in 4 bits


def quantized_settings(
    bits: int, directory: Path, dtype: torch.dtype | None, device: torch.device, whole: Iterable[str] = ()
) -> dict[str, Any]:
    """Arguments of `from_pretrained` that load a model directory in 8 or 4 bits.

    Args:
        dtype: Precision of the rest; `None` keeps the checkpoint's.
        whole: Names of further modules that keep their precision.

    Raises:
        ImportError: The extra `quantization` is not installed.
        ValueError: Another number of bits; the weights are quantized already, or their rows are too short.
    """
    if bits not in BITS:
        raise ValueError(f"the language model cannot be kept in {bits} bits: choose 8 or 4")
    if read_json_object(directory / "config.json", "the settings of a model").get("quantization_config"):
        raise ValueError(f"the weights in {directory} are quantized already: load them without a number of bits")
    kept = [*_WHOLE, *whole]
    config = Owl2Config.from_pretrained(directory)
    try:
        how = _in_8_bits(kept) if bits == 8 else _in_4_bits(kept, config, dtype or config.dtype or torch.float32)
    except ImportError as error:
        raise ImportError(f"{bits} bits need {error.name}: install it with pip install 'owl2[quantization]'") from error
    return {"quantization_config": how, "device_map": {"": device}}


def _in_8_bits(kept: list[str]) -> Any:
    import accelerate  # noqa: F401  transformers loads to a device through it
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=kept)


def _in_4_bits(kept: list[str], config: Owl2Config, dtype: torch.dtype) -> Any:
    import accelerate  # noqa: F401
    import bitsandbytes  # noqa: F401
    from transformers import BitsAndBytesConfig

    for name, (width, _) in projection_sizes(config.text_config).items():
        if width % _WIDTH:
            raise ValueError(f"{name} has {width} inputs, but 4 bits need a multiple of {_WIDTH}")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=kept,
    )
