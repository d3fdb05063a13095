"""What was not compared with `generate` is refused in one sentence."""

import re
from pathlib import Path
from typing import Any

import pytest
from vllm_cases import engine, save_model

from owl2.serving.vllm.proven import refuse_unproven

pytest.importorskip("vllm", reason="make test-vllm has an environment with vLLM")


def configuration(directory: Path, **changes: Any) -> Any:
    """Of an engine, as vLLM makes it of its options."""
    from vllm import EngineArgs

    settings = {"tokenizer_mode": "owl2", "enforce_eager": True, "dtype": "float32", "block_size": 32, **changes}
    return EngineArgs(model=str(directory), **settings).create_engine_config()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokenizer_mode": "auto"}, "--tokenizer-mode is 'auto': mPLUG-Owl2 in vLLM needs 'owl2'"),
        ({"enforce_eager": False}, "give --enforce-eager"),
        ({"enable_lora": True}, "--enable-lora was not tested"),
        ({"enable_prompt_embeds": True}, "--enable-prompt-embeds was not tested"),
        ({"enable_mm_embeds": True}, "--enable-mm-embeds was not tested"),
        ({"tensor_parallel_size": 2}, "--tensor-parallel-size was not tested"),
        ({"kv_cache_dtype": "fp8_e5m2"}, "--kv-cache-dtype was not tested"),
    ],
    ids=lambda value: "".join(value) if isinstance(value, dict) else "",
)
def test_a_setting_that_was_not_tested(changes: dict[str, Any], said: str, directories: dict[str, Path]) -> None:
    config = configuration(directories["ours"], **changes)
    with pytest.raises(ValueError, match=re.escape(said)):
        refuse_unproven(config)


@pytest.mark.parametrize(
    "text",
    [{"qk_norm": True}, {"sliding_window": 64}, {"routing": "hash"}, {"kv_adapter_rank": 4}],
    ids=lambda text: next(iter(text)),
)
def test_a_model_that_was_not_tested(text: dict[str, Any], tmp_path: Path) -> None:
    config = configuration(save_model(tmp_path / "model", "ours", **text))
    with pytest.raises(ValueError, match=f"models with {next(iter(text))}="):
        refuse_unproven(config)


def test_the_other_model_runner(directories: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM takes it by itself on GPUs."""
    config = configuration(directories["ours"])
    refuse_unproven(config)
    monkeypatch.setattr(type(config), "use_v2_model_runner", True)
    with pytest.raises(ValueError, match="set VLLM_USE_V2_MODEL_RUNNER=0"):
        refuse_unproven(config)


def test_the_refusal_comes_before_an_engine_is_there(directories: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="--enable-prompt-embeds was not tested"):
        with engine(directories["ours"], enable_prompt_embeds=True):
            pass


def test_the_generic_model_of_transformers_is_refused(directories: dict[str, Path]) -> None:
    """It would answer without the modality of the tokens."""
    with pytest.raises(Exception, match="is not a registered model|--model-impl was not tested"):
        with engine(directories["ours"], model_impl="transformers"):
            pass
