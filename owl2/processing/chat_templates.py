"""Chat templates: the published model's, and those of language models extended to images and videos."""

from importlib import resources

IMAGE_TOKEN, VIDEO_TOKEN = "<|image|>", "<|video|>"  # as the template files write them


def read_template(name: str, image_token: str, video_token: str) -> str:
    """A template file of this package, written with the given placeholders."""
    template = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return template.replace(IMAGE_TOKEN, image_token).replace(VIDEO_TOKEN, video_token)


def published_template(image_token: str = IMAGE_TOKEN, video_token: str = VIDEO_TOKEN) -> str:
    """The prompt of the published model (official code, mplug_owl2/conversation.py)."""
    return read_template("chat_template.jinja", image_token, video_token)


def extend_to_media(template: str, image_token: str = IMAGE_TOKEN, video_token: str = VIDEO_TOKEN) -> str:
    """A template that knows only text contents, made to take lists of text, image and video parts too."""
    return read_template("content_parts.jinja", image_token, video_token) + template
