"""What the fields of a record mean, and that nothing which a model would need is dropped without a word."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from owl2.data.check import RecordCheck
from owl2.data.formats import ProblemKind, RecordFile
from owl2.data.mixture import Mixture, MixtureRecipe, SourceRecipe
from owl2.data.tables import summary_lines

Record = dict[str, Any]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    Image.new("L", (4, 4)).save(tmp_path / "v.gif")
    return tmp_path


def llava(question: str, answer: str = "Red.", **fields: Any) -> Record:
    return {**fields, "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}


def chat(question: Any, answer: Any = "Red.", **fields: Any) -> Record:
    return {**fields, "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def opened(root: Path, *records: Record) -> RecordFile:
    (root / "f.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return RecordFile(root / "f.jsonl")


def problems(root: Path, record: Record) -> list[tuple[str, str]]:
    return [(problem.kind, problem.text) for problem in opened(root, record).examine(0)[1]]


def only_problem(root: Path, record: Record) -> tuple[str, str]:
    (problem,) = problems(root, record)
    return problem


FORMS = pytest.mark.parametrize("form", [llava, chat])


class TestMediaFields:
    @FORMS
    @pytest.mark.parametrize("name", ["image", "images", "image_path", "image_paths"])
    @pytest.mark.parametrize("value", ["a.png", ["a.png"], [{"path": "a.png", "bytes": None}]])
    def test_all_names_of_images_are_read_in_both_forms(self, root: Path, form: Any, name: str, value: Any) -> None:
        assert opened(root, form("<image>?", **{name: value}))[0].images == (str(root / "a.png"),)

    @FORMS
    @pytest.mark.parametrize("name", ["video", "videos", "video_path", "video_paths"])
    def test_all_names_of_videos_are_read_in_both_forms(self, root: Path, form: Any, name: str) -> None:
        part = opened(root, form("<video>?", **{name: "v.gif"}))[0].messages[0]["content"][0]
        assert part == {"type": "video", "path": str(root / "v.gif")}

    @FORMS
    def test_an_image_without_a_placeholder_is_a_problem_that_says_what_to_write(self, root: Path, form: Any) -> None:
        kind, text = only_problem(root, form("What?", images=["a.png"]))
        assert kind == ProblemKind.PLACEHOLDERS and "write <image>" in text

    def test_an_image_may_be_named_twice_but_not_two_images_in_two_fields(self, root: Path) -> None:
        assert not problems(root, llava("<image>?", image="a.png", images=["a.png"]))
        assert only_problem(root, llava("<image>?", image="a.png", images=["v.gif"]))[0] == ProblemKind.PLACEHOLDERS

    @FORMS
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("img", "a.png"),
            ("image_file", "a"),
            ("Picture", ["x"]),
            ("photo_url", "https://example.org/a"),
            ("frames", ["1.jpg", "2.jpg"]),
            ("image2", {"path": "a.png"}),
            ("audios", ["a.wav"]),
            ("speech", "a"),
        ],
    )
    def test_a_field_that_may_hold_media_and_is_not_read_is_a_problem(
        self, root: Path, form: Any, name: str, value: Any
    ) -> None:
        kind, text = only_problem(root, form("What?", **{name: value}))
        assert kind == ProblemKind.NOT_READ and repr(name) in text

    def test_beside_an_image_that_is_read_only_another_file_is_a_problem(self, root: Path) -> None:
        about = {"image_id": "coco_17", "image_url": "http://example.org/a.jpg", "image_size": [4, 4], "num_images": 1}
        assert not problems(root, llava("<image>?", image="a.png", **about))
        assert only_problem(root, llava("<image>?", image="a.png", image_2="b.png"))[0] == ProblemKind.NOT_READ


class TestPlaceholdersOfOthers:
    @FORMS
    @pytest.mark.parametrize(
        "token",
        [
            "<img>a.png</img>",
            "<image_1>",
            "<image1>",
            "<image 2>",
            "<ImageHere>",
            "<Image>",
            "<IMAGE>",
            "<image_placeholder>",
            "<|image_pad|>",
            "<|vision_start|><|image_pad|><|vision_end|>",
            "<|image_1|>",
            "<start_of_image>",
            "<image_soft_token>",
            "<IMG_CONTEXT>",
            "[IMG]",
            "[IMG_BREAK]",
            "<im_patch>",
            "</image>",
            "<video_1>",
            "<|video_pad|>",
            "<VideoHere>",
            "<vid>",
            "<audio>",
            "<|AUDIO|>",
            "<SpeechHere>",
            "<bbox>",
        ],
    )
    def test_a_placeholder_of_another_model_is_a_problem_that_says_what_to_write(
        self, root: Path, form: Any, token: str
    ) -> None:
        kind, text = only_problem(root, form(f"Picture 1: {token}\nWhat?"))
        assert kind == ProblemKind.PLACEHOLDERS
        assert "which looks like the place of" in text and ("write" in text or "leave it out" in text)

    @pytest.mark.parametrize(
        "text",
        [
            'The tag <img src="a.png"> and <img> show it.',
            "Use `<image_1>` and ```\n<audio>\n``` for that.",
            "an <imagination> [1] of images",
            "a < b, [IMPORTANT], <picture>",
        ],
    )
    def test_other_texts_are_texts(self, root: Path, text: str) -> None:
        assert not problems(root, llava(text))

    def test_in_a_text_part_only_control_tokens_are_problems(self, root: Path) -> None:
        assert not problems(root, chat([{"type": "text", "text": "What is <image_1> and <audio>?"}]))
        assert problems(root, chat([{"type": "text", "text": "<|image_pad|>What?"}]))

    @FORMS
    def test_an_image_in_an_answer_is_a_problem(self, root: Path, form: Any) -> None:
        kind, text = only_problem(root, form("What?", "Here: <image>", images=["a.png"]))
        assert kind == ProblemKind.PLACEHOLDERS and "turn 2 is the assistant's" in text


class TestOtherFields:
    @FORMS
    def test_a_system_field_is_the_system_turn(self, root: Path, form: Any) -> None:
        for name in ("system", "system_prompt"):
            conversation = opened(root, form("What?", **{name: "Be short."}))[0]
            assert conversation.messages[0] == {"role": "system", "content": [{"type": "text", "text": "Be short."}]}
            assert len(conversation.messages) == 3

    def test_two_different_system_texts_are_a_problem(self, root: Path) -> None:
        record = chat("What?", system="Be short.")
        record["messages"].insert(0, {"role": "system", "content": "Be short."})
        assert not problems(root, record)
        record["messages"][0]["content"] = "Be long."
        assert only_problem(root, record)[0] == ProblemKind.NOT_READ

    def test_turns_keep_their_numbers_behind_a_system_field(self, root: Path) -> None:
        assert "turn 2 (assistant)" in only_problem(root, chat("What?", "", system="Be short."))[1]

    @FORMS
    @pytest.mark.parametrize("name", ["tools", "functions", "rejected", "history", "objects"])
    def test_fields_that_would_be_dropped_are_problems(self, root: Path, form: Any, name: str) -> None:
        assert only_problem(root, form("What?", **{name: [{"name": "zoom"}]}))[0] == ProblemKind.NOT_READ
        assert not problems(root, form("What?", **{name: []}))

    @FORMS
    @pytest.mark.parametrize("name", ["tool_calls", "function_call", "reasoning_content", "thinking", "images"])
    def test_fields_of_turns_that_would_be_dropped_are_problems(self, root: Path, form: Any, name: str) -> None:
        record = form("What?")
        next(iter(record.values()))[1][name] = "zoom"
        assert only_problem(root, record)[0] == ProblemKind.NOT_READ

    @pytest.mark.parametrize("record", [{"instruction": "a", "output": "b"}, {"query": "a", "response": "b"}])
    def test_a_record_of_another_form_is_named(self, root: Path, record: Record) -> None:
        assert "looks like" in only_problem(root, record)[1]

    def test_roles_and_contents_may_stand_in_conversations(self, root: Path) -> None:
        record = {"conversations": chat("<image>?")["messages"], "image": "a.png"}
        assert opened(root, record)[0][1:] == opened(root, chat("<image>?", images=["a.png"]))[0][1:]

    def test_other_fields_are_counted(self, root: Path) -> None:
        check = RecordCheck(opened(root, llava("a", model="x"), llava("a", model="y", topic=1), llava("a")))
        assert not list(check)
        assert check.summary.unread == {"model": 2, "topic": 1}
        assert any("'model'" in line and "2" in line for line in summary_lines(check.summary))

    def test_an_answer_of_characters_without_a_width_is_empty(self, root: Path) -> None:
        assert only_problem(root, llava("a", "\u200b\ufeff"))[0] == ProblemKind.EMPTY_TURN


class TestWeights:
    @pytest.mark.parametrize("said", [{"weight": 0}, {"weight": 0.0}, {"loss": False}, {"train": False}])
    @FORMS
    def test_turns_that_are_not_to_be_learnt_have_the_weight_0(self, root: Path, form: Any, said: Record) -> None:
        record = form("What?")
        turns = next(iter(record.values()))
        turns += form("Again?")[next(iter(record))]
        turns[1].update(said)
        messages = opened(root, record)[0].messages
        assert [message.get("weight") for message in messages] == [None, 0, None, None]

    @pytest.mark.parametrize("said", [{"weight": 1}, {"loss": True, "weight": 1}, {"weight": None}])
    def test_turns_that_are_learnt_say_nothing(self, root: Path, said: Record) -> None:
        record = chat("What?")
        record["messages"][1].update(said)
        assert "weight" not in opened(root, record)[0].messages[1]

    @pytest.mark.parametrize(
        ("turn", "said", "kind"),
        [
            (1, {"weight": 0.5}, ProblemKind.MALFORMED),
            (1, {"loss": "no"}, ProblemKind.MALFORMED),
            (1, {"loss": True, "weight": 0}, ProblemKind.MALFORMED),
            (1, {"loss_scale": 2}, ProblemKind.NOT_READ),
            (1, {"mask": True}, ProblemKind.NOT_READ),
            (0, {"train": True}, ProblemKind.NOT_READ),
            (1, {"weight": 0}, ProblemKind.NO_ANSWER),
        ],
    )
    def test_what_cannot_be_followed_is_a_problem(self, root: Path, turn: int, said: Record, kind: str) -> None:
        record = chat("What?")
        record["messages"][turn].update(said)
        assert only_problem(root, record)[0] == kind


def test_a_check_finds_the_control_tokens_of_llama_without_a_model(root: Path) -> None:
    check = RecordCheck(opened(root, llava("Which tag?", "<s>old</s>"), llava("<unk>"), llava("a <b>b</b>")))
    found = [(finding.record, finding.kind) for finding in check]
    assert found == [(0, ProblemKind.CONTROL_TOKEN)] * 2 + [(1, ProblemKind.CONTROL_TOKEN)]


def test_a_source_whose_pictures_are_all_left_out_is_refused(root: Path) -> None:
    def mixture(*records: Record) -> Mixture:
        file = opened(root, *records).path
        source = SourceRecipe("mine", "records", {"file": file, "images": root})
        return Mixture(MixtureRecipe(file, root / "cache", 0, (source,)))

    with pytest.raises(ValueError, match="no valid record of the source 'mine' has an image or a video, though 1"):
        mixture(llava("Hi"), llava("<image>?", image="none.png"))
    total = mixture(llava("Hi"), llava("<image>?", image="a.png"), llava("<image>?", image="none.png"))
    assert total.records("mine").total_size()[1:] == (1, 0, 2)
