"""The files in `deploy` fit the program: metrics, settings, commands and constraints exist."""

import json
import re
import tomllib
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from model_server import Server, user

from owl2.serving.settings import load_settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


@pytest.fixture(scope="module")
def exported(server: Server) -> set[str]:
    """Names of all that a server exports after a request."""
    server.client().chat.completions.create(model="tiny", messages=[user("hello")], max_tokens=2)
    with urllib.request.urlopen(f"{server.url}/metrics") as answer:
        return set(re.findall(r"^(owl2_\w+)", answer.read().decode(), re.M))


def test_every_metric_of_the_dashboard_is_exported_and_the_other_way_round(exported: set[str]) -> None:
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [str(variable["query"]) for variable in dashboard["templating"]["list"]]
    shown = set(re.findall(r"\bowl2_\w+", " ".join(queries)))
    assert shown - exported == set()
    of_a_histogram = re.compile(r"_(created|sum|count)$")
    assert {name for name in exported if not of_a_histogram.search(name)} == shown


def test_panels_lie_side_by_side() -> None:
    panels = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24


def test_the_settings_and_those_that_the_unit_starts_with_are_valid() -> None:
    load_settings(DEPLOY / "server.yaml")
    unit = (DEPLOY / "owl2.service").read_text()
    assert re.search(r"^ExecStart=\S+/owl2 serve --model \S+ --settings %d/server.yaml$", unit, re.M)
    waited = int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.M)[1])
    assert waited > load_settings(DEPLOY / "server.yaml").shutdown_seconds


def test_prometheus_asks_for_the_path_of_the_metrics(server: Server) -> None:
    jobs: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())["scrape_configs"]
    assert len({job["job_name"] for job in jobs}) == len(jobs)
    for job in jobs:
        with urllib.request.urlopen(server.url + job["metrics_path"]) as answer:
            assert answer.status == 200


def test_images_are_built_from_files_and_extras_that_exist() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.M) for name in line.split()]
    copied += re.findall(r"-c (\S+)", text)
    assert [name for name in copied if not (ROOT / name).exists()] == []
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = {extra for extras in re.findall(r"'\.\[([\w,]+)\]'", text) for extra in extras.split(",")}
    assert wanted and wanted <= set(declared)
    targets = set(re.findall(r"^FROM \S+ AS (\w+)$", text, re.M)) - {"source", "base"}
    guide = (ROOT / "docs" / "use" / "serving-at-scale.md").read_text()
    assert targets == set(re.findall(r"--target (\w+)", guide))
