"""What may import what: our own modules run down the layers that pyproject.toml lists, packages are those declared."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

NOT_DECLARED = {
    "lmms_eval": "runs us as its plugin, and is not on PyPI in the form that does",
    "vlmeval": "runs us as its plugin, and is not on PyPI",
}
"""Packages that are imported and not declared, with the reason."""

NOT_IMPORTED = {
    "sentencepiece": "transformers reads tokenizer.model with it",
    "protobuf": "transformers reads tokenizer.model with it",
    "gguf": "transformers reads GGUF files with it",
    "tensorboard": "torch.utils.tensorboard writes with it",
}
"""Packages that are declared and not imported, with the reason."""


def test_imports_run_down_the_layers_without_circles(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = pytest.importorskip("importlinter.cli", reason="import-linter comes with the extra lint")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("logging.config.dictConfig", lambda _: None)  # it would silence our loggers for later tests
    status = cli.lint_imports(config_filename="pyproject.toml", no_cache=True)
    assert status == 0, capsys.readouterr().out


def normalized(name: str) -> str:
    """A distribution's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def imported_packages() -> set[str]:
    """Third-party packages that any module of owl2 imports, at its top or within a function."""
    names: set[str] = set()
    for file in (ROOT / "owl2").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(str(node.module).partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"owl2"}


def declared_packages() -> set[str]:
    extras = PROJECT["optional-dependencies"]
    lists = [PROJECT["dependencies"], *(extras[name] for name in extras if name not in ("dev", "lint"))]
    return {normalized(Requirement(each).name) for listed in lists for each in listed}


def test_packages_are_imported_if_and_only_if_they_are_declared() -> None:
    pytest.importorskip("multistorageclient", reason="the names of packages are read from what is installed")
    distributions = packages_distributions()
    imported = {name: [normalized(each) for each in distributions.get(name, [name])] for name in imported_packages()}
    declared = declared_packages()
    undeclared = {name for name, found in imported.items() if not declared & set(found)}
    assert undeclared == set(NOT_DECLARED)
    unused = declared - {each for found in imported.values() for each in found}
    assert unused == set(NOT_IMPORTED)


def test_each_module_of_training_has_its_tests_in_a_file_of_its_name() -> None:
    modules = [
        file.relative_to(ROOT / "owl2")
        for file in (ROOT / "owl2" / "training").rglob("*.py")
        if file.stem != "__init__"
    ]
    wanted = {ROOT / "tests" / module.with_name(f"test_{module.name}") for module in modules}
    assert len(wanted) > 40 and [file for file in wanted if not file.is_file()] == []
