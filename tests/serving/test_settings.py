"""Settings of `owl2 serve`: defaults, files, single values, errors."""

import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from owl2.cli.main import app
from owl2.serving.settings import ServeSettings, load_settings

DOCUMENT = Path(__file__).parents[2] / "docs" / "use" / "serving.md"


def test_the_document_shows_every_setting_with_its_default(tmp_path):
    shown = re.search(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[1]
    assert yaml.safe_load(shown) == ServeSettings().model_dump(mode="json")
    (tmp_path / "server.yaml").write_text(shown)
    assert load_settings(tmp_path / "server.yaml") == ServeSettings()


def test_single_values_change_those_of_a_file(tmp_path):
    (tmp_path / "server.yaml").write_text("port: 9000\nlimits: {images: 3, choices: 2}\n")
    settings = load_settings(tmp_path / "server.yaml", ["limits.images=5", "host=0.0.0.0"])
    assert (settings.port, settings.host, settings.limits.images, settings.limits.choices) == (9000, "0.0.0.0", 5, 2)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("limits.image=3", "limits.image"),
        ("limit.images=3", "limit"),
        ("limits.images=0", "limits.images"),
        ("limits.images=many", "limits.images"),
        ("fetch.redirects=4", "fetch.redirects"),
        ("port=70000", "port"),
        ("images", "KEY=VALUE"),
        ("=3", "KEY=VALUE"),
        ("port.x=3", "port"),
        ("port=[", "YAML"),
    ],
)
def test_a_wrong_one_is_named_in_one_line(override, said):
    result = CliRunner().invoke(app, ["serve", "-m", "nowhere", override])
    assert result.exit_code == 2 and said in result.stderr and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("contents", ["- a list", "port: [", "\x00"])
def test_a_file_that_holds_no_settings_is_refused(tmp_path, contents):
    (tmp_path / "server.yaml").write_text(contents)
    with pytest.raises(ValueError, match=r"server\.yaml"):
        load_settings(tmp_path / "server.yaml")
    with pytest.raises(ValueError, match="there is no settings file"):
        load_settings(tmp_path / "none.yaml")


def test_a_base_belongs_to_an_adapter_alone(directory):
    result = CliRunner().invoke(app, ["serve", "-m", str(directory), "--base", str(directory)])
    assert result.exit_code == 2 and "needs no base" in result.stderr
