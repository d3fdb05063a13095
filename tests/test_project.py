"""What the repository promises as a whole: Auto classes, cheap imports, agreeing versions."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from helpers import write_official
from packaging.requirements import Requirement
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

import owl2
from owl2.environment import MALLOC_SETTINGS, NEWEST_TESTED, PYTHON

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def directories(tmp_path_factory) -> list[Path]:
    """A model in the official layout, and the same as we save it."""
    official, ours = tmp_path_factory.mktemp("official"), tmp_path_factory.mktemp("ours")
    write_official(official)
    AutoModelForImageTextToText.from_pretrained(official).save_pretrained(ours)
    AutoProcessor.from_pretrained(official).save_pretrained(ours)
    return [official, ours]


class TestAutoClasses:
    @pytest.mark.parametrize(
        ("auto", "expected"),
        [
            (AutoConfig, owl2.Owl2Config),
            (AutoModel, owl2.Owl2Model),
            (AutoModelForImageTextToText, owl2.Owl2ForConditionalGeneration),
            (AutoModelForMultimodalLM, owl2.Owl2ForConditionalGeneration),
            (AutoProcessor, owl2.Owl2Processor),
        ],
    )
    def test_they_load_both_layouts(self, directories, auto, expected):
        assert [type(auto.from_pretrained(directory)) for directory in directories] == [expected, expected]

    def test_the_image_processor_loads_where_transformers_can_do_without_torchvision(self, directories):
        if tuple(map(int, version("transformers").split(".")[:2])) < (5, 23):
            pytest.skip("AutoImageProcessor needs torchvision in older transformers")
        from transformers import AutoImageProcessor

        assert isinstance(AutoImageProcessor.from_pretrained(directories[1]), owl2.Owl2ImageProcessor)

    def test_transformers_serve_finds_the_class_by_its_name(self):
        assert MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES["mplug_owl2"] == "Owl2ForConditionalGeneration"


class TestImport:
    def test_it_loads_none_of_the_extras(self):
        # transformers itself imports accelerate where it is installed
        extras = ("av", "matplotlib", "easy_vqa", "gguf", "datasets", "peft", "pandas")
        code = f"import owl2, owl2.cli.main, sys; print([name for name in {extras} if name in sys.modules])"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert result.stdout.strip() == "[]"

    def test_every_public_name_exists(self):
        assert all(hasattr(owl2, name) for name in owl2.__all__)


class TestVersion:
    def test_the_version_is_the_same_everywhere(self):
        newest = re.search(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
        cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)
        assert newest and cited and newest[1] == cited[1] == PROJECT["version"]


class TestPackaging:
    @pytest.mark.parametrize("file", ["cpu.txt", "oldest.txt", "vllm.txt"])
    def test_the_constraints_lie_within_the_declared_ranges(self, file):
        pinned = constraints(file)
        lines = PROJECT["dependencies"] + [
            line for extra in PROJECT["optional-dependencies"].values() for line in extra
        ]
        declared = {requirement.name: requirement.specifier for requirement in map(Requirement, lines)}
        outside = [name for name in pinned if name in declared and not declared[name].contains(pinned[name])]
        assert outside == []
        assert {Requirement(line).name for line in PROJECT["dependencies"]} <= set(pinned)

    def test_torch_is_the_same_release_in_all_constraints(self):
        assert len({constraints(file)["torch"] for file in ("cpu.txt", "oldest.txt", "newest.txt", "vllm.txt")}) == 1
        assert list(constraints("newest.txt")) == ["torch"]

    def test_the_oldest_constraints_are_the_lower_ends(self):
        pinned = constraints("oldest.txt")
        for requirement in map(Requirement, PROJECT["dependencies"]):
            if requirement.name != "torch":  # older releases have no CPU build everywhere
                lowest = next(part.version for part in requirement.specifier if part.operator == ">=")
                assert requirement.specifier.contains(pinned[requirement.name])
                assert pinned[requirement.name].startswith(lowest), requirement.name

    def test_doctor_knows_the_newest_versions_that_are_tested(self):
        pinned = constraints("cpu.txt")
        names = [Requirement(line).name for line in PROJECT["dependencies"]]
        assert {name: pinned[name] for name in names} == NEWEST_TESTED

    def test_the_allocator_settings_of_make_are_those_that_doctor_asks_for(self):
        exported = dict(re.findall(r"^export (MALLOC_\w+) := (\d+)$", (ROOT / "Makefile").read_text(), re.M))
        assert exported == MALLOC_SETTINGS

    def test_doctor_asks_for_the_declared_python(self):
        assert PROJECT["requires-python"] == PYTHON


def constraints(file: str) -> dict[str, str]:
    lines = (ROOT / "constraints" / file).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_metrics_are_usable_without_torch_and_transformers() -> None:
    code = (
        "import sys; sys.modules.update(torch=None, transformers=None, numpy=None)\n"
        "from owl2.evaluation.metrics import vqa_accuracy\n"
        "print(vqa_accuracy('dog', ['dog'] * 10))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout == "1.0\n", result.stderr


def _messages(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of what the errors of a module say; what is filled in reads as {}."""
    for node in ast.walk(ast.parse(source)):
        error = node.exc if isinstance(node, ast.Raise) else node
        if isinstance(error, ast.Call) and error.args and (error is not node or _makes_an_error(error)):
            message = error.args[0]
            for text in (message.body, message.orelse) if isinstance(message, ast.IfExp) else (message,):
                parts = text.values if isinstance(text, ast.JoinedStr) else [text]
                yield (
                    text.lineno,
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in parts),
                )


def _makes_an_error(call: ast.Call) -> bool:
    return re.search(r"(Error|Invalid\w+|_errors_of_saving|_plain_errors)$", ast.unparse(call.func)) is not None


def test_messages_begin_with_a_small_letter_or_a_name_and_end_without_a_period() -> None:
    """They follow "owl2: error: "; a name is a word with another capital in it, such as LoRA."""
    odd = [
        f"{path.relative_to(ROOT)}:{line}: {message}"
        for path in sorted((ROOT / "owl2").rglob("*.py"))
        for line, message in _messages(path.read_text())
        if re.match(r"[A-Z][a-z]*(?!\w|-[A-Z])", message) or re.search(r"[^.]\.$", message)
    ]
    assert not odd, "\n".join(odd)
