"""What the documents promise: links and citations lead somewhere, lines fit, commands exist, examples run."""

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise, takewhile
from pathlib import Path
from typing import get_args, get_origin

import pytest
import yaml
from helpers import write_official
from PIL import Image
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from transformers import AutoModelForImageTextToText, AutoProcessor

from owl2.cli.main import COMMANDS
from owl2.training.recipe.base import Section
from owl2.training.recipe.data import SourceSettings
from owl2.training.recipe.model import AbstractorSizes, VisionSizes
from owl2.training.recipe.schema import Recipe
from owl2.training.recipe.yaml_file import load_recipe

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")),
    *(ROOT / "docs").rglob("*.md"),
]
GUIDES = [page for page in PAGES if page.name != "CHANGELOG.md"]
SPECIFICATION = ROOT / "docs" / "evaluation" / "specification.md"

NUMBER = r"\d+(?:\.\d+)?"
CITATION = re.compile(rf"specification,? (?:sections? )?({NUMBER}(?:(?:, | and | to |-)(?:and )?{NUMBER})*)", re.I)


def named(paths: list[Path]) -> list:
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in paths]


def prose(page: Path) -> str:
    """The text of a page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_key(model: type[BaseModel], keys: list[str]) -> bool:
    """Whether nested sections of a recipe have this key; what lies in a dictionary is the user's."""
    field = model.model_fields.get(keys[0])
    if field is None or len(keys) == 1:
        return field is not None
    if get_origin(field.annotation) is dict:
        return True
    kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
    sections = [kind for kind in kinds if issubclass(kind, BaseModel)]
    return any(is_key(section, keys[1:]) for section in sections) if sections else True


def defaults_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, object]]:
    """The keys of a recipe with their defaults, sizes of parts aside; sections go down to their keys."""
    for name, field in model.model_fields.items():
        kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        sections = [kind for kind in kinds if issubclass(kind, Section)]
        if get_origin(field.annotation) is not dict and sections and not {VisionSizes, AbstractorSizes} & set(sections):
            if str not in kinds:
                yield from defaults_of(sections[0], f"{prefix}{name}.")
                continue
        default = field.get_default(call_default_factory=True)
        yield prefix + name, list(default) if isinstance(default, tuple) else default


def links(page: Path) -> list[str]:
    """Targets of links and pictures in Markdown and HTML."""
    return re.findall(r"""\]\(([^)\s]+)\)|(?:href|src|srcset)="([^"]+)\"""", prose(page))


def cited_sections(text: str) -> set[str]:
    """Sections of the specification that a text names: "specification, 6.4 and 10 to 12" names four."""
    found = set()
    for citation in CITATION.findall(re.sub(r"\s*\n[ #*]*", " ", text)):
        numbers = re.findall(NUMBER, citation)
        found |= set(numbers)
        for (first, last), between in zip(pairwise(numbers), re.split(NUMBER, citation)[1:], strict=False):
            if between.strip() in ("to", "-") and "." not in first + last:
                found |= {str(number) for number in range(int(first), int(last))}
    return found


@pytest.mark.parametrize("page", named(PAGES))
def test_lines_are_at_most_120_columns_wide(page: Path) -> None:
    """Rows of tables and single words that cannot be broken, such as addresses, may be longer."""
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
    long = [number for number, line in lines if len(line) > 120 and line[0] != "|" and " " in line.strip()]
    assert long == []


@pytest.mark.parametrize("page", named(PAGES))
def test_links_lead_to_files_and_headings_of_the_repository(page: Path) -> None:
    for link in (first or second for first, second in links(page)):
        if link.startswith(("http:", "https:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and ROOT in target.parents, f"{link}: no such file"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


def test_every_page_can_be_reached_from_the_index() -> None:
    reached, waiting = set(), [ROOT / "docs" / "index.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        targets = [(page.parent / (a or b).partition("#")[0]).resolve() for a, b in links(page)]
        waiting += [
            target for target in targets if target.suffix == ".md" and target.exists() and target not in reached
        ]
    assert set((ROOT / "docs").rglob("*.md")) <= reached


def test_citations_are_read_as_written() -> None:
    text = "(specification, 6.4 and 10 to 12), evaluation\n    specification, sections 2.1-2.3; Specification 13.2."
    assert cited_sections(text) == {"6.4", "10", "11", "12", "2.1", "2.3", "13.2"}


def test_every_citation_of_the_specification_is_a_heading_there() -> None:
    headings = set(re.findall(rf"^##+ ({NUMBER})", SPECIFICATION.read_text(encoding="utf-8"), re.M))
    files = [file for folder in ("owl2", "tests", "docs", "benchmarks") for file in (ROOT / folder).rglob("*.*")]
    texts = {file: file.read_text(encoding="utf-8") for file in files if file.suffix in (".py", ".md", ".yaml")}
    del texts[Path(__file__)]
    cited = {file: cited_sections(text) for file, text in texts.items()}
    cited[SPECIFICATION] = set(re.findall(rf"section ({NUMBER})", texts[SPECIFICATION]))
    missing = {str(file.relative_to(ROOT)): sections - headings for file, sections in cited.items()}
    assert {file: sections for file, sections in missing.items() if sections} == {}
    assert sum(len(sections) for sections in cited.values()) > 60


def test_the_numbers_of_the_quickstart_are_those_of_its_page() -> None:
    readme, page = (ROOT / "README.md").read_text(), (ROOT / "docs" / "use" / "quickstart.md").read_text()
    (shown,) = re.findall(r"begin -->.*?(^\|.*?)\n\n.*?quickstart-numbers: end", readme, re.M | re.S)
    (results,) = re.findall(r"quickstart-results: begin(.*)quickstart-results: end", page, re.S)
    numbers = re.findall(r"[\d.]+(?:%| s| GiB)", shown)
    assert len(numbers) >= 3
    assert [number for number in numbers if number not in results] == []


def test_every_make_command_in_them_is_a_target() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    found = {
        name
        for page in GUIDES
        for name in re.findall(r"^make ([a-z][\w-]*)|`make ([a-z][\w-]*)", page.read_text(), re.M)
    }
    assert {"quickstart", "test"} <= {first or second for first, second in found} <= targets


def test_every_owl2_command_in_them_exists_and_the_other_way_round() -> None:
    """Those in blocks of the shell, and those that stand between backquotes in a text."""
    texts = [page.read_text(encoding="utf-8") for page in GUIDES]
    shell = "".join(block for text in texts for block in re.findall(r"^ *```bash\n(.*?)```", text, re.M | re.S))
    shown = re.findall(r"(?:^|-m )owl2 (?:--debug )?([a-z][a-z-]*)", shell, re.M)
    shown += re.findall(r"`owl2 (?:--debug )?([a-z][a-z-]*)[ `]", "".join(texts))
    assert set(shown) <= set(COMMANDS)
    assert set(COMMANDS) - {"quickstart"} <= set(shown)


def test_every_recipe_named_in_a_command_is_one_of_the_package() -> None:
    recipes = ROOT / "owl2" / "recipes"
    commands = [re.findall(r"owl2 (?:train|cost) ([a-z][\w/-]*)(?=[\s`])", page.read_text()) for page in GUIDES]
    named = {name for names in commands for name in names}
    assert {"pretrain", "small/pretrain"} <= named
    assert [name for name in named if not (recipes / f"{name}.yaml").is_file()] == []


def test_every_setting_of_a_recipe_in_a_command_is_accepted() -> None:
    count = 0
    for page in GUIDES:
        blocks = re.findall(r"^ *```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.M | re.S)
        for line in re.findall(r"owl2 (?:train|cost) (.+)", "".join(blocks).replace("\\\n", " ")):
            name, *words = shlex.split(line, comments=True)
            settings = list(takewhile(lambda word: "=" in word, words))
            if settings and not name.endswith(".yaml"):
                load_recipe(name, settings)
                count += 1
    assert count >= 15


def test_every_import_in_them_works() -> None:
    lines = {
        line for page in GUIDES for line in re.findall(r"^ *(from owl2[\w.]* import [\w, ]+)", page.read_text(), re.M)
    }
    assert len(lines) > 10
    for line in sorted(lines):
        if not line.startswith("from owl2.evaluation.harnesses"):  # these need the harness
            exec(line, {})


def test_every_recipe_key_in_them_exists() -> None:
    missing = set()
    for page in (ROOT / "docs" / "train").glob("*.md"):
        codes = "\n".join(re.findall(r"^ *```bash$.*?^ *```|`[^`\n]+`", page.read_text(encoding="utf-8"), re.M | re.S))
        for section, keys in re.findall(rf"\b({'|'.join(Recipe.model_fields)})\.([a-z_.]+[a-z])(?=[=`\s])", codes):
            if not is_key(Recipe, [section, *keys.split(".")]):
                missing.add(f"{page.name}: {section}.{keys}")
    assert missing == set()


def test_the_page_on_recipes_lists_every_key_with_its_default() -> None:
    page = (ROOT / "docs" / "reference" / "recipes.md").read_text(encoding="utf-8")
    (sources,) = re.findall(r"keys of a source:(.*?)^###", page, re.M | re.S)
    listed = dict(re.findall(r"^\| `([a-z_.]+)` \| (\S+|`[^`]+`) \|", page.replace(sources, ""), re.M))
    defaults = dict(defaults_of(Recipe))
    assert set(listed) == set(defaults)
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]*)\|", sources, re.M)))) == set(
        SourceSettings.model_fields
    )
    for key, default in listed.items():
        if default.startswith("`"):
            assert yaml.safe_load(default.strip("`")) == defaults[key] or default.strip("`") == str(defaults[key]), key
        else:
            assert (default == "-") == (defaults[key] is PydanticUndefined), key


def test_the_recipes_in_them_are_valid(tmp_path: Path) -> None:
    sections = {"base", *Recipe.model_fields}
    blocks = [block for page in GUIDES for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.M | re.S)]
    recipes = [tree for tree in map(yaml.safe_load, blocks) if isinstance(tree, dict) and set(tree) <= sections]
    assert len(recipes) >= 4
    for recipe in recipes:
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"base": "instruct_lora", **recipe}))
        load_recipe(tmp_path / "recipe.yaml")


def test_the_light_and_the_dark_figure_differ_in_colours_alone() -> None:
    light, dark = ((ROOT / "docs" / "images" / f"architecture-{name}.svg").read_text() for name in ("light", "dark"))
    bodies = {re.sub(r"<style>.*</style>", "", figure, flags=re.S) for figure in (light, dark)}
    assert light != dark and len(bodies) == 1


@pytest.mark.parametrize("page", ["README.md", "docs/use/chat.md", "docs/use/batches-and-videos.md"])
def test_the_python_examples_run(page: str, model_directory: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("picture.png", "cat.png", "a.png", "b.png"):
        Image.linear_gradient("L").save(name)
    Image.new("RGB", (9, 9)).save("clip.mp4", format="GIF", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    names = {
        "model": AutoModelForImageTextToText.from_pretrained(model_directory),
        "processor": AutoProcessor.from_pretrained(model_directory),
    }
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
    assert blocks
    for block in blocks:
        for directory in ('"runs/quickstart-nano/checkpoint"', '"DIR"'):
            block = block.replace(directory, repr(str(model_directory)))
        exec(block, names)


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory) -> Path:
    """A small model in the official layout."""
    return write_official(tmp_path_factory.mktemp("official"))
