"""Records of LLaVA conversations and chat messages, read from JSON lists and JSON lines."""

import json
import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from owl2.data.formats import Problem, ProblemKind, RecordFile
from owl2.data.media import MediaRoot
from owl2.data.records import Conversation

DOCS = Path(__file__).parents[2] / "docs"
SAMPLES = DOCS / "examples" / "instructions.jsonl"
IMAGE, VIDEO = {"type": "image"}, {"type": "video"}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def llava(*turns: str, **fields: Any) -> dict[str, Any]:
    speakers = ("human", "gpt")
    return {
        **fields,
        "conversations": [{"from": speakers[index % 2], "value": turn} for index, turn in enumerate(turns)],
    }


def chat(*contents: Any, **fields: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {
        **fields,
        "messages": [{"role": roles[index % 2], "content": content} for index, content in enumerate(contents)],
    }


GOOD = json.dumps(llava("a", "b"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with two images and a video, beside a file that lies outside."""
    (tmp_path / "outside.png").write_bytes(b"secret")
    root = tmp_path / "root"
    (root / "images").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(root / "images" / name)
    Image.new("L", (4, 4)).save(root / "v.gif")
    return root


def write(path: Path, contents: bytes | str | list[Any]) -> Path:
    """A file of these bytes, this text, or these records one a line."""
    if isinstance(contents, list):
        contents = "".join(json.dumps(record) + "\n" for record in contents)
    path.write_bytes(contents.encode() if isinstance(contents, str) else contents)
    return path


def read(record: dict[str, Any], root: Path, **settings: Any) -> Conversation:
    return RecordFile(write(root / "one.jsonl", [record]), **settings)[0]


def kinds(record: dict[str, Any], root: Path, **settings: Any) -> list[str]:
    found = RecordFile(write(root / "one.jsonl", [record]), **settings)
    return [problem.kind for problem in found.examine(0)[1]]


class TestConversations:
    def test_llava_turns_become_messages_with_the_image_in_its_place(self, root):
        record = llava("<image>\nwhat?", "a cat", "sure?", "yes", id="x", image="images/a.png")
        messages = [
            {"role": "user", "content": [IMAGE, text("what?")]},
            {"role": "assistant", "content": [text("a cat")]},
            {"role": "user", "content": [text("sure?")]},
            {"role": "assistant", "content": [text("yes")]},
        ]
        assert read(record, root) == Conversation("x", messages, (str(root / "images" / "a.png"),))

    @pytest.mark.parametrize(
        ("value", "content"),
        [
            ("what?\n<image>", [IMAGE, text("what?")]),  # in front, as in the published prompt
            ("<|image|>what?", [IMAGE, text("what?")]),  # the official placeholder
            ("see <image> here\n", [text("see "), IMAGE, text(" here\n")]),
            ("<image>", [IMAGE]),
            ("<image>\n\n two\nlines", [IMAGE, text(" two\nlines")]),
        ],
    )
    def test_an_llava_image_stands_where_its_placeholder_is_or_before_a_question_that_it_follows(
        self, root, value, content
    ):
        assert read(llava(value, "yes", image="images/a.png"), root).messages[0]["content"] == content

    def test_several_images_stay_in_their_places_and_order(self, root):
        names = ["images/b.png", "images/a.png"]
        conversation = read(llava("A <image>\nB <image>\nsame?", "no", image=names), root)
        content = [text("A "), IMAGE, text("\nB "), IMAGE, text("\nsame?")]
        assert conversation.messages[0]["content"] == content
        assert conversation.images == tuple(str(root / name) for name in names)

    def test_a_video_is_the_path_of_its_part(self, root):
        expected = [{**VIDEO, "path": str(root / "v.gif")}, text("what?")]
        assert read(llava("<video>\nwhat?", "a cat", video="v.gif"), root).messages[0]["content"] == expected
        assert read(chat("<video>what?", "a cat", videos=["v.gif"]), root).messages[0]["content"] == expected

    def test_a_system_text_comes_first(self, root):
        record = llava("what?", "a cat")
        record["conversations"].insert(0, {"from": "system", "value": "be short"})
        assert read(record, root).messages[0] == {"role": "system", "content": [text("be short")]}

    def test_all_ways_to_give_an_image_of_chat_messages_are_the_same(self, root):
        path, question = "images/a.png", text("what?")
        given = [
            chat("<image>what?", "a cat", images=[path]),
            chat("<image>what?", "a cat", images=path),
            chat([IMAGE, question], "a cat", images=[path]),
            chat([{**IMAGE, "path": path}, question], [text("a cat")]),
            chat([{**IMAGE, "image": path, "url": None}, question], "a cat", images=[], videos=None),
            chat([{**IMAGE, "url": path}, question], "a cat"),
            chat([{"type": "image_url", "image_url": {"url": path}}, question], "a cat"),
        ]
        found = [read(record, root)[1:] for record in given]
        assert found == [found[0]] * len(given)
        assert found[0][1] == (str(root / path),) and found[0][0][0]["content"] == [IMAGE, question]

    def test_base64_becomes_a_data_url(self, root):
        for part in ({**IMAGE, "base64": "AAAA"}, {**IMAGE, "path": "data:image;base64,AAAA"}):
            assert read(chat([part, text("what?")], "a cat"), root).images == ("data:image;base64,AAAA",)

    def test_a_placeholder_in_a_text_part_is_text(self, root):
        parts = [text("what is <video> in HTML?")]
        assert read(chat(parts, "a tag"), root).messages[0]["content"] == parts
        assert kinds(chat([text("what is <|image|>?")], "a tag"), root) == [ProblemKind.PLACEHOLDERS]

    def test_records_without_an_id_are_numbered(self, root):
        records = RecordFile(write(root / "f.jsonl", [llava("a", "b"), llava("a", "b", id=7), llava("a", "b")]))
        assert [record.id for record in records] == ["0", "7", "2"]


class TestFiles:
    def test_lists_and_lines_hold_the_same_records(self, root):
        records = [llava("<image>\na", "b", image="images/a.png"), chat("a", "b"), llava("ä\u2028{", 'b "]')]
        lines = list(RecordFile(write(root / "f.jsonl", records)))
        assert len(lines) == 3
        for contents in (json.dumps(records), json.dumps(records, indent=2, ensure_ascii=False)):
            assert list(RecordFile(write(root / "f.json", contents))) == lines

    @pytest.mark.parametrize("indent", [None, 1])
    def test_records_of_a_list_lie_where_a_parser_finds_them(self, root, indent):
        generator = random.Random(0)
        pieces = ['"', "\\", "{", "}", "[", "]", ",", "\n", "é", "\\u0022", "a"]
        records = [
            llava("".join(generator.choices(pieces, k=12)) + "?", "b", extra={"n": [[{}], {"{": "}"}]}, id=index)
            for index in range(200)
        ]
        contents = json.dumps(records, indent=indent, ensure_ascii=bool(indent))
        found = RecordFile(write(root / "f.json", contents))
        assert [record.id for record in found] == [str(index) for index in range(200)]
        for index in (0, 7, 199):
            question = records[index]["conversations"][0]["value"]
            assert found[index].messages[0]["content"] == [text(question)]
        first_lines = [number for number, line in enumerate(contents.split("\n"), 1) if line == " {"]
        assert [found.line(index) for index in range(200)] == (first_lines if indent else [1] * 200)

    def test_lines_are_counted_with_blank_ones_which_are_no_records(self, root):
        line = json.dumps(llava("a", "b")).encode()
        contents = b"\xef\xbb\xbf" + line + b"\r\n\r\n \n" + line + b"\n\n\n" + line
        found = RecordFile(write(root / "f.jsonl", contents))
        assert [found.line(index) for index in range(len(found))] == [1, 4, 7]
        assert len(list(found)) == 3

    def test_reading_a_record_parses_no_other(self, root, monkeypatch):
        records = [llava("a", str(index)) for index in range(50)]
        paths = [write(root / "f.json", json.dumps(records)), write(root / "f.jsonl", records)]
        parse, parsed = json.loads, []
        monkeypatch.setattr(json, "loads", lambda octets, **how: parsed.append(octets) or parse(octets, **how))
        for path in paths:
            assert RecordFile(path)[31].messages[1]["content"] == [text("31")]
        assert len(parsed) == 2

    @pytest.mark.parametrize(
        "contents", ["", " \n\n", "[]", " [\n]\n"], ids=["no bytes", "blank", "empty list", "spaced empty list"]
    )
    def test_a_file_without_records_is_refused(self, root, contents):
        with pytest.raises(ValueError, match="empty|no records"):
            RecordFile(write(root / "f.json", contents))

    def test_a_missing_file_and_a_missing_root_are_refused(self, root):
        with pytest.raises(ValueError, match="does not exist"):
            RecordFile(root / "none.json")
        with pytest.raises(ValueError, match="not a directory"):
            RecordFile(write(root / "f.jsonl", [llava("a", "b")]), root / "none")

    @pytest.mark.parametrize(
        ("end", "line"),
        [
            (',\n{"conversations": [{"from": "human", "value": "cut sh', 2),
            (',\n{"id": "quote is missing},\n{"id": 2}]', 2),
            (f"\n\n{GOOD}]", 3),  # no comma
            ("\n\n,]", 3),
            ("\n\n17]", 3),
            ("\n]\n]", 2),
            ("\n", 1),
        ],
    )
    def test_a_damaged_list_is_an_error_in_its_line_and_the_records_before_it_are_read(self, root, end, line):
        found = RecordFile(write(root / "f.json", f"[{GOOD}{end}"))
        assert found[0].messages[1]["content"] == [text("b")]
        with pytest.raises(ValueError, match=rf"f\.json, line {line}: invalid JSON"):
            found[1]

    def test_a_missing_quotation_mark_is_one_error_however_many_braces_follow(self, root):
        rest = "".join(f',\n{{"id": "}}", "of": "{{{index}"}}' for index in range(9))
        found = RecordFile(write(root / "f.json", f'[{GOOD},\n{{"id": "open}}{rest}]'))
        assert len(found) == 2
        with pytest.raises(ValueError, match="line 2: invalid JSON: .*; the rest of the file was not read"):
            found[1]

    def test_it_can_be_sent_to_another_process(self, root):
        found = RecordFile(write(root / "f.jsonl", [llava("a", "b", image="http://x/a.png")]), root, allow_urls=True)
        copy = pickle.loads(pickle.dumps(found))
        assert copy.examine(0) == found.examine(0) and copy.root.allow_urls


class TestMedia:
    @pytest.mark.parametrize(
        ("source", "kind"),
        [
            ("../outside.png", ProblemKind.REFUSED),
            ("images/../images/a.png", ProblemKind.REFUSED),
            ("..\\outside.png", ProblemKind.REFUSED),
            ("/etc/passwd", ProblemKind.REFUSED),
            ("link.png", ProblemKind.REFUSED),
            ("linked/outside.png", ProblemKind.REFUSED),
            ("http://example.org/a.png", ProblemKind.REFUSED),
            ("file:///etc/passwd", ProblemKind.REFUSED),
            ("images/none.png", ProblemKind.MISSING),
            ("images/a.png/b", ProblemKind.MISSING),
            ("a\0b.png", ProblemKind.MISSING),
            ("\ud800.png", ProblemKind.MISSING),
            ("x" * 5000, ProblemKind.MISSING),
            ("loop.png", ProblemKind.MISSING),
            ("images", ProblemKind.UNREADABLE),
            ("pipe.png", ProblemKind.UNREADABLE),
            ("empty.png", ProblemKind.UNREADABLE),
            ("data:image/png,raw", ProblemKind.UNREADABLE),
        ],
    )
    def test_what_leads_out_of_the_root_or_to_no_file_is_refused(self, root, source, kind):
        (root / "link.png").symlink_to(root.parent / "outside.png")
        (root / "linked").symlink_to(root.parent)
        (root / "loop.png").symlink_to("loop.png")
        (root / "empty.png").touch()
        os.mkfifo(root / "pipe.png")
        found = MediaRoot(root).resolve(source, "image")
        assert isinstance(found, Problem) and found.kind == kind

    def test_a_root_beside_one_of_a_longer_name_does_not_hold_its_files(self, root):
        (root.parent / "root2").mkdir()
        (root.parent / "root2" / "a.png").write_bytes(b"x")
        assert MediaRoot(root).resolve(str(root.parent / "root2" / "a.png"), "image").kind == ProblemKind.REFUSED

    def test_links_and_absolute_paths_inside_the_root_are_files_of_it(self, root):
        (root / "link.png").symlink_to(root / "images" / "a.png")
        (root.parent / "other").symlink_to(root)
        expected = str(root / "images" / "a.png")
        for source in ("images/a.png", "./images//a.png", "link.png", expected):
            assert MediaRoot(root).resolve(source, "image") == expected
            assert MediaRoot(root.parent / "other").resolve(source, "image") == expected

    def test_only_web_addresses_can_be_allowed(self, root):
        allowing = MediaRoot(root, allow_urls=True)
        for source in ("https://example.org/a.png", "http://example.org/a.png"):
            assert allowing.resolve(source, "image") == source
        for source in ("file:///etc/passwd", "s3://bucket/a.png"):
            assert allowing.resolve(source, "image").kind == ProblemKind.REFUSED

    def test_a_video_must_be_a_file(self, root):
        assert MediaRoot(root).resolve("data:video/mp4;base64,AAAA", "video").kind == ProblemKind.REFUSED


class TestSamples:
    def test_ten_records_of_both_forms_with_small_media_can_be_read(self):
        records = [json.loads(line) for line in SAMPLES.read_text(encoding="utf-8").splitlines()]
        conversations = list(RecordFile(SAMPLES))
        assert len(conversations) == 10
        assert sum("messages" in record for record in records) == 5
        assert any(part["type"] == "video" for each in conversations for part in each.messages[0]["content"])
        assert sum(file.stat().st_size for file in SAMPLES.parent.rglob("*") if file.is_file()) < 50_000

    def test_they_follow_the_schema(self):
        for line in SAMPLES.read_text(encoding="utf-8").splitlines():
            assert follows_schema(json.loads(line))

    @pytest.mark.parametrize(
        "record",
        [
            {},
            7,
            {**llava("a", "b"), **chat("a", "b")},
            llava(),
            llava("a", 7),
            llava("a", "b", image=3),
            {"conversations": [{"from": "robot", "value": "a"}]},
            {"messages": [{"role": "user"}]},
            chat([{"type": "sound"}], "b"),
            chat([{"type": "text"}], "b"),
            chat([{"type": "image", "path": 3}], "b"),
            chat("a", "b", images=[None]),
        ],
    )
    def test_what_the_schema_refuses_the_reader_refuses(self, root, record):
        assert not follows_schema(record)
        assert kinds(record, root)

    @pytest.mark.parametrize(
        "record",
        [
            llava("a", "b", image=None, video="", anything=1),
            llava("a", "b", image=[]),
            chat("a", "b", images=None),
            chat([{"type": "image", "path": "images/a.png", "url": None}], "b"),
            chat([{"type": "image_url", "image_url": "images/a.png"}], "b"),
        ],
    )
    def test_unusual_records_that_the_reader_takes_follow_the_schema(self, root, record):
        assert follows_schema(record)
        assert kinds(record, root) == []


SCHEMA = json.loads((DOCS / "schemas" / "instruction-record.json").read_text(encoding="utf-8"))
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "null": type(None)}
ANNOTATIONS = {"$schema", "$defs", "title", "description"}


def follows_schema(value: Any, schema: dict[str, Any] = SCHEMA) -> bool:
    """The keywords of JSON Schema 2020-12 that our schema uses."""
    rules = {name: rule for name, rule in schema.items() if name not in ANNOTATIONS}
    return all(_RULES[name](value, rule) for name, rule in rules.items())


_RULES = {
    "$ref": lambda value, name: follows_schema(value, SCHEMA["$defs"][name.removeprefix("#/$defs/")]),
    "type": lambda value, names: isinstance(
        value, tuple(TYPES[name] for name in ([names] if isinstance(names, str) else names))
    ),
    "enum": lambda value, values: value in values,
    "const": lambda value, wanted: value == wanted,
    "required": lambda value, names: not isinstance(value, dict) or all(name in value for name in names),
    "properties": lambda value, rules: (
        not isinstance(value, dict)
        or all(follows_schema(value[name], rule) for name, rule in rules.items() if name in value)
    ),
    "items": lambda value, rule: not isinstance(value, list) or all(follows_schema(each, rule) for each in value),
    "minItems": lambda value, least: not isinstance(value, list) or len(value) >= least,
    "not": lambda value, rule: not follows_schema(value, rule),
    "anyOf": lambda value, rules: any(follows_schema(value, rule) for rule in rules),
    "oneOf": lambda value, rules: sum(follows_schema(value, rule) for rule in rules) == 1,
}
