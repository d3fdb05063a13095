"""The page in a real Chromium: what a person does with it."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="tests of the page need Playwright: pip install playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")

from model_server import NAME, picture, user  # noqa: E402
from playwright.sync_api import Page, expect  # noqa: E402

import owl2.serving.page  # noqa: E402

expect.set_options(timeout=20_000)
STATIC = Path(owl2.serving.page.__file__).parent / "static"


def png(seed: int) -> dict[str, Any]:
    """A random image as a file to be chosen."""
    buffer = io.BytesIO()
    picture(seed).save(buffer, "PNG")
    return {"name": f"picture-{seed}.png", "mimeType": "image/png", "buffer": buffer.getvalue()}


def give_files(page: Page, event: str, *seeds: int) -> None:
    """Lets files be dropped on the page, or pasted into it."""
    contents = [base64.b64encode(png(seed)["buffer"]).decode() for seed in seeds]
    page.evaluate(
        """([event, contents]) => {
          const transfer = new DataTransfer();
          for (const [index, content] of contents.entries()) {
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            transfer.items.add(new File([bytes], `given-${index}.png`, { type: "image/png" }));
          }
          const made = event === "paste"
            ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true })
            : new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
          document.getElementById("text").dispatchEvent(made);
        }""",
        [event, contents],
    )


def ask(page: Page, text: str) -> None:
    """Sends a message and waits for the whole answer."""
    count = page.locator(".assistant").count()
    page.fill("#text", text)
    page.press("#text", "Enter")
    expect(page.locator(".assistant .actions")).to_have_count(count + 1)


def limit(page: Page, tokens: int, **settings: float) -> None:
    page.click("#show-settings")
    page.fill("#max_tokens", str(tokens))
    for name, value in settings.items():
        page.locator(f"#{name}").fill(str(value))
    page.click("#show-settings")


def answered(client: Any, *messages: Any, **settings: Any) -> str:
    """What the API answers, as the page shows it."""
    options = {"temperature": 0, "max_tokens": 6, **settings}
    text = client.chat.completions.create(model=NAME, messages=list(messages), **options).choices[0].message.content
    return text.strip()


def shown(page: Page, index: int = -1) -> str:
    return page.locator(".assistant .body").nth(index).text_content()


class TestChat:
    def test_an_answer_is_that_of_the_api_and_its_line_has_the_numbers(self, page, client):
        limit(page, 6)
        page.set_input_files("#files", [png(1)])
        ask(page, "what is it?")
        assert shown(page) == answered(client, user("what is it?", picture(1)))
        line = page.locator(".stats").inner_text()
        assert re.fullmatch(
            r"\d+ prompt tokens · 1 image · 6 tokens · first after [\d.]+ s · [\d.,]+ tokens/s · cut at .*", line
        )

    def test_a_second_turn_has_the_first_one_and_its_image(self, page, client):
        limit(page, 6)
        page.set_input_files("#files", [png(1)])
        ask(page, "first")
        ask(page, "second")
        first = {"role": "assistant", "content": shown(page, 0)}
        assert shown(page) == answered(client, user("first", picture(1)), first, user("second"))

    def test_chosen_pasted_and_dropped_images_go_with_a_message_together(self, page, client):
        limit(page, 6)
        page.set_input_files("#files", [png(1)])
        give_files(page, "paste", 2)
        give_files(page, "drop", 3, 4)
        expect(page.locator("#attached li:not(.loading)")).to_have_count(4)
        page.get_by_label("Remove given-1.png").click()
        ask(page, "which?")
        assert shown(page) == answered(client, user("which?", picture(1), picture(2), picture(3)))
        assert "3 images" in page.locator(".stats").inner_text()

    def test_a_video_is_sent_as_one(self, page):
        sent = []

        def answer(route: Any) -> None:
            sent.append(json.loads(route.request.post_data))
            route.fulfill(body=_stream("seen"))

        page.route("**/v1/chat/completions", answer)
        page.set_input_files("#files", [{"name": "clip.mp4", "mimeType": "video/mp4", "buffer": b"video"}, png(1)])
        ask(page, "what happens?")
        first, second, text = sent[0]["messages"][0]["content"]
        assert first == {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,dmlkZW8="}}
        assert second["type"] == "image_url" and text == {"type": "text", "text": "what happens?"}

    def test_typing_never_waits_for_an_image(self, page):
        page.evaluate("() => { window.createImageBitmap = () => new Promise((done) => { window.finish = done; }); }")
        page.set_input_files("#files", [png(1)])
        expect(page.locator("#attached li.loading")).to_have_count(1)
        page.fill("#text", "what is")
        page.press("#text", "Enter")
        expect(page.locator("#status")).to_have_text("Reading the files …")
        page.fill("#text", "what is it?")
        page.evaluate("() => { window.finish({ width: 1, height: 1, close() {} }); }")
        expect(page.locator(".user .body")).to_have_text("what is it?")
        page.click("#stop")

    def test_sampling_is_that_of_the_controls(self, page, client):
        limit(page, 6, temperature=1.5, top_p=0.9, seed=7)
        ask(page, "hello")
        assert shown(page) == answered(client, user("hello"), temperature=1.5, top_p=0.9, seed=7)
        assert "seed 7" in page.locator(".stats").inner_text()

    def test_an_answer_longer_than_the_context_takes_what_is_left(self, page, server):
        ask(page, "hello")  # the longest answer of the page is longer than the context of this model
        tokens = [int(count) for count in re.findall(r"(\d+) (?:prompt )?tokens ", page.locator(".stats").inner_text())]
        assert sum(tokens) == server.engine.context

    def test_text_of_an_answer_is_never_markup(self, page):
        page.route(
            "**/v1/chat/completions", lambda route: route.fulfill(body=_stream("<img src=x onerror=alert(1)> & b"))
        )
        ask(page, "<b>bold</b>")
        assert shown(page) == "<img src=x onerror=alert(1)> & b"
        assert page.locator(".user .body").text_content() == "<b>bold</b>"
        assert page.locator("#log b, .assistant img").count() == 0


class TestTurns:
    def test_an_answer_comes_word_by_word_and_can_be_stopped(self, page, server, slow):
        slow(server)
        page.fill("#text", "hello")
        page.press("#text", "Enter")
        expect(page.locator(".assistant .body")).not_to_be_empty()
        page.click("#stop")
        expect(page.locator(".stats")).to_contain_text("stopped")
        server.wait(lambda: server.engine.in_flight == 0)
        expect(page.locator(".stats")).to_contain_text("prompt tokens")
        kept = shown(page)
        assert kept
        page.reload()
        page.locator("#conversations .entry").click()
        assert shown(page) == kept

    def test_retry_answers_the_same_message_again(self, page):
        limit(page, 6)
        ask(page, "hello")
        before = shown(page)
        page.locator(".assistant").evaluate("(article) => { article.dataset.old = 'yes'; }")
        page.click("text=Retry")
        expect(page.locator(".assistant[data-old]")).to_have_count(0)
        expect(page.locator(".assistant .actions")).to_have_count(1)
        assert shown(page) == before and page.locator(".user").count() == 1

    def test_an_edited_message_is_asked_again_without_what_followed(self, page, client):
        limit(page, 6)
        page.set_input_files("#files", [png(1)])
        ask(page, "first")
        ask(page, "second")
        page.locator(".user").first.get_by_text("Edit").click()
        page.get_by_label("Edit your message").fill("other")
        page.get_by_text("Ask again").click()
        expect(page.locator(".user")).to_have_count(1)
        expect(page.locator(".assistant .actions")).to_have_count(1)
        assert shown(page) == answered(client, user("other", picture(1)))

    def test_conversations_stay_with_their_images_until_they_are_deleted(self, page):
        limit(page, 2)
        page.set_input_files("#files", [png(1)])
        ask(page, "to be kept")
        page.reload()
        page.locator("#conversations .entry").click()
        image = page.locator(".user img")
        expect(image).to_have_js_property("complete", True)
        assert image.evaluate("(image) => image.naturalWidth") == picture(1).width
        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_label("Delete “to be kept”").click()
        expect(page.locator("#conversations li")).to_have_count(0)
        page.reload()
        expect(page.locator("#model")).not_to_be_empty()
        assert page.locator("#conversations li").count() == 0

    def test_so_many_conversations_are_kept_and_no_more(self, page):
        kept = page.evaluate(
            """async () => {
              const store = await import(new URL("page/store.js", document.baseURI));
              const all = [];
              for (let updated = 0; updated < 52; updated += 1) {
                all.push({ id: String(updated), updated, title: "", messages: [] });
                for (const gone of await store.save(all.at(-1), all)) all.splice(all.indexOf(gone), 1);
              }
              return (await store.load()).map(({ id }) => id);
            }"""
        )
        assert kept == [str(number) for number in range(51, 1, -1)]


class TestErrors:
    def test_files_that_cannot_be_read_are_named(self, page):
        text = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"}
        broken = {"name": "broken.png", "mimeType": "image/png", "buffer": b"no image"}
        page.set_input_files("#files", [text, broken, png(1)])
        expect(page.locator("#attached li")).to_have_count(1)
        expect(page.get_by_role("alert")).to_contain_text("broken.png cannot be read")

    def test_a_refusal_is_shown_in_words_and_the_message_can_be_edited(self, page):
        limit(page, 2)
        page.fill("#text", "what is it? " * 60)
        page.press("#text", "Enter")
        expect(page.get_by_role("alert")).to_contain_text("but the context holds 256 with the answer")
        expect(page.locator(".unanswered")).to_be_visible()
        page.get_by_text("Edit").click()
        page.get_by_label("Edit your message").fill("what is it?")
        page.get_by_label("Edit your message").press("Enter")
        expect(page.locator(".assistant .actions")).to_have_count(1)
        expect(page.get_by_role("alert")).to_be_empty()

    def test_a_server_that_is_gone_is_said_and_asked_again(self, page):
        limit(page, 2)
        page.route("**/v1/chat/completions", lambda route: route.abort())
        page.fill("#text", "hello")
        page.press("#text", "Enter")
        expect(page.get_by_role("alert")).to_contain_text("The server does not answer. Is it still running?")
        page.unroute("**/v1/chat/completions")
        page.get_by_text("Try again").click()
        expect(page.locator(".assistant .actions")).to_have_count(1)

    def test_an_answer_that_breaks_off_stays_as_far_as_it_came(self, page):
        broken = _stream("half an").replace("data: [DONE]\n\n", "")
        page.route("**/v1/chat/completions", lambda route: route.fulfill(body=broken))
        ask(page, "hello")
        assert shown(page) == "half an"
        assert "broke off" in page.locator(".assistant .error").inner_text()

    def test_a_failed_retry_leaves_the_answer_that_was_there(self, page):
        page.route("**/v1/chat/completions", lambda route: route.fulfill(body=_stream("kept")))
        ask(page, "hello")
        error = {"error": {"message": "the worker is being restarted"}}
        page.route("**/v1/chat/completions", lambda route: route.fulfill(status=503, body=json.dumps(error)))
        page.click("text=Retry")
        expect(page.get_by_role("alert")).to_contain_text("The worker is being restarted.")
        assert shown(page) == "kept"

    def test_a_server_with_keys_asks_for_one(self, keyed_server, open_page):
        page = open_page(keyed_server.url)
        expect(page.locator("#ask-key")).to_be_visible()
        page.fill("#key", "secret")
        page.press("#key", "Enter")
        expect(page.locator("#model")).to_contain_text(NAME)


class TestAttention:
    @pytest.fixture
    def answered_page(self, page):
        """A page with an answer of known words about two images."""
        page.route("**/v1/chat/completions", lambda route: route.fulfill(body=_stream("two small words")))
        page.set_input_files("#files", [png(1), png(2)])
        ask(page, "what?")
        return page

    def test_a_word_shows_where_it_looked(self, answered_page, server):
        page = answered_page
        page.click("#show-attention")
        with page.expect_response("**/attention") as told:
            page.locator(".word").nth(1).hover()
        found = told.value.json()
        sent = json.loads(told.value.request.post_data)
        assert (sent["before"], sent["word"]) == ("two ", "small")
        expect(page.locator("#attention canvas")).to_have_count(2)
        expect(page.locator(".averaged")).to_have_text(found["averaged"])
        share = f"{found['images'][0]['share'] * 100:.0f}%"
        expect(page.locator("figcaption").first).to_contain_text(share.split("%")[0][:2])
        assert page.locator("#attention svg rect").count() == 4 * found["num_layers"]

    def test_layers_heads_and_the_average_are_chosen(self, answered_page):
        page = answered_page
        page.click("#show-attention")
        page.locator(".word").first.click()
        page.get_by_role("group", name="Layers").get_by_text("1", exact=True).click()
        expect(page.locator(".averaged")).to_contain_text("over layer 1, all")
        page.get_by_role("group", name="Heads").get_by_text("0", exact=True).click()
        expect(page.locator(".averaged")).to_contain_text("layer 1, head 0")
        page.get_by_label("minus the prompt’s average").check()
        expect(page.locator(".averaged")).to_contain_text("less the average of the prompt's tokens")

    def test_what_if_hidden_and_both_exports(self, answered_page):
        page = answered_page
        page.click("#show-attention")
        page.locator(".word").first.click()
        page.get_by_text("What if hidden?").nth(1).click()
        expect(page.locator(".hidden-map canvas")).to_have_count(1)
        with page.expect_download() as saved:
            page.get_by_text("Save as JSON").click()
        numbers = json.loads(Path(saved.value.path()).read_text())
        assert numbers["word"] == "two" and len(numbers["attention"]["images"]) == 2
        assert numbers["occlusion"][0]["image"] == 1 and numbers["messages"][0]["media"] == [
            "picture-1.png",
            "picture-2.png",
        ]
        with page.expect_download() as saved:
            page.get_by_text("Save as PNG").click()
        assert Path(saved.value.path()).read_bytes().startswith(b"\x89PNG")

    def test_words_are_reached_by_keyboard_alone(self, answered_page):
        page = answered_page
        page.get_by_role("button", name="Where did it look?").press("Enter")
        expect(page.locator(".word").first).to_be_focused()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        expect(page.locator(".word-title")).to_have_text("small")
        page.keyboard.press("Tab")
        expect(page.locator(".word:focus")).to_have_count(0)

    def test_nothing_is_computed_while_an_answer_is_written(self, answered_page, server, slow):
        page = answered_page
        page.unroute("**/v1/chat/completions")
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.click("#show-attention")
        slow(server)
        page.fill("#text", "more")
        page.press("#text", "Enter")
        expect(page.locator(".assistant .body").nth(1)).not_to_be_empty()
        page.locator(".word").first.click()
        expect(page.locator("#attention")).to_contain_text("when it is complete")
        page.click("#stop")
        assert not [url for url in asked if "/attention" in url]

    def test_a_refusal_is_shown_in_words(self, answered_page):
        page = answered_page
        error = {"error": {"message": "the word takes 99 tokens"}}
        page.route("**/attention", lambda route: route.fulfill(status=400, body=json.dumps(error)))
        page.click("#show-attention")
        page.locator(".word").first.click()
        expect(page.locator("#attention .error")).to_have_text("The word takes 99 tokens.")


class TestEverybody:
    @pytest.mark.parametrize(
        "options",
        [
            {"color_scheme": "light"},
            {"color_scheme": "dark"},
            {"color_scheme": "light", "viewport": {"width": 390, "height": 844}, "has_touch": True},
        ],
        ids=["light", "dark", "phone"],
    )
    def test_axe_finds_nothing_serious(self, open_page, options):
        page = open_page(**options, reduced_motion="reduce")
        assert _serious(page) == []
        limit(page, 2)
        page.set_input_files("#files", [png(1)])
        page.route("**/v1/chat/completions", lambda route: route.fulfill(body=_stream("two words")))
        ask(page, "what?")
        page.click("#show-settings")
        page.set_input_files("#files", [png(2), {"name": "a.txt", "mimeType": "text/plain", "buffer": b"a"}])
        expect(page.get_by_role("alert")).to_contain_text("a.txt is neither")
        assert _serious(page) == []
        page.click("#show-attention")
        page.locator(".word").first.click()
        page.get_by_text("What if hidden?").click()
        expect(page.locator(".hidden-map canvas")).to_have_count(1)
        assert _serious(page) == []

    def test_a_phone_scrolls_in_one_direction_only(self, open_page):
        page = open_page(viewport={"width": 360, "height": 740}, has_touch=True)
        limit(page, 6)
        page.set_input_files("#files", [png(1)])
        ask(page, "a word that is " + "very" * 40 + " long")
        page.click("#show-settings")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.click("#show-list")
        expect(page.get_by_text("New conversation")).to_be_in_viewport()

    def test_the_theme_is_kept(self, page):
        page.click("#theme")
        page.click("#theme")
        page.reload()
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 22, 20)"

    def test_it_works_below_a_path_of_a_proxy(self, open_page, server):
        """Every address of the page and of its requests is relative."""
        texts = [path.read_text(encoding="utf-8") for path in STATIC.iterdir()]
        assert not [found for text in texts for found in re.findall(r"""(?:src|href)=["'](?:/|http)""", text)]
        requests = [found for text in texts for found in re.findall(r"""request\(["'](.)""", text)]
        assert requests and "/" not in requests


def _serious(page: Page) -> list[str]:
    results = axe.Axe().run(page).response["violations"]
    return [
        f"{violation['id']}: {violation['nodes'][0]['html']} {violation['nodes'][0].get('failureSummary')}"
        for violation in results
        if violation["impact"] in ("serious", "critical")
    ]


def _stream(text: str) -> str:
    """An answer as the server streams it, a word at a time."""
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}
        for piece in re.findall(r"\S+\s*", text)
    ]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    chunks.append({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": len(chunks), "total_tokens": 20}})
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
