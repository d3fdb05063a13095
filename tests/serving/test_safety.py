"""What a server refuses: one more than each limit, hosts, keys, paths, damaged images; and what it keeps to itself."""

import base64
import io
import logging
import socket
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from helpers import video_of_unknown_codec
from model_server import NAME, data_url, picture, user
from openai import AuthenticationError, OpenAI, RateLimitError
from PIL import Image

from owl2.serving.engine.paged_model import PagedOwl2
from owl2.serving.openai_api.security import allowed_hosts
from owl2.serving.settings import load_settings


def chat(server, *messages, **fields):
    body = {"messages": list(messages), "max_tokens": 2, "temperature": 0, **fields}
    headers = fields.pop("headers", None)
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=headers)


def image_part(url: str) -> dict:
    return {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}


def refusal(response) -> str:
    assert response.status_code == 400, response.text
    return response.json()["error"]["message"]


def png_header(width: int, height: int) -> str:
    """An image of which there is nothing to decode."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    contents = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data = b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    return f"data:image/png;base64,{base64.b64encode(contents + data).decode()}"


class TestLimits:
    def test_images(self, with_settings):
        server = with_settings("limits.images=2")
        turns = [user("a", picture(1)), {"role": "assistant", "content": "b"}, user("c", picture(2))]
        assert chat(server, *turns).is_success
        assert "over the limit of 2" in refusal(chat(server, user("a", *map(picture, range(3)))))

    def test_pixels_are_counted_in_the_header(self, with_settings):
        server = with_settings("limits.image_pixels=480")
        assert chat(server, user("a", picture(1, (24, 20)))).is_success
        assert "504 pixels (24 x 21)" in refusal(chat(server, user("a", picture(1, (24, 21)))))
        for side, message in ((9_000, "81000000 pixels"), (60_000, "over the limit of 480")):
            assert message in refusal(chat(server, image_part(png_header(side, side))))

    def test_frames(self, with_settings):
        server = with_settings("limits.video_frames=3")
        for count, is_taken in ((3, True), (4, False)):
            frames = [Image.new("RGB", (20, 20), (60 * index, 0, 0)) for index in range(count)]
            buffer = io.BytesIO()
            frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
            url = f"data:image/gif;base64,{base64.b64encode(buffer.getvalue()).decode()}"
            response = chat(server, {"role": "user", "content": [{"type": "video_url", "video_url": {"url": url}}]})
            assert response.is_success == is_taken, response.text
        assert "4 frames, over the limit of 3" in refusal(response)

    def test_the_body_with_and_without_a_length(self, start):
        server = start("limits.body_bytes=1000")
        body = b'{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, "user": "%s"}'
        headers = {"content-type": "application/json"}
        for size, status in ((1000, 200), (1001, 413)):
            whole = body % (b"x" * (size - len(body) + 2))
            for content in (whole, iter([whole[:500], whole[500:]])):
                response = httpx.post(f"{server.url}/v1/chat/completions", content=content, headers=headers)
                assert (len(whole), response.status_code) == (size, status)

    def test_messages_prompt_and_answer(self, with_settings):
        tokens = 23  # of the prompt around hello
        limits = ("messages=1", f"prompt_tokens={tokens}", "new_tokens=4", "choices=2")
        server = with_settings(*(f"limits.{limit}" for limit in limits))
        assert chat(server, user("hello"), max_tokens=4, n=2).json()["usage"]["prompt_tokens"] == tokens
        assert f"over the limit of {tokens}" in refusal(chat(server, user("hello you")))
        turns = [user("a"), {"role": "assistant", "content": "b"}, user("c")]
        assert "over the limit of 1" in refusal(chat(server, *turns))
        assert "over the limit of 4" in refusal(chat(server, user("hello"), max_tokens=5))
        assert "over the limit of 2" in refusal(chat(server, user("hello"), n=3))
        unlimited = {"messages": [user("hello")], "temperature": 0}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=unlimited).json()
        assert answer["usage"]["completion_tokens"] == 4

    @pytest.mark.parametrize(
        ("path", "fields"),
        [
            ("/v1/chat/completions", {"max_tokens": 1}),
            ("/v1/score", {"continuations": ["a"]}),
            ("/attention", {"word": "a"}),
        ],
    )
    def test_the_prompt_on_every_route_that_reads_one(self, with_settings, path, fields):
        server = with_settings("limits.prompt_tokens=33")  # hello and an image in the chat template
        taken, refused = (
            httpx.post(f"{server.url}{path}", json={"messages": [user(text, picture(1))], **fields})
            for text in ("hello", "hello you")
        )
        assert taken.is_success, taken.text
        assert "over the limit of 33" in refusal(refused)

    def test_prompts_continuations_stop_texts_and_likeliest_tokens(self, with_settings):
        server = with_settings("limits.prompts=2", "limits.stop_texts=1", "limits.top_logprobs=3")
        asked = {"messages": [user("a")], "max_tokens": 1}
        for path, field, fields, most, one_more in (
            ("/v1/completions", "prompt", {"max_tokens": 1}, ["a"] * 2, ["a"] * 3),
            ("/v1/score", "continuations", {"messages": [user("a")]}, ["a"] * 2, ["a"] * 3),
            ("/v1/chat/completions", "stop", asked, ["x"], ["x", "y"]),
            ("/v1/chat/completions", "top_logprobs", {**asked, "logprobs": True}, 3, 4),
        ):
            taken, refused = (
                httpx.post(f"{server.url}{path}", json={**fields, field: value}) for value in (most, one_more)
            )
            assert taken.is_success, taken.text
            assert "over the limit of" in refusal(refused) and refused.json()["error"]["param"] == field

    def test_requests_of_a_minute(self, start):
        server = start("limits.requests_per_minute=2", "api_keys=[one, two]")
        one, two = server.client(api_key="one"), server.client(api_key="two")
        for client in (one, one, two):
            client.chat.completions.create(model=NAME, messages=[user("a")], max_tokens=1)
        with pytest.raises(RateLimitError) as error:
            one.chat.completions.create(model=NAME, messages=[user("a")], max_tokens=1)
        assert int(error.value.response.headers["retry-after"]) >= 1
        two.chat.completions.create(model=NAME, messages=[user("a")], max_tokens=1)

    def test_one_more_request_than_run_and_wait_is_sent_away(self, start, slow):
        server = start("engine.max_requests=1", "limits.queued=1")
        slow(server)
        client = server.client()
        running = client.chat.completions.create(model=NAME, messages=[user("a")], max_tokens=200, stream=True)
        next(iter(running))
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(chat, server, user("a"))
            server.wait(lambda: server.engine.admission.queued == 1)
            refused = chat(server, user("a"))
            running.close()
            assert waiting.result().is_success
        assert refused.status_code == 429 and refused.headers["retry-after"]
        assert refused.json()["error"]["message"] == "1 requests are waiting already"

    def test_the_time_in_the_queue(self, start, slow):
        server = start("engine.max_requests=1", "limits.queued=1", "limits.queue_seconds=0.2")
        slow(server)
        client = server.client()
        running = client.chat.completions.create(model=NAME, messages=[user("a")], max_tokens=200, stream=True)
        next(iter(running))
        waiting = chat(server, user("a"))
        assert waiting.status_code == 504 and waiting.headers["retry-after"]
        running.close()
        server.wait(lambda: server.engine.admission.running == 0)
        assert chat(server, user("a")).is_success

    def test_the_time_of_an_answer(self, start, slow):
        server = start("limits.answer_seconds=0.2")
        slow(server)
        response = chat(server, user("a"), max_tokens=200)
        assert response.status_code == 504 and response.json()["error"]["code"] == "deadline_exceeded"
        server.wait(lambda: server.engine.in_flight == 0)


class TestWhatIsOpened:
    @pytest.mark.parametrize(
        "url",
        [
            "file:///etc/hostname",
            "/etc/hostname",
            "etc/hostname",
            "C:\\windows\\win.ini",
            "ftp://example.org/a.png",
            "http://example.org/a.png",
            "https://example.org/a.png",
            "http://127.0.0.1/a.png",
            "data:text/plain,hello",
            "data:image/png;base64,",
            "data:image/png;base64,%%%",
            "",
            "iVBORw0KGgo",
        ],
    )
    def test_nothing_that_a_request_names(self, server, url, monkeypatch):
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: pytest.fail("a name was looked up"))
        assert_refused = image_part(url)
        with httpx.Client(transport=httpx.HTTPTransport()) as client:
            monkeypatch.undo()
            response = client.post(f"{server.url}/v1/chat/completions", json={"messages": [assert_refused]})
        assert response.status_code == 400 and response.json()["error"]["param"] == "messages[0].content[0]"

    @pytest.mark.parametrize(
        "contents",
        [
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n",
            b"ffconcat version 1.0\nfile '/etc/hostname'\n",
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            b"\x89PNG\r\n\x1a\n",
            b"GIF89a",
            b"\0\0\0\x18ftypmp42",
        ],
    )
    def test_no_format_that_could_run_or_open_something_and_nothing_damaged(self, server, contents):
        url = f"data:image/png;base64,{base64.b64encode(contents).decode()}"
        refusal(chat(server, image_part(url)))
        refusal(chat(server, {"role": "user", "content": [{"type": "video_url", "video_url": {"url": url}}]}))

    def test_a_video_of_an_unknown_codec_is_refused(self, server, tmp_path):
        contents = video_of_unknown_codec(tmp_path / "v.avi").read_bytes()
        url = f"data:video/x-msvideo;base64,{base64.b64encode(contents).decode()}"
        message = refusal(chat(server, {"role": "user", "content": [{"type": "video_url", "video_url": {"url": url}}]}))
        assert message == "the video cannot be read: file has a video of an unknown codec in it"

    def test_a_corrupt_image_among_good_ones_is_named_and_harms_nobody(self, server, generated):
        good = data_url(picture(1, (300, 300)))
        head, payload = good.split(",")
        half = f"{head},{payload[: len(payload) // 8 * 4]}"
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in (good, good, half, good)]
        before = chat(server, user("what?", picture(1)), max_tokens=12).json()
        message = refusal(chat(server, {"role": "user", "content": parts}))
        assert message == "image 3 is damaged or cut short"
        assert chat(server, user("what?", picture(1)), max_tokens=12).json()["choices"] == before["choices"]


class TestWhoMayAsk:
    def test_only_who_has_a_key(self, keyed_server):
        server = keyed_server
        for key in ("secret", "second"):
            assert server.client(api_key=key).models.list().data
        for key in ("third", "secre", "secrett"):
            with pytest.raises(AuthenticationError):
                server.client(api_key=key).models.list()
        assert httpx.get(f"{server.url}/v1/models").status_code == 401
        assert httpx.get(f"{server.url}/metrics").status_code == 401
        assert httpx.get(f"{server.url}/health").status_code == 200

    @pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
    def test_on_loopback_only_by_its_names(self, server, host):
        response = httpx.get(f"{server.url}/v1/models", headers={"host": host})
        assert response.status_code == 421

    def test_elsewhere_by_any_name_unless_some_are_listed(self):
        assert allowed_hosts(load_settings(None, ["host=0.0.0.0"])) is None
        assert allowed_hosts(load_settings(None, ["host=0.0.0.0", "allowed_hosts=[Owl.example]"])) == {"owl.example"}

    def test_no_form_of_another_page(self, server):
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            content = b'{"messages": [{"role": "user", "content": "a"}]}'
            headers = {"content-type": kind}
            response = httpx.post(f"{server.url}/v1/chat/completions", content=content, headers=headers)
            assert response.status_code == 415

    def test_other_pages_only_if_they_are_listed(self, server, start):
        headers = {"origin": "https://page.example", "access-control-request-method": "POST"}
        closed = httpx.options(f"{server.url}/v1/chat/completions", headers=headers)
        assert "access-control-allow-origin" not in closed.headers
        listed = start("cors_origins=[https://page.example]")
        opened = httpx.options(f"{listed.url}/v1/chat/completions", headers=headers)
        assert opened.headers["access-control-allow-origin"] == "https://page.example"
        assert "access-control-allow-credentials" not in opened.headers

    def test_browsers_are_told_to_be_careful(self, server):
        headers = httpx.get(f"{server.url}/health").headers
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert "default-src 'self'" in headers["content-security-policy"] and "server" not in headers


class TestCrash:
    def test_the_request_fails_health_says_so_and_the_next_is_answered(self, server, monkeypatch):
        restart, seen = server.engine._restart_worker, threading.Event()
        monkeypatch.setattr(server.engine, "_restart_worker", lambda: (seen.wait(60), restart()))
        embeddings = PagedOwl2.get_input_embeddings  # of every step: the stream is still in work when the worker fails
        monkeypatch.setattr(PagedOwl2, "get_input_embeddings", lambda self: (time.sleep(0.03), embeddings(self))[1])
        stream = server.client().chat.completions.create(model=NAME, messages=[user("a")], max_tokens=200, stream=True)
        chunks = iter(stream)
        next(chunks)
        with monkeypatch.context() as patch:
            patch.setattr(server.engine.images, "lookup", lambda ids: 1 / 0)
            failed = chat(server, user("a", picture(91)))  # no other test has left this one in the cache
        assert failed.status_code == 503 and failed.json()["error"]["code"] == "worker_crashed"
        assert "division by zero" in failed.json()["error"]["message"]
        try:
            with pytest.raises(Exception, match="worker failed"):
                list(chunks)
            assert httpx.get(f"{server.url}/health").status_code == 503
        finally:
            seen.set()  # whatever happened here, the next tests find a worker
        server.wait(lambda: server.engine.is_healthy)
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert chat(server, user("a", picture(91))).is_success


class TestLogs:
    @pytest.mark.parametrize("told", [False, True])
    def test_hold_texts_only_when_told_to_and_never_images(self, with_settings, caplog, told):
        server = with_settings(f"log_prompts={told}")
        image = picture(5)
        with caplog.at_level(logging.DEBUG):
            chat(server, user("a secret question", image))
            chat(server, user("another secret", image), nonsense=1)
            chat(server, image_part("/a/secret/path"))
        assert ("a secret question" in caplog.text) == told
        assert "another secret" not in caplog.text and "secret/path" not in caplog.text
        assert data_url(image)[30:60] not in caplog.text
        assert "POST /v1/chat/completions 200" in caplog.text


def test_a_second_server_in_the_process_is_another(server, start):
    other = start()
    assert isinstance(other.client(), OpenAI) and other.engine is not server.engine
    assert chat(other, user("a")).json()["choices"] == chat(server, user("a")).json()["choices"]
