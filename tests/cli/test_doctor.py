"""`owl2 doctor`: what is here, what is missing, how to get it."""

import json
from collections.abc import Callable
from importlib.metadata import version

import pytest
import torch
from transformers import DynamicCache

from owl2 import environment
from owl2.environment import NEWEST_TESTED
from owl2.self_test import self_test


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
    assert "owl2 is ready" in result.stdout and "cpu: " in result.stdout


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


def test_a_version_newer_than_tested_is_named_and_no_problem(owl2, installed):
    newer = f"{NEWEST_TESTED['transformers']}.1"
    installed(transformers=newer)
    result = owl2("doctor")
    assert f"transformers {newer} is newer than {NEWEST_TESTED['transformers']}" in result.stdout
    assert result.exit_code == 0, result.output


def test_a_build_of_the_newest_tested_version_is_not_newer(installed):
    package = environment.Package("torch", ">=2", f"{NEWEST_TESTED['torch']}+cu130")
    assert environment.newer_than_tested([package]) == []


class TestSelfTest:
    """Each fault is of a kind that a new release has had, or could have, without an error being raised."""

    @pytest.fixture
    def failed(self) -> Callable[[], str]:
        return lambda: "; ".join(f"{check.name}: {check.failure}" for check in self_test() if not check.passed)

    def test_everything_passes_on_the_installed_versions(self, failed):
        assert failed() == ""

    def test_a_mask_that_is_ignored_is_found(self, failed, monkeypatch):
        real = torch.nn.functional.scaled_dot_product_attention

        def ignoring(query, key, value, attn_mask=None, **options):
            return real(query, key, value, **options)

        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", ignoring)
        assert "padded on the left: ValueError: logits differ" in failed()

    def test_a_cache_that_forgets_is_found(self, failed, monkeypatch):
        monkeypatch.setattr(DynamicCache, "update", lambda self, keys, values, *_, **__: (keys, values))
        assert "for text: ValueError" in failed() and "with an image: ValueError" in failed()

    def test_generation_that_drops_the_cache_is_found(self, failed, monkeypatch):
        from owl2 import Owl2ForConditionalGeneration

        real = Owl2ForConditionalGeneration.generate
        without = lambda self, *given, **options: real(self, *given, **options, use_cache=False)  # noqa: E731
        monkeypatch.setattr(Owl2ForConditionalGeneration, "generate", without)
        assert "the cache is not used" in failed()

    def test_a_model_that_saves_other_weights_is_found(self, failed, monkeypatch):
        from owl2 import Owl2ForConditionalGeneration

        real = Owl2ForConditionalGeneration.save_pretrained

        def saving(self, directory, **options):
            with torch.no_grad():
                self.get_output_embeddings().weight.mul_(1.1)
            real(self, directory, **options)
            with torch.no_grad():
                self.get_output_embeddings().weight.div_(1.1)

        monkeypatch.setattr(Owl2ForConditionalGeneration, "save_pretrained", saving)
        assert failed().startswith("saved and loaded") and "logits differ" in failed()

    def test_a_class_that_cannot_be_built_fails_and_the_command_says_so(self, owl2, monkeypatch):
        from owl2 import Owl2ForConditionalGeneration

        def broken(self, *_):
            raise TypeError("unexpected keyword argument 'cache'")

        monkeypatch.setattr(Owl2ForConditionalGeneration, "__init__", broken)
        result = owl2("doctor")
        assert result.exit_code == 1
        assert "FAILED  model and processor are built: TypeError: unexpected keyword argument" in result.stdout
        assert "owl2 does not work with this combination of versions" in result.stdout
        assert f"transformers=={NEWEST_TESTED['transformers']}" in result.stdout
