"""Results beside the published ones: the right cells, units, and reasons where they must not be compared."""

import json
from pathlib import Path

import pytest

from owl2.evaluation.results.published import published_table, published_tables
from owl2.evaluation.results.report import compare, read_results, write_report
from owl2.evaluation.tasks import TASKS, task_named


def write_result(run: Path, task: str, protocols: dict, **changes) -> Path:
    known = task_named(task)
    split = changes.get("split", known.splits[0])
    prompt = known.prompt_for(split, None)
    expected = known.counts.get(split)
    result = {
        "task": task,
        "title": known.title,
        "primary_metric": known.primary_metric,
        "default_protocol": known.protocols_for(prompt)[0],
        "split": split,
        "prompt": prompt,
        "suffix": known.suffix,
        "samples": expected or 10,
        "samples_of_split": expected or 10,
        "samples_expected": expected,
        "partial": False,
        "protocols": protocols,
    }
    (run / task).mkdir(parents=True)
    (run / task / "scores.json").write_text(json.dumps(result | changes))
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    per_subset = {"accuracy": 0.9, "precision": 0.8, "recall": 0.7, "f1": 0.75, "yes_ratio": 0.4}
    write_result(tmp_path, "pope", {"pope_official": {"summary": {"random": per_subset, "f1": 0.75}}})
    write_result(
        tmp_path, "okvqa", {"vqa_owl2": {"summary": {"accuracy": 0.6}}, "vqa_official": {"summary": {"accuracy": 0.7}}}
    )
    write_result(tmp_path, "mmlu", {"opencompass2023": {"summary": {"accuracy": 0.5}}}, partial=True, samples=100)
    return tmp_path


def test_ours_is_shown_in_the_unit_of_the_published_column(run):
    found = {(entry.table, entry.measure): entry for entry in compare(read_results([run]))}
    entry = found["paper_table_1", "okvqa"]
    assert (entry.ours, entry.published, entry.reasons) == (pytest.approx(60.0), 57.7, ())
    assert entry.protocol == "vqa_owl2"  # of the official scripts, though it is not our default
    assert found["supplement_table_3", "random.recall"].ours == pytest.approx(70.0)
    assert ("supplement_table_3", "popular.recall") not in found  # no such samples, no row


def test_the_report_says_why_a_comparison_would_not_be_fair(run):
    found = {entry.measure: entry for entry in compare(read_results([run]))}
    assert "100 of 14042 samples" in found["mmlu"].reasons[0]
    write_result(run / "other", "vqav2", {"vqa_official": {"summary": {"accuracy": 0.7}}}, split="val", suffix="")
    (entry, _) = compare(read_results([run / "other"]))
    assert any("test-dev" in reason for reason in entry.reasons) and "suffix ''" in entry.reasons


def test_markdown_json_and_charts_are_written(run, tmp_path):
    paths = write_report([run], tmp_path / "report")
    assert {path.name for path in paths} == {"report.md", "report.json", "radar.png", "bars.png"}
    assert all(path.stat().st_size > 5000 for path in paths if path.suffix == ".png")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| Ours |" in text and "+2.3" in text and "100 of 14042 samples" in text
    assert "vqa_official" in text and "(partial)" in text
    comparisons = json.loads((tmp_path / "report" / "report.json").read_text())["comparisons"]
    assert {entry["task"] for entry in comparisons} == {"pope", "okvqa", "mmlu"}


def test_two_runs_of_one_task_are_not_mixed(run, tmp_path):
    write_result(tmp_path / "again", "okvqa", {"vqa_owl2": {"summary": {"accuracy": 0.1}}})
    with pytest.raises(ValueError, match="okvqa has results in"):
        read_results([run, tmp_path / "again"])


def test_prompts_of_one_task_are_reported_together_each_where_it_belongs(tmp_path):
    """TextVQA with and without OCR words are two columns; of two runs that fit one cell the fairer one is shown."""
    for name, key, value in (("space", "without_ocr", 0.5), ("ocr", "with_ocr", 0.6)):
        protocols = {"vqa_owl2": {"summary": {"accuracy": value, key: value}}}
        write_result(tmp_path / name, "textvqa", protocols, prompt=name)
    for name, value in (("question", 0.1), ("short", 0.4)):
        protocols = {"exact_match": {"summary": {"accuracy": value}}}
        write_result(tmp_path / name, "msvd_qa", protocols, prompt=name)
    paths = write_report([tmp_path / name for name in ("space", "ocr", "question", "short")], tmp_path / "report")
    text = paths[0].read_text()
    row = next(line for line in text.splitlines() if line.startswith("| Ours |"))
    assert " 50.0 | 60.0 |" in row and "40.0" in text and "| 10.0 |" not in text
    assert "msvd_qa (test, prompt short): exact_match" in text
    comparisons = json.loads(paths[1].read_text())["comparisons"]
    assert {entry["ours"] for entry in comparisons if entry["task"] == "msvd_qa"} == {10.0, 40.0}


def test_another_number_of_judge_runs_is_a_reason(tmp_path):
    judged = {"judge": "gpt-4-0613", "runs": 1, "prompts": {"mmvet": {"own_words": False}}, "failures": [{}]}
    write_result(tmp_path, "mmvet", {"mmvet_official": {"summary": {"total": 0.3}, "judged_by": judged}})
    assert {entry.reasons for entry in compare(read_results([tmp_path]))} == {("1 runs of the judge, not 5",)}


FAIR = {"flickr30k", "okvqa", "textvqa", "agieval", "mme", "mmvet", "mmhal"}
"""Whose split, prompt and protocol are the paper's, by Table 10 of its supplement and the official scripts."""


OWN = {"easy_vqa", "quality", "scenes", "scenes_easy", "scenes_hard", "scenes_simple"}
"""Benchmarks that the paper does not report."""


def test_every_default_result_has_a_reason_unless_it_is_asked_and_scored_as_in_the_paper(tmp_path):
    fair, drawn = set(), set()
    for name in TASKS:
        task = task_named(name)
        if not task.paper_results:
            continue
        protocols = task.protocols_for(task.prompt_for(task.splits[0], None))
        summary: dict = {}
        for key in task.paper_results.values():
            parent, parts = summary, key.rpartition(":")[2].split(".")
            for part in parts[:-1]:
                parent = parent.setdefault(part, {})
            parent[parts[-1]] = 0.5
        write_result(tmp_path / name, name, {protocol: {"summary": summary} for protocol in protocols})
        found = compare(read_results([tmp_path / name]))
        drawn.add(name)
        if not any(entry.reasons for entry in found):
            fair.add(name)
    assert fair == FAIR and drawn == {*TASKS} - OWN


def reasons(run: Path, task: str, protocol: str, measure: str, **changes) -> tuple[str, ...]:
    write_result(run, task, {protocol: {"summary": {"accuracy": 0.5, "with_ocr": 0.5}}}, **changes)
    return next(entry.reasons for entry in compare(read_results([run])) if entry.measure == measure)


def test_bbhs_prompts_say_how_they_are_not_the_papers(tmp_path):
    """The paper says 0-shot, while its baselines are those of three exemplars (specification, 13.2)."""
    for prompt, text in (("oc_cot3", "0-shot, this prompt shows three"), ("oc_0shot", "only since after the paper")):
        (reason,) = reasons(tmp_path / prompt, "bbh", "opencompass2023", "bbh", prompt=prompt)
        assert text in reason


def test_another_protocol_and_another_frame_are_reasons(tmp_path):
    found = reasons(
        tmp_path / "a", "mmlu", "opencompass2023_gen", "mmlu", prompt="generate", default_protocol="opencompass2023_gen"
    )
    assert found[1:] == ("prompt generate", "protocol opencompass2023_gen, not opencompass2023")
    changes = {"prompt_format": "raw", "prompt_format_expected": "chat"}
    assert reasons(tmp_path / "b", "okvqa", "vqa_owl2", "okvqa", **changes) == ("without the chat template",)
    changes = {"prompt_format": "raw", "prompt_format_expected": "raw"}
    assert reasons(tmp_path / "c", "okvqa", "vqa_owl2", "okvqa", **changes) == ()


def test_the_prompt_with_ocr_words_is_the_one_of_its_own_column(tmp_path):
    (reason,) = reasons(tmp_path, "textvqa", "vqa_owl2", "textvqa_ocr", prompt="ocr")
    assert "with OCR words is not published" in reason


def test_runs_in_both_frames_are_reported_together(tmp_path):
    for sent in ("chat", "raw"):
        changes = {"prompt_format": sent, "prompt_format_expected": "chat"}
        reasons(tmp_path / sent, "bbh", "opencompass2023", "bbh", **changes)
    text = write_report([tmp_path / "chat", tmp_path / "raw"], tmp_path)[0].read_text()
    rows = [line for line in text.splitlines() if line.startswith("| BBH |")]
    assert [row.split(" | ")[4] for row in rows] == ["chat", "raw"]


def test_reasons_are_given_for_splits_and_prompts_that_there_are():
    for name in TASKS:
        task = task_named(name)
        assert set(task.not_comparable) <= {*task.splits, *task.prompts} and not {*task.splits} & {*task.prompts}, name


def test_a_run_without_results_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no result"):
        read_results([tmp_path])


def test_every_measure_that_tasks_claim_is_in_the_published_tables():
    for name in TASKS:
        for table, measure in task_named(name).paper_results:
            known = published_table(table)
            assert measure in [m for reference in known.references for m in known.measures(reference)], (name, measure)


def test_every_published_measure_of_the_paper_has_a_task():
    claimed = {key for name in TASKS for key in task_named(name).paper_results}
    wanted = {
        (table.name, measure)
        for table in published_tables().values()
        for reference in table.references
        for measure, value in zip(table.measures(reference), reference.values, strict=True)
        if value is not None
    }
    assert wanted - claimed == set()
