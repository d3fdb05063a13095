"""The tables of a cost add up, and say what is assumed and what to change."""

import io
import re

import pytest
from rich.console import Console

from owl2.training.cost.estimate import Cost, recipe_cost
from owl2.training.cost.tables import cost_tables
from owl2.training.recipe.yaml_file import load_recipe


def shown(cost: Cost) -> str:
    printed = io.StringIO()
    console = Console(file=printed, width=200, highlight=False, soft_wrap=True)
    for each in cost_tables(cost):
        console.print(each)
    return printed.getvalue()


@pytest.fixture(scope="module")
def cost() -> Cost:
    return recipe_cost(load_recipe("pretrain"), 8, "h100")


def test_the_rows_of_every_table_add_up_to_its_last_one(cost: Cost) -> None:
    text, sums = shown(cost), 0
    for table in re.split(r"\n(?=┏)", text)[1:]:
        rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in table.splitlines() if line[:1] == "│"]
        names = [row[0] for row in rows]
        parts, whole = rows[: names.index("all")], rows[names.index("all")]
        for column in range(1, len(whole)):
            values = [float(row[column].replace(",", "").strip("-") or 0) for row in (*parts, whole)]
            assert sum(values[:-1]) == pytest.approx(values[-1], rel=2e-3, abs=0.3)
            sums += 1
    assert sums == 3 + 2 + 1


def test_below_them_stand_assumptions_and_whether_it_fits(cost: Cost) -> None:
    text = shown(cost)
    assert all(f"assumed: {each}" in text for each in cost.assumed)
    assert "it fits" in text and "DOES NOT FIT" not in text
    refused = shown(cost._replace(gpu=cost.gpu._replace(memory=2**20), advice={"use less": 3 * 2**30}))
    assert "IT DOES NOT FIT" in refused and "use less: 3.00 GiB, which is still too much" in refused
