"""A model directory with its own code, which loads with `trust_remote_code=True` where owl2 is not installed.

transformers copies the module that `auto_map` names and the files that this module names itself, from one flat folder.
The modules of `owl2.modeling` and `owl2.processing` are therefore written side by side, with imports of one level, and
the entry modules name all that they need.
"""

import json
import re
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from owl2.files import read_json_object

_PACKAGES = ("owl2.modeling", "owl2.processing")
_BESIDE = ("files", "labels")
"""Further modules of owl2 that these need."""

_RENAMED = {
    "configuration": "configuration_owl2",
    "owl2": "modeling_owl2",
    "processor": "processing_owl2",
    "image_processor": "image_processing_owl2",
}
"""Names that readers of model repositories know; other modules keep their own."""

_MODEL_CLASSES = {
    "AutoConfig": "configuration_owl2.Owl2Config",
    "AutoModel": "modeling_owl2.Owl2Model",
    "AutoModelForImageTextToText": "modeling_owl2.Owl2ForConditionalGeneration",
    "AutoModelForMultimodalLM": "modeling_owl2.Owl2ForConditionalGeneration",
}
_PROCESSOR_CLASS = {"AutoProcessor": "processing_owl2.Owl2Processor"}

_IMPORT = re.compile(r"^(\s*from \.)(\w+)( import)", re.MULTILINE)
_ABSOLUTE = re.compile(r"^(\s*from )owl2\.(\w+)( import)", re.MULTILINE)
_TEMPLATE_READ = 'resources.files(__package__).joinpath(name).read_text(encoding="utf-8")'


def write_hub_code(directory: str | Path) -> list[str]:
    """Adds the code to a model directory in our layout, and names it in its `config.json` and `processor_config.json`.

    Returns:
        The names of the files of code.

    Raises:
        ValueError: The directory holds no model in our layout with its processor.
    """
    path = Path(directory)
    for name, classes in (("config.json", _MODEL_CLASSES), ("processor_config.json", _PROCESSOR_CLASS)):
        if not (path / name).is_file():
            raise ValueError(f"{directory} has no {name}: code can be added to a model that save_pretrained wrote")
        settings: dict[str, Any] = read_json_object(path / name, "settings")
        if "visual_config" in settings:
            raise ValueError(f"{directory} is in the official layout: export it to ours, with --hub-code")
        settings["auto_map"] = classes
        (path / name).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    modules = flat_modules()
    for name, source in modules.items():
        (path / f"{name}.py").write_text(source, encoding="utf-8")
    return [f"{name}.py" for name in modules]


def push(directory: str | Path, repository: str) -> str:
    """Uploads a directory to a model repository of the hub, which is created (private) if there is none.

    The hub, the token and the rest are those of `huggingface_hub`: `HF_ENDPOINT`, `hf auth login`.

    Returns:
        The address of the commit.

    Raises:
        ValueError: The hub refuses, or cannot be reached.
    """
    api = HfApi()
    try:
        repository = api.create_repo(repository, private=True, exist_ok=True).repo_id
        commit = api.upload_folder(repo_id=repository, folder_path=directory, commit_message="Upload model by owl2")
    except Exception as error:  # of an HTTP library that depends on the version of huggingface_hub
        raise ValueError(f"{directory} was written, but not uploaded to {repository}: {error}") from error
    return str(commit.commit_url)


@cache
def flat_modules() -> dict[str, str]:
    """Source of each module by its name in the flat folder."""
    sources = {name: _flattened(text) for name, text in _sources().items()}
    sources["chat_templates"] = _with_templates(sources["chat_templates"])
    needed = {name: _IMPORT.findall(source) for name, source in sources.items()}
    imports = {name: {module for _, module, _ in found} for name, found in needed.items()}
    entries = [target.split(".")[0] for target in (*_MODEL_CLASSES.values(), *_PROCESSOR_CLASS.values())]
    used = _reachable(set(), *entries, imports=imports)
    for entry in ("modeling_owl2", "processing_owl2"):
        inner = sorted(_reachable(set(), entry, imports=imports) - imports[entry] - {entry})
        sources[entry] = _naming(sources[entry], inner)
    return {name: sources[name] for name in sorted(used)}


def _sources() -> dict[str, str]:
    """Source of each module under its new name.

    Two modules of one name would overwrite each other, which the assertion excludes.
    """
    found: dict[str, str] = {}
    files: list[Traversable] = [resources.files("owl2").joinpath(f"{name}.py") for name in _BESIDE]
    for package in _PACKAGES:
        files += [file for file in resources.files(package).iterdir() if file.name.endswith(".py")]
    for file in files:
        name = file.name.removesuffix(".py")
        if name != "__init__":
            assert _RENAMED.get(name, name) not in found, f"two modules are named {name}"
            found[_RENAMED.get(name, name)] = file.read_text(encoding="utf-8")
    return found


def _flattened(source: str) -> str:
    source = _ABSOLUTE.sub(r"\1.\2\3", source)
    return _IMPORT.sub(lambda match: f"{match[1]}{_RENAMED.get(match[2], match[2])}{match[3]}", source)


def _with_templates(source: str) -> str:
    """The module of chat templates with their texts in it: only `.py` files are copied."""
    assert _TEMPLATE_READ in source, "chat_templates.py reads its files in another way"
    folder = resources.files("owl2.processing")
    texts = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".jinja")}
    source = source.replace(_TEMPLATE_READ, "_TEXTS[name]").replace("from importlib import resources\n\n", "")
    return f"{source}\n\n_TEXTS = {json.dumps(texts, indent=4)}\n"


def _reachable(seen: set[str], *names: str, imports: dict[str, set[str]]) -> set[str]:
    for name in names:
        if name not in seen:
            seen.add(name)
            _reachable(seen, *imports[name], imports=imports)
    return seen


def _naming(source: str, modules: list[str]) -> str:
    """An entry module that names further modules, for transformers to copy; it does not import them."""
    lines = "".join(f"    from .{module} import *  # noqa: F403\n" for module in modules)
    return f"{source}\n\nif False:  # transformers copies the files that are named here\n{lines}" if modules else source
