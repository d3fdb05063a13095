"""`owl2 chat --url`: the same conversation with the model behind a server."""

import json
import subprocess
import sys

import pytest
from model_server import picture
from typer.testing import CliRunner

from owl2.cli.main import app
from owl2.serving.remote_chat import RemoteChatSession


def owl2(*arguments: object, stdin: str | None = None):
    return CliRunner().invoke(app, ["chat", *map(str, arguments)], input=stdin)


@pytest.fixture
def image(tmp_path):
    picture(1).save(tmp_path / "one.png")
    return tmp_path / "one.png"


def test_it_answers_as_with_the_model_on_this_machine(server, directory, image):
    common = ("--image", image, "--max-new-tokens", 8, "--json", "what is this?")
    there, here = (json.loads(owl2(*where, *common).stdout) for where in (("--url", server.url), ("-m", directory)))
    same = ("text", "images", "videos", "input_tokens", "output_tokens", "finish_reason")
    assert {key: there[key] for key in same} == {key: here[key] for key in same}


def test_earlier_turns_stay_and_placeholders_say_where_images_go(server, generated, image):
    session = RemoteChatSession(f"{server.url}/v1/")
    session.add_image(str(image))
    pieces: list[str] = []
    first = session.ask("before <|image|> after", 6, on_text=pieces.append)
    assert first.text == generated("before <|image|> after", picture(1), max_new_tokens=6, placed=True).strip()
    assert "".join(pieces).strip() == first.text
    second = session.ask("and?", 6)
    assert second.images == 1 and second.input_tokens > first.input_tokens
    session.reset()
    assert session.ask("hello", 4).images == 0


def test_a_conversation_goes_on_after_an_error(server, image):
    result = owl2(
        "--url", server.url, "--max-new-tokens", 4, stdin=f"/image {image}\nhello\n/image none.png\nagain\n/exit\n"
    )
    assert result.exit_code == 0 and "24 x 20 pixels" in result.stderr and "none.png" in result.stderr
    assert len([line for line in result.stdout.splitlines() if line.strip()]) >= 2


def test_a_long_answer_is_held_to_what_the_context_leaves(server):
    session = RemoteChatSession(server.url)
    reply = session.ask("hello", max_new_tokens=10_000)
    assert reply.input_tokens + reply.output_tokens <= server.engine.context


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("hello",), "--url"),
        (("-m", "x", "--url", "http://127.0.0.1:1", "hello"), "--url"),
        (("--url", "127.0.0.1:8000", "hello"), "http://"),
        (("--url", "file:///etc/passwd", "hello"), "http://"),
        (("--url", "http://127.0.0.1:1", "hello"), "nothing answers"),
        (("--url", "http://127.0.0.1:1", "--dtype", "float32", "hello"), "--dtype"),
    ],
)
def test_what_cannot_be_is_one_line(arguments, said):
    result = owl2(*arguments)
    assert result.exit_code == 2 and said in result.stderr and len(result.stderr.splitlines()) == 1


def test_a_refusal_is_in_the_words_of_the_server(server):
    result = owl2("--url", server.url, "word " * 400)
    assert result.exit_code == 2 and "the context holds" in result.stderr


def test_a_key_comes_from_the_environment(keyed_server, monkeypatch):
    server = keyed_server
    assert "a valid key is needed" in owl2("--url", server.url, "hello").stderr
    monkeypatch.setenv("OWL2_API_KEY", "secret")
    assert owl2("--url", server.url, "--max-new-tokens", 2, "hello").exit_code == 0


def test_it_needs_no_torch():
    code = "import owl2.serving.remote_chat, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
