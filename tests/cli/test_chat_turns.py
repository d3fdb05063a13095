"""The turns of a conversation are read once, and answers are those of a conversation that is read anew each time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from model_server import picture

from owl2.chat import ChatSession
from owl2.checkpoints.loading import load_for_chat

ROWS = 9  # of an image: 8 queries and the end of the image


@pytest.fixture(scope="module")
def loaded(ours: Path):
    return load_for_chat(ours)


@pytest.fixture
def session(loaded) -> ChatSession:
    return ChatSession(*loaded)


@contextmanager
def counted(session: ChatSession) -> Iterator[dict[str, int]]:
    """What the model reads meanwhile: tokens of the decoder, and images."""
    counts = {"tokens": 0, "images": 0}

    def read(module, args, kwargs) -> None:
        counts["tokens"] += kwargs["inputs_embeds"].shape[1]

    def seen(module, args, kwargs) -> None:
        counts["images"] += len(args[0] if args else kwargs["pixel_values"])

    parts = (session.model.model.language_model, read), (session.model.model.vision_tower, seen)
    hooks = [part.register_forward_pre_hook(note, with_kwargs=True) for part, note in parts]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


def anew(session: ChatSession, text: str, tokens: int, *images) -> str:
    """What a session answers that has the same conversation, but has read nothing of it."""
    other = ChatSession(session.model, session.processor, session.system)
    other.messages, other.images, other.videos = [*session.messages], [*session.images], [*session.videos]
    for image in images:
        other.add_image(image)
    return other.ask(text, tokens).text


class TestEarlierTurns:
    def test_are_read_once_with_their_images(self, session):
        session.add_image(picture(0))
        first = session.ask("what is this?", 8)
        with counted(session) as read:
            second = session.ask("why?", 8)
        assert read["images"] == 0
        # the end of the first answer may be cut into other tokens when it is written out; each new token is read once
        new = second.input_tokens - first.input_tokens
        assert new - first.output_tokens <= read["tokens"] - (second.output_tokens - 1) <= new + 1
        session.add_image(picture(1))
        with counted(session) as read:
            session.ask("and this?", 8)
        assert read["images"] == 1

    def test_give_the_answers_of_a_conversation_that_is_read_anew(self, session):
        turns = [("what is this?", [0, 1]), ("why?", []), ("compare it", [2]), ("to <|image|> too", [0]), ("so?", [])]
        for text, seeds in turns:
            expected = anew(session, text, 5, *map(picture, seeds))
            for seed in seeds:
                session.add_image(picture(seed))
            assert session.ask(text, 5).text == expected

    def test_may_be_changed(self, session):
        session.add_image(picture(0))
        session.ask("what is this?", 8)
        session.ask("why?", 8)
        del session.messages[-2:]  # another question in the place of the last one
        expected = anew(session, "how?", 8)
        with counted(session) as read:
            assert session.ask("how?", 8).text == expected
        assert read["images"] == 0
        session.images[0] = picture(1)  # another image under the same words
        expected = anew(session, "how?", 8)
        with counted(session) as read:
            assert session.ask("how?", 8).text == expected
        assert read["images"] == 1

    def test_are_forgotten_by_a_reset(self, session):
        session.ask("hello", 8)
        session.reset()
        with counted(session) as read:
            reply = session.ask("hello", 8)
        assert read["tokens"] == reply.input_tokens + reply.output_tokens - 1
        assert reply.text == anew(ChatSession(session.model, session.processor), "hello", 8)

    def test_outlive_an_interruption_wherever_it_comes(self, session, monkeypatch):
        session.add_image(picture(0))
        session.ask("what is this?", 8)
        expected = anew(session, "why?", 8)
        for layer in (0, 1):
            last = session.model.model.language_model.layers[layer].mlp
            forward, calls = last.forward, iter(range(100))

            def interrupt(hidden, *args, forward=forward, calls=calls, **kwargs):
                if next(calls) == 2 * layer:  # noqa: B023
                    raise KeyboardInterrupt
                return forward(hidden, *args, **kwargs)

            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(last, "forward", interrupt)
                session.ask("why?", 8)
        with counted(session) as read:
            assert session.ask("why?", 8).text == expected
        assert read["images"] == 0

    def test_take_no_more_memory_than_the_context(self, session):
        config = session.model.config.text_config
        for text in ("a b " * 60, "c d " * 60):
            session.messages = []
            reply = session.ask(text, 500)
            assert reply.input_tokens + reply.output_tokens == session.context
            held = {layer.keys.untyped_storage().nbytes() for layer in session._cache._cache.layers}
            assert max(held) <= session.context * config.num_key_value_heads * config.head_dim * 4
