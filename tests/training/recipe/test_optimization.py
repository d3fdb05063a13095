"""What trains and how: settings that contradict themselves or the paper are refused in words."""

from pathlib import Path
from typing import Any

import pytest
from training.tiny_recipes import refusal_of


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": {"max_grad_norm": -1}}, "optimizer.max_grad_norm: Input should be greater than 0"),
        ({"schedule": {"warmup_steps": 99}}, "warmup_steps 99 is more than steps 3"),
        ({"train": {"parts": []}}, "nothing would train"),
        ({"train": {"parts": ["eyes"]}}, "train.parts.0: Input should be 'vision_encoder', 'abstractor'"),
        ({"train": {"parts": ["decoder_shared"], "lora": {}}}, "decoder_shared would train in full and through lora"),
        ({"train": {"quantization": "int4"}}, "a quantized language model cannot train in full"),
        ({"train": {"drop_path": 0.1}}, "train.drop_path: Input should be 0"),
        ({"optimizer": {"vision_optimizer": "lion"}}, "optimizer.vision_optimizer: Input should be 'adamw' or 'muon'"),
    ],
)
def test_a_wrong_setting_of_training_is_refused_in_words(
    directory: Path, settings: dict[str, Any], message: str
) -> None:
    assert message in refusal_of(directory, **settings)
