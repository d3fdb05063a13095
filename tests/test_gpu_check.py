"""`make gpu-check` on a machine without a GPU, at a tiny size: every part runs, and says what it would on one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_check.py"


def report_of(parts: list[str], out: Path) -> dict[str, Any]:
    command = [
        sys.executable,
        str(SCRIPT),
        "--tiny",
        "--parts",
        *parts,
        "--out",
        str(out),
        "--scratch",
        str(out.parent),
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(out.read_text())


@pytest.mark.slow
def test_parity_decoding_and_training(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    found = report_of(["goldens", "decode", "training"], tmp_path / "result.json")
    assert found["environment"]["device"]
    assert found["goldens"]["float32"]["difference"] < 1e-4 < found["goldens"]["bfloat16"]["difference"] < 0.05
    assert found["decode"]["tokens_equal"] == found["decode"]["tokens"] == 8
    assert all(found["decode"][way]["share_of_bandwidth"] > 0 for way in ("dynamic", "graphs"))
    assert found["training"]["stage 1"]["lora"] == 0 and found["training"]["stage 2"]["lora"] == 64
    assert all(found["training"][f"stage {stage}"]["mfu"] > 0 for stage in (1, 2))


@pytest.mark.slow
def test_serving(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    rows = report_of(["serving"], tmp_path / "result.json")["serving"]["2 clients"]
    assert rows["owl2 serve"]["requests"] == 2 and rows["owl2 serve"]["tokens_per_second"] > 0
