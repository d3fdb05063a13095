"""One list of precisions for commands, checkpoints and servers, which needs no torch."""

import subprocess
import sys
from typing import get_args

import pytest
import torch

from owl2.dtypes import ComputeDtype, WeightDtype, check_dtype


def test_the_names_are_those_of_torch():
    assert all(getattr(torch, name).is_floating_point for name in get_args(WeightDtype))
    assert set(get_args(ComputeDtype)) == {"auto", *get_args(WeightDtype)}


@pytest.mark.parametrize("name", ["bf16", "int8", ""])
def test_another_name_is_refused_with_those_that_there_are(name):
    with pytest.raises(ValueError, match=f"there is no dtype '{name}': choose among auto, float32, bfloat16, float16"):
        check_dtype(name)


def test_they_are_known_without_torch():
    code = "import owl2.dtypes, owl2.cli.model_options, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
