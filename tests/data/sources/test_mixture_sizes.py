"""Table 8 beside what was found."""

from importlib import import_module

from owl2.data.sources.mixture_sizes import TABLE_8, Comparison, found_beside_expected


def test_the_table_adds_up_to_the_papers_total_of_its_twelve_sources() -> None:
    assert len(TABLE_8) == 12 and sum(row.size for row in TABLE_8) == 1_230_000
    for row in TABLE_8:
        assert callable(import_module(f"owl2.data.sources.{row.source}").conversations)


def test_found_numbers_stand_beside_the_tables_with_missing_and_own_sources() -> None:
    rows = found_beside_expected({"mine": 5, "vqav2": 82_783})
    assert [row.source for row in rows[:12]] == [row.source for row in TABLE_8]
    by_source = {row.source: row for row in rows}
    assert by_source["vqav2"] == Comparison("vqav2", 82_783, 83_000)
    assert by_source["okvqa"] == Comparison("okvqa", 0, 9_000)
    assert rows[12:] == [Comparison("mine", 5, None), Comparison("total", 82_788, 1_230_000)]
