"""MMLU, BBH, AGIEval and ARC, from files in their official forms to scores."""

import csv
import json
from pathlib import Path

import pytest

from owl2.evaluation.metrics.agieval import AGIEVAL_DATASETS
from owl2.evaluation.prediction_files import PREDICTIONS, read_predictions
from owl2.evaluation.results.scoring import score_directory
from owl2.evaluation.task import Prediction, Ranking
from owl2.evaluation.tasks import bbh, mmlu, task_named
from owl2.evaluation.tasks.shared.arc import first_option

QUESTION = ["What is 1 + 1?", "None", "2", "1,000", "NA", "B"]


@pytest.fixture
def mmlu_files(tmp_path: Path) -> Path:
    for subject in mmlu.SUBJECTS:
        for split, count in (("dev", 6), ("test", 1)):
            path = tmp_path / "mmlu" / split / f"{subject}_{split}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", newline="") as file:
                csv.writer(file).writerows([[f"{split} {number}?", *QUESTION[1:]] for number in range(count)])
    return tmp_path


def test_mmlu_prompts_have_the_layout_of_the_original(mmlu_files):
    sample = task_named("mmlu").load(mmlu_files, "test", "rank")[0]
    assert sample.id == "abstract_algebra-0" and sample.gold == "B" and not sample.uses_chat_template
    assert sample.choices == (" A", " B", " C", " D")
    assert sample.preamble == (
        "The following are multiple choice questions (with answers) about  abstract algebra.\n\n"
    )
    assert len(sample.shots) == 5
    assert sample.shots[1] == "dev 1?\nA. None\nB. 2\nC. 1,000\nD. NA\nAnswer: B\n\n"
    assert sample.prompt == "test 0?\nA. None\nB. 2\nC. 1,000\nD. NA\nAnswer:"


def test_mmlu_runs_from_files_to_macro_and_micro_scores(mmlu_files, predicted):
    result = score_directory(predicted("mmlu", mmlu_files, limit=10))
    assert set(result["protocols"]) == {"opencompass2023", "classic"}
    summary = result["protocols"]["opencompass2023"]["summary"]
    assert summary["accuracy"] == summary["macro"] and len(summary["per_subject"]) == 10


def test_shots_are_left_out_where_the_context_is_too_short(mmlu_files, model, predicted, monkeypatch):
    directory = predicted("mmlu", mmlu_files, limit=1)
    _, (full,) = read_predictions(directory / PREDICTIONS)
    (directory / PREDICTIONS).unlink()
    assert full.prompt.count("Answer:") == 6
    monkeypatch.setattr(model.config.text_config, "max_position_embeddings", 150)
    _, (short,) = read_predictions(predicted("mmlu", mmlu_files, limit=1) / PREDICTIONS)
    assert 1 <= short.prompt.count("Answer:") < 6
    assert short.prompt.endswith("test 0?\nA. None\nB. 2\nC. 1,000\nD. NA\nAnswer:")


TURN = "There is a single choice question about abstract algebra. Answer the question by replying A, B, C or D.\n"
TURN += "Question: {}?\nA. None\nB. 2\nC. 1,000\nD. NA\nAnswer: "


def test_mmlus_generated_answers_follow_shots_as_turns_of_the_conversation(mmlu_files, predicted):
    """OpenCompass' gen configurations: a turn of the user and its answer for each shot (specification, 13.1)."""
    directory = predicted("mmlu", mmlu_files, prompt="generate", limit=1)
    _, (record,) = read_predictions(directory / PREDICTIONS)
    shots = "".join(f"USER: {TURN.format(f'dev {number}')} ASSISTANT: B</s>" for number in range(5))
    assert record.prompt == f"{shots}USER: {TURN.format('test 0')} ASSISTANT: "
    assert list(score_directory(directory)["protocols"]) == ["opencompass2023_gen", "opencompass_gen"]
    (directory / PREDICTIONS).unlink()
    _, (record,) = read_predictions(
        predicted("mmlu", mmlu_files, prompt="generate", limit=1, prompt_format="raw") / PREDICTIONS
    )
    shots = "".join(f"{TURN.format(f'dev {number}')}B\n" for number in range(5))
    assert record.prompt == shots + TURN.format("test 0")


def test_turns_are_left_out_from_the_last_on_where_the_context_is_too_short(
    mmlu_files, model, processor, predicted, monkeypatch
):
    shots = "".join(f"USER: {TURN.format(f'dev {number}')} ASSISTANT: B</s>" for number in range(2))
    expected = f"{shots}USER: {TURN.format('test 0')} ASSISTANT: "
    room = len(processor.encode_prompt(expected)["input_ids"]) + 10
    shorter = expected[: len(shots) // 2] + expected[len(shots) :]
    for context, prompt in ((room, expected), (room - 1, shorter)):
        monkeypatch.setattr(model.config.text_config, "max_position_embeddings", context)
        directory = predicted("mmlu", mmlu_files, prompt="generate", limit=1)
        assert [record.prompt for record in read_predictions(directory / PREDICTIONS)[1]] == [prompt]
        (directory / PREDICTIONS).unlink()


def test_prompts_whose_letters_are_ranked_are_raw_in_either_format(mmlu_files, predicted):
    prompts = []
    for prompt_format in ("chat", "raw"):
        directory = predicted("mmlu", mmlu_files, limit=1, prompt_format=prompt_format)
        header, (record,) = read_predictions(directory / PREDICTIONS)
        assert header["prompt_format"] == "raw"
        prompts.append(record.prompt)
    assert prompts[0] == prompts[1] and prompts[0].startswith("The following are")


def test_a_prompt_that_never_fits_is_refused_with_its_numbers(mmlu_files, model, predicted, monkeypatch):
    monkeypatch.setattr(model.config.text_config, "max_position_embeddings", 20)
    with pytest.raises(ValueError, match=r"sample abstract_algebra-0 of mmlu takes \d+ tokens .* holds 20"):
        predicted("mmlu", mmlu_files, limit=1)


def test_a_broken_row_of_mmlu_names_file_and_line(mmlu_files):
    path = mmlu_files / "mmlu" / "test" / "virology_test.csv"
    for answer in ("F", "AB", ""):
        path.write_text(f"a,b,c,d,e,B\na,b,c,d,e,{answer}\n")
        with pytest.raises(
            ValueError, match=r"virology_test\.csv, line 2: expected a question, four choices and a lett"
        ):
            task_named("mmlu").load(mmlu_files, "test", "rank")
    path.write_bytes(b"caf\xe9,b,c,d,e,B\n")
    with pytest.raises(ValueError, match=r"virology_test\.csv: not UTF-8 at byte 3"):
        task_named("mmlu").load(mmlu_files, "test", "rank")


def ranked(name: str, gold: str, values: tuple[float, ...], tokens: tuple[int, ...] = (), **details) -> Prediction:
    choices = tuple(f" {letter}" for letter in "ABCDE"[: len(values)])
    return Prediction(name, "", Ranking(choices, values, tokens or (1,) * len(values), 0.0, 0), gold, details)


def test_mmlu_macro_averages_subjects_and_micro_questions():
    records = [
        ranked("a", "A", (-1.0, -2.0, -3.0, -3.0), subject="anatomy"),
        ranked("b", "B", (-1.0, -2.0, -3.0, -3.0), subject="virology"),
        ranked("c", "B", (-1.0, -0.5, -3.0, -3.0), subject="virology"),
        ranked("d", "D", (-1.0, -0.5, -3.0, -3.0), subject="virology"),
    ]
    task = task_named("mmlu")
    assert task.score(records, "opencompass2023").summary["accuracy"] == pytest.approx((1 + 1 / 3) / 2)
    assert task.score(records, "classic").summary["accuracy"] == pytest.approx(2 / 4)
    assert task.score(records, "classic").parsed == ["A", "A", "B", "B"]


def test_mmlus_generated_answers_are_the_first_capital_or_later_the_first_option():
    texts = ["B", "The answer is C", "Answer: D", "none"]
    records = [Prediction(str(n), "", text, "C", {"subject": "anatomy"}) for n, text in enumerate(texts)]
    task = task_named("mmlu")
    assert task.score(records, "opencompass2023_gen").parsed == ["B", "T", "A", ""]
    assert task.score(records, "opencompass_gen").parsed == ["B", "C", "D", ""]


@pytest.fixture
def bbh_files(tmp_path: Path) -> Path:
    for name in bbh.NAMES:
        folder = tmp_path / "bbh"
        for part in ("bbh", "cot-prompts"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        target = "(A)" if name in bbh.CHOICE_TASKS else "True"
        examples = {"canary": "x", "examples": [{"input": f"{name}?\nOptions:\n(A) yes\n(B) no", "target": target}]}
        (folder / "bbh" / f"{name}.json").write_text(json.dumps(examples))
        text = "canary GUID\n-----\nSolve it.\n\nQ: first\nA: Let's think step by step.\nSo the answer is (A).\n"
        (folder / "cot-prompts" / f"{name}.txt").write_text(text)
    return tmp_path


def test_bbh_prompts_are_those_of_opencompass(bbh_files):
    task = task_named("bbh")
    question = "boolean_expressions?\nOptions:\n(A) yes\n(B) no"
    assert task.load(bbh_files, "test", "oc_cot3")[0].prompt == (
        "Follow the given examples and answer the question.\nSolve it.\n\nQ: first\nA: Let's think step by step.\n"
        f"So the answer is (A).\n\nQ: {question}\nA: Let's think step by step."
    )
    assert task.load(bbh_files, "test", "oc_0shot")[0].prompt == (
        f"Question: {question}\n You must give your final answer by starting with 'So the answer is' "
    )
    assert task.load(bbh_files, "test", "lmeval_0shot")[0].prompt == f"Solve it.\n\nQ: {question}\nA:"
    assert task.decoding_of("oc_cot3").stop == ("Q:",)


@pytest.mark.parametrize("prompt", ["oc_cot3", "oc_0shot", "lmeval_0shot"])
def test_bbhs_prompts_are_sent_in_the_chat_frame_and_without_it(bbh_files, predicted, prompt):
    """Generated text prompts are put into the chat template, and are also run without it (specification, 13)."""
    raw = task_named("bbh").load(bbh_files, "test", prompt)[0].prompt
    for prompt_format, sent in (("chat", f"USER: {raw} ASSISTANT: "), ("raw", raw)):
        directory = predicted("bbh", bbh_files, prompt=prompt, prompt_format=prompt_format, limit=1)
        header, (record,) = read_predictions(directory / PREDICTIONS)
        assert (record.prompt, header["prompt_format"]) == (sent, prompt_format)
        (directory / PREDICTIONS).unlink()


def test_bbh_runs_from_files_to_a_score(bbh_files, predicted):
    result = score_directory(predicted("bbh", bbh_files, limit=2))
    assert result["samples_of_split"] == 27 and result["partial"]
    assert 0 <= result["protocols"]["opencompass2023"]["summary"]["accuracy"] <= 1


def test_bbh_averages_its_tasks():
    def answered(name: str, text: str, gold: str) -> Prediction:
        return Prediction(f"{name}{text}", "", text, gold, {"task": name})

    records = [
        answered("snarks", "I see. So the answer is (B).", "(B)"),
        answered("snarks", "the answer is (A)", "(B)"),
        answered("navigate", "So the answer is Yes.", "Yes"),
        answered("web_of_lies", "So the answer is yes.", "Yes"),
    ]
    task = task_named("bbh")
    assert task.score(records, "opencompass2023").summary["accuracy"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert task.score(records, "opencompass2026").summary["accuracy"] == pytest.approx((0.5 + 1 + 1) / 3)


@pytest.fixture
def agieval_files(tmp_path: Path) -> Path:
    folder = tmp_path / "agieval" / "data" / "v1"
    folder.mkdir(parents=True)
    for name, kind in AGIEVAL_DATASETS.items():
        row = {"passage": None, "question": "Which?", "options": ["(A)x", "(B)y", "(C)z", "(D)w"], "label": "B"}
        if kind == "multiple":
            row["label"] = ["A", "C"]
        if kind == "cloze":
            row |= {"options": None, "label": None, "answer": "\\frac{1}{2}"}
        (folder / f"{name}.jsonl").write_text(json.dumps({**row, "other": None}) + "\n")
    return tmp_path


def test_agieval_prompts_are_those_of_their_programs(agieval_files):
    task = task_named("agieval")
    official = {sample.details["dataset"]: sample for sample in task.load(agieval_files, "test", "official")}
    assert official["sat-en"].prompt == (
        "Q: Which? Answer Choices: (A)x (B)y (C)z (D)w\nA: Among A through D, the answer is"
    )
    assert official["jec-qa-kd"].prompt == "问题：Which? 选项：(A)x (B)y (C)z (D)w\n答案：从A到D, 我们应选择"
    assert official["math"].prompt == "Q: Which?\nA: The answer is"
    assert official["gaokao-mathcloze"].prompt == "问题：Which?\n答案："
    mixed = {sample.details["dataset"]: sample for sample in task.load(agieval_files, "test", "opencompass_mixed")}
    assert mixed["lsat-ar"].prompt == (
        "The following is a LSAT Analytical Reasoning question. Please select the correct answer.\nWhich?\n"
        "(A)x\n(B)y\n(C)z\n(D)w\nThe answer is"
    )
    assert mixed["lsat-ar"].choices == (" A", " B", " C", " D", " E")
    assert mixed["gaokao-chinese"].prompt.startswith("以下是一道中国高考语文选择题，请选择正确的答案。\nWhich?")
    assert mixed["gaokao-chinese"].prompt.endswith("\n答案是：") and mixed["gaokao-chinese"].choices[0] == "A"
    assert not mixed["math"].choices and mixed["math"].prompt.endswith("Which?The answer is ")


def test_agieval_frames_what_is_generated_and_ranks_bare_text(agieval_files, predicted):
    directory = predicted("agieval", agieval_files)
    header, records = read_predictions(directory / PREDICTIONS)
    assert header["prompt_format"] == "chat"
    for record in records:
        assert record.prompt.startswith("USER: ") is isinstance(record.raw, str), record.id


@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        ("sat-en", {"label": "b"}, "'label' is 'b' in sat-en: expected a letter"),
        ("sat-en", {"label": None, "answer": "B"}, "'label' is None in sat-en"),
        ("jec-qa-kd", {"label": []}, r"'label' is \[\] in jec-qa-kd"),
        ("math", {"answer": None, "label": "2"}, "'answer' is None, not a string"),
        ("sat-en", {"passage": 7}, "'passage' is 7, not a string"),
        ("sat-en", {"options": "(A)x"}, "'options' is '\\(A\\)x', not a list of texts"),
    ],
)
def test_a_broken_row_of_agieval_is_named_by_file_and_line(agieval_files, name, changes, problem):
    path = agieval_files / "agieval" / "data" / "v1" / f"{name}.jsonl"
    row = path.read_text()
    path.write_text(row + json.dumps({**json.loads(row), **changes}) + "\n")
    with pytest.raises(ValueError, match=rf"{name}\.jsonl, record 2: {problem}"):
        task_named("agieval").load(agieval_files, "test", "official")


def test_agieval_runs_ranked_and_generated_sets_together(agieval_files, predicted):
    result = score_directory(predicted("agieval", agieval_files))
    assert set(result["protocols"]) == {"opencompass2023"} and result["samples"] == 21
    assert len(result["protocols"]["opencompass2023"]["summary"]["per_set"]) == 21


def test_agieval_compares_several_letters_as_a_set_only_officially():
    records = [
        Prediction("1", "", "The answers are C and A", ["A", "C"], {"dataset": "jec-qa-kd"}),
        Prediction("2", "", r"It is $\boxed{\frac12}$", "\\frac{1}{2}", {"dataset": "math"}),
    ]
    task = task_named("agieval")
    assert task.score(records, "agieval_official").scores == [1.0, 1.0]
    assert task.score(records, "opencompass2023").scores == [0.0, 1.0]


@pytest.fixture
def arc_files(tmp_path: Path) -> Path:
    (tmp_path / "arc").mkdir()
    rows = []
    for name, labels, key in (("q1", "ABCD", "B"), ("q2", "1234", "3"), ("q3", "ABC", "A"), ("q4", "ABCDE", "E")):
        choices = [{"text": f"text {label}", "label": label} for label in labels]
        rows.append({"id": name, "question": {"stem": f"{name}?", "choices": choices}, "answerKey": key})
    hub = {"text": ["a", "b", "c", "d"], "label": ["A", "B", "C", "D"]}
    rows.append({"id": "q5", "question": "q5?", "choices": hub, "answerKey": "D"})
    for difficulty in ("Challenge", "Easy"):
        (tmp_path / "arc" / f"ARC-{difficulty}-Dev.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_arc_reads_letters_and_numbers_in_both_forms(arc_files):
    samples = task_named("arc_challenge").load(arc_files, "dev", "letter")
    assert [sample.gold for sample in samples] == ["B", "C", "A", "E", "D"]
    assert samples[1].prompt == "q2?\nA. text 1\nB. text 2\nC. text 3\nD. text 4\nAnswer:"
    assert task_named("arc_easy").load(arc_files, "dev", "text")[0].choices == (
        " text A",
        " text B",
        " text C",
        " text D",
    )


@pytest.mark.parametrize("prompt", ["letter", "text", "generate"])
def test_arc_runs_from_files_to_scores(arc_files, predicted, prompt):
    result = score_directory(predicted("arc_challenge", arc_files, prompt=prompt))
    expected = {"letter": {"oc_ppl_letter"}, "text": {"oc_ppl_text", "lmeval"}, "generate": {"oc_gen"}}
    assert set(result["protocols"]) == expected[prompt]
    for protocol, entry in result["protocols"].items():
        assert entry["summary"].get("left_out", 2) == 2, protocol


def test_arc_of_opencompass_leaves_out_questions_without_four_choices_and_says_so():
    records = [
        ranked("1", "A", (-1.0, -2.0, -3.0, -4.0), choices=4),
        ranked("2", "A", (-1.0, -2.0, -3.0), choices=3),
        ranked("3", "B", (-1.0, -2.0, -3.0, -4.0), choices=4),
    ]
    scores = task_named("arc_easy").score(records, "oc_ppl_letter")
    assert scores.summary == {"accuracy": 0.5, "left_out": 1} and scores.scores == [1.0, None, 0.0]
    assert task_named("arc_easy").score(records, "lmeval").summary["accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("text", "letter"), [("The answer is C", "C"), ("B. because A", "B"), ("(D)", "D"), ("none", ""), ("xAy", "A")]
)
def test_the_first_option_of_an_answer_is_found(text, letter):
    assert first_option(text, "ABCD") == letter


def test_a_protocol_that_cannot_score_a_prompt_is_refused(arc_files, predicted):
    directory = predicted("arc_challenge", arc_files)
    with pytest.raises(ValueError, match="lmeval cannot score the prompt 'letter'"):
        score_directory(directory, "lmeval")
