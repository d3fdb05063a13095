"""Table 8."""

from importlib import import_module

from owl2.data.sources.mixture_sizes import TABLE_8


def test_the_table_adds_up_to_the_papers_total_of_its_twelve_sources() -> None:
    assert len(TABLE_8) == 12 and sum(row.size for row in TABLE_8) == 1_230_000
    for row in TABLE_8:
        assert callable(import_module(f"owl2.data.sources.{row.source}").conversations)
