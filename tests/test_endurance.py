"""The short form of `benchmarks/endurance.py`: memory stays flat, files and open handles few."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "endurance.py"


@pytest.mark.slow
def test_hundreds_of_steps_checkpoints_and_samples_leave_memory_and_files_as_they_were(tmp_path: Path) -> None:
    sizes = ["--steps", "300", "--every", "3", "--samples", "600"]
    result = subprocess.run(
        [sys.executable, str(SCRIPT), *sizes, "--out", str(tmp_path / "r.json")], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["training"]["checkpoints_written"] == 100 and found["training"]["most_files"] <= 60
    assert found["evaluation"]["samples"] == 600 and found["evaluation"]["most_files"] <= 4
