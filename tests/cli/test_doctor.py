"""`owl2 doctor`: what is here, what is missing, how to get it."""

import json
from importlib.metadata import version

import pytest

from owl2 import environment


@pytest.fixture
def installed(monkeypatch):
    """Pretends that packages have other versions, or none."""

    def pretend(**versions: str | None) -> None:
        real = environment._installed_version
        monkeypatch.setattr(
            environment, "_installed_version", lambda name: versions[name] if name in versions else real(name)
        )

    return pretend


def test_a_machine_that_runs_the_tests_is_ready(owl2):
    result = owl2("doctor")
    assert result.exit_code == 0, result.output
    assert "owl2 is ready." in result.stdout and "cpu: " in result.stdout


def test_json_has_the_versions_that_are_installed(owl2):
    found = json.loads(owl2("doctor", "--json").stdout)
    versions = {package["name"]: package["found"] for package in found["required"]}
    assert all(versions[name] == version(name) for name in ("torch", "transformers", "pillow", "tokenizers"))
    assert found["problems"] == [] and all(package["fits"] for package in found["required"])


def test_a_missing_package_comes_with_the_command_that_installs_it(owl2, installed):
    installed(sentencepiece=None)
    result = owl2("doctor")
    assert result.exit_code == 1
    assert "sentencepiece is not installed: pip install 'sentencepiece>=" in result.stdout
    assert "1 problem to put right." in result.stdout


@pytest.mark.parametrize(("found", "fits"), [("4.57.1", False), ("5.16.0", False), ("5.17.0", True), ("6.0.0", False)])
def test_transformers_outside_the_window_is_a_problem(owl2, installed, found, fits):
    installed(transformers=found)
    result = owl2("doctor")
    assert result.exit_code == (0 if fits else 1)
    assert (f"transformers {found} is not" in result.stdout) is not fits


def test_a_missing_extra_is_no_problem_but_says_how_to_get_it(owl2, installed):
    installed(av=None)
    result = owl2("doctor")
    assert result.exit_code == 0
    assert "lacks av: pip install 'owl2[video]'" in result.stdout


def test_a_torchvision_that_does_not_import_is_a_problem(owl2, monkeypatch, tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = owl2("doctor")
    assert result.exit_code == 1
    assert "operator torchvision::nms does not exist" in result.stdout
    assert "pip uninstall torchvision" in result.stdout


def test_the_allocator_hint_goes_when_its_settings_are_there(owl2, monkeypatch):
    monkeypatch.setattr(environment.platform, "system", lambda: "Linux")
    for name in environment.MALLOC_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    assert "MALLOC_TOP_PAD_=268435456" in owl2("doctor").stdout
    for name, value in environment.MALLOC_SETTINGS.items():
        monkeypatch.setenv(name, value)
    assert "MALLOC" not in owl2("doctor").stdout
