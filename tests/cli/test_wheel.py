"""The wheel: what is not Python is in it, and what it installs works far from the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE_DATA = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]


def test_every_file_of_the_package_that_is_not_python_is_declared_as_data():
    present = {path for path in (ROOT / "owl2").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    declared = set()
    for package, patterns in PACKAGE_DATA.items():
        folder = ROOT.joinpath(*package.split("."))
        assert (folder / "__init__.py").is_file(), f"{package} is no package: its data would be left out"
        declared |= {path for pattern in patterns for path in folder.glob(pattern)}
    assert {path for path in present if path.suffix != ".py"} <= declared


def test_every_folder_with_python_files_is_a_package():
    folders = {path.parent for path in (ROOT / "owl2").rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def run(*command: object, **options) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, env=environment, timeout=600, **options
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The `bin` of an environment that holds the wheel, and sees the packages of this one."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "owl2", source / "owl2", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source)
    (wheel,) = folder.glob("owl2-*.whl")
    environment = folder / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "shared.pth").write_text(sysconfig.get_path("purelib"))  # after its own packages, so that ours is found
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel)
    return environment / "bin"


@pytest.mark.slow
class TestInstalled:
    def test_it_is_the_wheel_and_not_the_checkout(self, installed, tmp_path):
        code = "import owl2; print(owl2.__file__, owl2.__version__)"
        file, version = run(installed / "python", "-c", code, cwd=tmp_path).split()
        assert Path(file).is_relative_to(installed.parent) and version == "0.1.0"

    def test_doctor_finds_it_working(self, installed, tmp_path):
        assert "owl2 is ready" in run(installed / "owl2", "doctor", cwd=tmp_path)

    def test_recipes_are_found_and_shown(self, installed, tmp_path):
        assert "small/pretrain" in run(installed / "owl2", "recipes", cwd=tmp_path)
        shown = run(installed / "owl2", "train", "small/pretrain", "--dry-run", cwd=tmp_path)
        assert "stage: pretrain" in shown
        assert list(tmp_path.iterdir()) == []

    def test_a_model_answers(self, installed, official, tmp_path):
        options = ["-m", official, "--max-new-tokens", "3", "--json", "hello"]
        assert '"text"' in run(installed / "owl2", "chat", *options, cwd=tmp_path)

    def test_prompts_of_judges_and_published_results_are_found(self, installed, tmp_path):
        code = (
            "from importlib.resources import files\n"
            "print(files('owl2.evaluation').joinpath('prompts/mmvet.txt').read_text()[:9])\n"
            "from owl2.evaluation.results.published import tables; print('tables')\n"
        )
        assert "tables" in run(installed / "python", "-c", code, cwd=tmp_path)
