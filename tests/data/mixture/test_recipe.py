"""The recipe of a mixture."""

import re
from pathlib import Path

import pytest
import yaml

from owl2.data.mixture import load_mixture_recipe
from owl2.data.sources.mixture_sizes import TABLE_8

ROOT = Path(__file__).parents[3]


def load(tmp_path: Path, text: str):
    path = tmp_path / "mixture.yaml"
    path.write_text(text)
    return load_mixture_recipe(path)


def test_the_papers_mixture_has_its_twelve_sources_at_their_sizes() -> None:
    recipe = load_mixture_recipe(ROOT / "owl2" / "recipes" / "mixtures" / "table8.yaml")
    assert [(source.format, source.size) for source in recipe.sources] == [(row.source, row.size) for row in TABLE_8]
    assert all(source.weight is None for source in recipe.sources)


def test_paths_begin_at_the_recipe_or_at_its_root(tmp_path) -> None:
    beside = load(tmp_path, "cache: c\nsources: {slim_orca: {annotations: a.jsonl}}")
    assert beside.cache == tmp_path / "c"
    assert beside.sources[0].arguments == {"annotations": tmp_path / "a.jsonl"}
    rooted = load(tmp_path, "cache: c\nroot: data\nsources: {slim_orca: {annotations: a.jsonl}}")
    assert rooted.cache == tmp_path / "c"
    assert rooted.sources[0].arguments == {"annotations": tmp_path / "data" / "a.jsonl"}


def test_a_source_is_named_freely_when_it_has_a_format(tmp_path) -> None:
    text = "cache: c\nsources: {mine: {format: records, file: f.jsonl, weight: 2.5}, o: {format: okvqa, %s}}"
    recipe = load(tmp_path, text % "questions: q, annotations: a, images: i, size: all")
    mine, okvqa = recipe.sources
    assert (mine.name, mine.format, mine.size, mine.weight) == ("mine", "records", None, 2.5)
    assert (okvqa.name, okvqa.format, okvqa.size, okvqa.weight) == ("o", "okvqa", None, None)


ORCA = "cache: c\nsources: {slim_orca: {annotations: a, %s}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cache: c\nsource: {}", r"unknown key 'source'; did you mean sources\?"),
        ("sources: {a: {}}", "'cache' is missing"),
        ("cache: c", "'sources' is missing"),
        ("cache: c\nsources: {}", "names no source"),
        ("cache: c\nsources: [a]", r"expected keys with values, found \['a'\]"),
        ("cache: 3\nsources: {a: {}}", "cache is 3, not a path"),
        ("cache: c\nseed: x\nsources: {a: {}}", "seed is 'x', not a whole number"),
        ("cache: c\nsources: {a: {format: vqa2}}", r"no format 'vqa2'; did you mean vqav2\?"),
        ("cache: c\nsources: {okqa: {}}", r"okqa: 'format' is missing"),
        ("cache: c\nsources: {slim_orca: }", "slim_orca: expected keys with values, found None"),
        ("cache: c\nsources: {slim_orca: {}}", "'annotations' is missing; slim_orca takes annotations"),
        (ORCA % "wieght: 1", r"unknown key 'wieght'; did you mean weight\?"),
        (ORCA % "images: i", "unknown key 'images'; there are format, size, weight, annotations"),
        (ORCA % "epoch: 1", "unknown key 'epoch'"),
        (ORCA % "size: 0", "size is 0, not a whole number above 0 or 'all'"),
        (ORCA % "size: 2.5", "size is 2.5"),
        (ORCA % "size: true", "size is True"),
        (ORCA % "weight: -1", "weight is -1, not a number above 0"),
        (ORCA % "weight: .inf", "weight is inf"),
        (ORCA % "weight: .nan", "weight is nan"),
        (ORCA % "weight: 1, weight: 2", "line 2: the key 'weight' is repeated"),
        ("cache: c\nsources: {a: {format: slim_orca, annotations: [1]}}", r"annotations is \[1\], not a path"),
        ("cache: [", "while parsing"),
        ("cache: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("cache: c\nsources: {../a: {}}", "../a: a source is named with letters"),
        (b"\xff\xfe\xff", "mixture.yaml"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(tmp_path, text, message) -> None:
    path = tmp_path / "mixture.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as error:
        load_mixture_recipe(path)
    assert str(path) in str(error.value)


def test_a_recipe_that_is_not_there_is_an_error(tmp_path) -> None:
    with pytest.raises(ValueError, match="there is no recipe"):
        load_mixture_recipe(tmp_path / "none.yaml")


def test_the_recipes_in_the_documents_are_in_order(tmp_path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "train" / "mixtures.md").read_text(), re.S)
    assert blocks
    for block in blocks:
        assert len(load(tmp_path, block).sources) == len(yaml.safe_load(block)["sources"])
