"""What the repository promises as a whole: Auto classes, commands and examples in the documents, agreeing versions."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from helpers import GOLDENS
from packaging.requirements import Requirement
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

import owl2
from owl2.cli.main import COMMANDS
from owl2.environment import MALLOC_SETTINGS, PYTHON

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture(scope="module")
def directories(tmp_path_factory) -> list[Path]:
    """A model in the official layout, and the same as we save it."""
    official, ours = tmp_path_factory.mktemp("official"), tmp_path_factory.mktemp("ours")
    for file in (GOLDENS / "a" / "config.json", GOLDENS / "a" / "model.safetensors", *GOLDENS.glob("tokenizer/tok*")):
        shutil.copyfile(file, official / file.name)
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


class TestDocuments:
    def test_every_make_command_in_them_is_a_target(self):
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
        named = {
            name for page in DOCUMENTS for name in re.findall(r"^make ([\w-]+)|`make ([\w-]+)", page.read_text(), re.M)
        }
        named = {first or second for first, second in named}
        assert {"quickstart", "test"} <= named <= targets

    def test_every_owl2_command_in_them_exists_and_the_other_way_round(self):
        named = {
            name
            for page in DOCUMENTS
            for name in re.findall(r"(?<!from )\bowl2 (?:--debug )?([a-z][a-z-]+) (?=[-.A-Z`]|  )", page.read_text())
        }
        named |= {name for page in DOCUMENTS for name in re.findall(r"`owl2 ([a-z-]+)`", page.read_text())}
        assert named <= set(COMMANDS)
        assert set(COMMANDS) - {"quickstart"} <= named

    @pytest.mark.parametrize("page", ["README.md", "docs/use/chat.md", "docs/use/batches-and-videos.md"])
    def test_the_python_examples_run(self, page, directories, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for name in ("picture.png", "cat.png", "a.png", "b.png"):
            Image.linear_gradient("L").save(name)
        Image.new("RGB", (9, 9)).save("clip.mp4", format="GIF", save_all=True, append_images=[Image.new("RGB", (9, 9))])
        names = {
            "model": AutoModelForImageTextToText.from_pretrained(directories[1]),
            "processor": AutoProcessor.from_pretrained(directories[1]),
        }
        blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
        assert blocks
        for block in blocks:
            for directory in ('"runs/quickstart-nano/checkpoint"', '"DIR"'):
                block = block.replace(directory, repr(str(directories[1])))
            exec(block, names)

    def test_every_link_between_them_leads_somewhere(self):
        for page in DOCUMENTS:
            for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
                assert link.startswith("http") or (page.parent / link).exists(), f"{page.name}: {link}"

    def test_the_version_is_the_same_everywhere(self):
        newest = re.search(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
        cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)
        assert newest and cited and newest[1] == cited[1] == PROJECT["version"]


class TestPackaging:
    @pytest.mark.parametrize("file", ["cpu.txt", "oldest.txt"])
    def test_the_constraints_lie_within_the_declared_ranges(self, file):
        pinned = constraints(file)
        lines = PROJECT["dependencies"] + [
            line for extra in PROJECT["optional-dependencies"].values() for line in extra
        ]
        declared = {requirement.name: requirement.specifier for requirement in map(Requirement, lines)}
        outside = [name for name in pinned if name in declared and not declared[name].contains(pinned[name])]
        assert outside == []
        assert {Requirement(line).name for line in PROJECT["dependencies"]} <= set(pinned)

    def test_the_oldest_constraints_are_the_lower_ends(self):
        pinned = constraints("oldest.txt")
        for requirement in map(Requirement, PROJECT["dependencies"]):
            if requirement.name != "torch":  # older releases have no CPU build everywhere
                lowest = next(part.version for part in requirement.specifier if part.operator == ">=")
                assert requirement.specifier.contains(pinned[requirement.name])
                assert pinned[requirement.name].startswith(lowest), requirement.name

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
