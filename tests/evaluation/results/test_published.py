"""The published tables: what the paper says, and how a result of ours is shown beside it."""

import pytest

from owl2.evaluation.results.published import PublishedTable, markdown, published_table, published_tables

PAPER = [f"paper_table_{number}" for number in range(1, 5)]
SUPPLEMENT = [f"supplement_table_{number}" for number in range(3, 8)]
NAMES = [*PAPER, "readme", *SUPPLEMENT]

# Restated from the paper: the mPLUG-Owl2 rows.
HEADLINES = {
    "paper_table_1": [137.3, 85.1, 79.4, 57.7, 56.1, 54.5, 54.3, 58.2, 68.7],
    "paper_table_2": [1450.19, 64.5, 36.2, 57.8, 62.9],
    "paper_table_3": [53.4, 45.0, 32.7, 65.8, 79.9],
    "supplement_table_4": [65.4, 29.2, 69.7, 61.7, 67.0, 60.0, 79.5],
    "supplement_table_5": [41.3, 27.4, 27.5, 27.9, 30.3, 7.7, 36.2],
    "supplement_table_6": [0.7318, 0.5531, 0.5864, 0.5374, 0.7136, 0.5788, 0.7338, 0.6294],
    "supplement_table_7": [2.17, 0.56, 3.67, 2.25, 2.17, 2.75, 1.25, 2.08, 1.50, 1.75],
}


def values(table: PublishedTable, model: str = "mPLUG-Owl2") -> dict[str, float | None]:
    (row,) = [row for row in table.rows if row.model == model]
    return dict(zip([column.key for column in table.columns], row.values, strict=True))


def lines(text: str) -> list[list[str]]:
    """The cells of the Markdown table in `text`."""
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("|")
    ]


class TestData:
    def test_all_tables_are_there_each_with_its_source(self):
        tables = published_tables()
        assert sorted(tables) == sorted(NAMES)
        for number in range(1, 5):
            assert tables[f"paper_table_{number}"].source.endswith(f"Modality Collaboration, Table {number}")
        for number in range(3, 8):
            assert tables[f"supplement_table_{number}"].source.endswith(f"supplement, Table {number}")
        assert "README" in tables["readme"].source

    @pytest.mark.parametrize("name", NAMES)
    def test_a_row_has_a_value_for_every_column_and_refers_to_nothing_else(self, name):
        table = published_table(name)
        keys = [column.key for column in table.columns]
        assert len(set(keys)) == len(keys)
        for row in table.rows:
            assert len(row.values) == len(keys), row.model
            assert len(row.details) == len(table.details), row.model
            assert {*row.marks, *row.deviations, *row.reconstructed} <= set(keys), row.model
            assert {row.mark, *row.marks.values()} <= {"", *table.legend}, row.model
            assert (row.section in table.sections) if table.sections else row.section is None, row.model

    @pytest.mark.parametrize("name", HEADLINES)
    def test_the_results_of_mplug_owl2_are_those_of_the_paper(self, name):
        assert list(values(published_table(name)).values()) == HEADLINES[name]

    def test_video_results_are_kept_apart_by_how_answers_are_judged(self):
        exact, judged = published_table("paper_table_4").references
        assert (exact.section, exact.values) == ("exact_match", (23.6, None, 42.4, None, 61.6, None))
        assert (judged.section, judged.values) == ("gpt_assisted", (46.7, 2.9, 65.4, 3.5, 67.1, 3.7))

    def test_pope_of_mplug_owl2_is_that_of_the_paper(self):
        pope = values(published_table("supplement_table_3"))
        assert [pope[f"{split}.f1"] for split in ("random", "popular", "adversarial")] == [87.85, 85.60, 83.80]
        assert [pope[f"{split}.accuracy"] for split in ("random", "popular", "adversarial")] == [88.28, 86.20, 84.12]

    def test_the_readme_repeats_the_paper(self):
        paper = {key: value for name in PAPER[:3] for key, value in values(published_table(name)).items()}
        assert values(published_table("readme")) == paper

    def test_an_unknown_table_is_refused_with_the_names_there_are(self):
        with pytest.raises(ValueError, match="no published table 'table_9'.*paper_table_1.*supplement_table_7"):
            published_table("table_9")


class TestTranscription:
    """Numbers of one row that determine each other in the source do so in the data."""

    @pytest.mark.parametrize("model", [row.model for row in published_table("supplement_table_3").rows])
    @pytest.mark.parametrize("split", ["random", "popular", "adversarial"])
    def test_f1_of_pope_is_the_harmonic_mean_of_precision_and_recall(self, model, split):
        pope = values(published_table("supplement_table_3"), model)
        precision, recall = pope[f"{split}.precision"], pope[f"{split}.recall"]
        assert pope[f"{split}.f1"] == pytest.approx(2 * precision * recall / (precision + recall), abs=0.015)

    def test_what_was_completed_begins_as_printed_and_fits_whole_counts(self):
        """1,500 questions each are answered yes and no: true and false positives give all five numbers."""
        for row in published_table("supplement_table_3").rows:
            pope = values(published_table("supplement_table_3"), row.model)
            for key, printed in row.reconstructed.items():
                split = key.partition(".")[0]
                assert f"{pope[key]:.2f}".startswith(printed)
                true = round(pope[f"{split}.recall"] * 15)
                yes = round(pope[f"{split}.yes_ratio"] * 30)
                counted = {
                    "accuracy": (true + 1500 - (yes - true)) / 3000,
                    "precision": true / yes,
                    "f1": 2 * true / (1500 + yes),
                    "yes_ratio": yes / 3000,
                }
                for measure, fraction in counted.items():
                    assert pope[f"{split}.{measure}"] == pytest.approx(100 * fraction, abs=0.0051), (row.model, measure)

    def test_the_score_of_mmhal_is_the_mean_of_its_eight_types(self):
        for row in published_table("supplement_table_7").rows:
            assert row.values[0] == pytest.approx(sum(row.values[2:]) / 8, abs=0.011), row.model


class TestMarkdown:
    def test_our_row_and_the_difference_stand_below_mplug_owl2(self):
        table = lines(markdown(published_table("paper_table_3"), {"mmlu": 54.04, "arc_c": 65.79, "agieval": 30}))
        assert table[0] == ["Method", "MMLU", "BBH", "AGIEval", "ARC-c", "ARC-e"]
        assert table[-3:] == [
            ["mPLUG-Owl2", "53.4", "45.0", "32.7", "65.8", "79.9"],
            ["Ours", "54.0", "-", "30.0", "65.8", "-"],
            ["Difference to mPLUG-Owl2", "+0.6", "-", "-2.7", "+0.0", "-"],
        ]

    def test_a_reason_has_a_column_of_its_own_in_our_row(self):
        reasons = {"vqav2": "val instead | of test-dev"}
        table = lines(markdown(published_table("paper_table_1"), {"vqav2": 70.0, "gqa": 56.1}, reasons))
        assert table[0][-1] == "Why not a fair comparison"
        ours = [line for line in table if line[-1]][2:]  # behind the header and its rule
        assert [line[0] for line in ours] == ["Ours"]
        assert ours[0][-1] == "General VQA VQAv2: val instead \\| of test-dev"

    def test_the_layout_of_the_paper_is_kept(self):
        table = lines(markdown(published_table("paper_table_1")))
        assert table[0][:3] == ["Method", "#Params", "Image Caption<br>COCO"]
        assert [line[0] for line in table if set(line[1:]) == {""}] == ["*Generalists*", "*Specialists*"]
        assert "LLaVA-1.5 | 7.2B | - | - | 78.5 | - | 62.0 | 50.0 | 46.1 | 58.2† | 66.8" in [
            " | ".join(line) for line in table
        ]
        assert {len(line) for line in table} == {11}

    def test_a_video_result_stands_in_the_section_that_it_names(self):
        text = markdown(published_table("paper_table_4"), {"gpt_assisted.msvd_qa.score": 3.3})
        names = [line[0] for line in lines(text)]
        assert names[-3:] == ["mPLUG-Owl2", "Ours", "Difference to mPLUG-Owl2"]
        assert names.count("Ours") == 1
        assert lines(text)[-1][1:] == ["-", "-", "-", "-0.2", "-", "-"]

    def test_pope_is_shown_with_models_side_by_side(self):
        ours, reasons = {"popular.f1": 80.0}, {"popular.f1": "500 questions"}
        table = lines(markdown(published_table("supplement_table_3"), ours, reasons))
        assert table[0][:4] == ["Datasets", "Metrics", "mPLUG-Owl2", "Shikra"]
        assert table[0][-3:] == ["Ours", "Difference to mPLUG-Owl2", "Why not a fair comparison"]
        (line,) = [line for line in table if line[:2] == ["Popular", "F1-Score (↑)"]]
        assert line[2:4] + line[-3:] == ["85.60", "83.16", "80.00", "-5.60", "500 questions"]

    def test_deviations_and_the_marks_of_models_are_shown(self):
        assert "| 7.7 | 36.2±0.1 |" in markdown(published_table("supplement_table_5"))
        text = markdown(published_table("supplement_table_4"))
        assert "| mPLUG-Owl† |" in text
        assert "- †: the model is carefully optimized for MMBench" in text

    @pytest.mark.parametrize("name", NAMES)
    def test_every_table_renders_with_as_many_cells_in_each_line(self, name):
        table = published_table(name)
        key = table.measures(table.references[0])[0]
        assert len({len(line) for line in lines(markdown(table, {key: 1.0}, {key: "a reason"}))}) == 1

    def test_a_result_or_a_reason_without_its_column_is_refused(self):
        table = published_table("paper_table_4")
        with pytest.raises(ValueError, match="no msvd_qa.score; its measures are exact_match.msrvtt_qa.accuracy, "):
            markdown(table, {"msvd_qa.score": 3.0})
        with pytest.raises(ValueError, match="a reason is given for mmlu, but no result"):
            markdown(published_table("paper_table_3"), {}, {"mmlu": "0-shot"})
