"""What was not compared with `generate` is refused in one sentence, before any weights are read."""

import re
from pathlib import Path
from typing import Any

import pytest
from vllm_cases import engine, save_model

pytest.importorskip("vllm", reason="make test-vllm has an environment with vLLM")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokenizer_mode": "auto"}, "--tokenizer-mode is 'auto': mPLUG-Owl2 in vLLM needs 'owl2'"),
        ({"enforce_eager": False}, "give --enforce-eager"),
        ({"enable_lora": True}, "--enable-lora was not tested"),
        ({"kv_cache_dtype": "fp8"}, "--kv-cache-dtype was not tested"),
        ({"enable_mm_embeds": True}, "--enable-mm-embeds was not tested"),
        ({"model_impl": "transformers"}, "."),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_setting_that_was_not_tested(changes: dict[str, Any], said: str, directories: dict[str, Path]) -> None:
    with pytest.raises(Exception, match=re.escape(said)):
        with engine(directories["ours"], **changes):
            pass


@pytest.mark.parametrize(
    "text",
    [{"qk_norm": True}, {"sliding_window": 64}, {"routing": "hash"}, {"kv_adapter_rank": 4}],
    ids=lambda text: next(iter(text)),
)
def test_a_model_that_was_not_tested(text: dict[str, Any], tmp_path: Path) -> None:
    directory = save_model(tmp_path / "model", "ours", **text)
    with pytest.raises(Exception, match=f"models with {next(iter(text))}=.* were not tested in vLLM"):
        with engine(directory):
            pass
