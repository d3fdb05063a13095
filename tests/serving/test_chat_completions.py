"""`/v1/chat/completions` through the official client."""

from model_server import NAME, picture, user


def ask(client, *messages, **settings):
    settings = {"temperature": 0, "max_tokens": 12, **settings}
    return client.chat.completions.create(model=NAME, messages=list(messages), **settings)


class TestGreedy:
    def test_an_answer_about_an_image_is_that_of_generate(self, client, generated):
        image = picture(1)
        answer = ask(client, user("what is this?", image))
        assert answer.choices[0].message.content == generated("what is this?", image)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == 12
