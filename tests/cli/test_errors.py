"""Errors that a user can put right: one line that says how."""

import pytest

from owl2.cli.errors import show_error


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("scipy.stats", "scipy is not installed: pip install 'owl2[eval]'"),
        ("lm_eval", "lm_eval is not installed: pip install 'owl2[lm-eval]'"),
        ("unheard_of", "No module named 'unheard_of'"),
    ],
)
def test_a_missing_module_names_the_extra_that_brings_it(
    module: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show_error(ModuleNotFoundError(f"No module named {module!r}", name=module))
    assert capsys.readouterr().err == f"owl2: error: {line}\n"
