"""Requests in OpenAI's form. A field that is not implemented is an error that names it, unless it cannot change the
answer."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Probability = Annotated[float, Field(gt=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class ImageUrl(_Strict):
    """`detail` is accepted and ignored: every image takes the same number of tokens."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(_Strict):
    type: Literal["image_url"]
    image_url: ImageUrl | str

    @property
    def url(self) -> str:
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url


class VideoUrl(_Strict):
    url: str


class VideoPart(_Strict):
    type: Literal["video_url"]
    video_url: VideoUrl | str

    @property
    def url(self) -> str:
        return self.video_url if isinstance(self.video_url, str) else self.video_url.url


Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]


class Message(_Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None

    @property
    def parts(self) -> list[TextPart | ImagePart | VideoPart]:
        if isinstance(self.content, str):
            return [TextPart(type="text", text=self.content)]
        return list(self.content)


class StreamOptions(_Strict):
    include_usage: bool = False


class TextFormat(_Strict):
    type: Literal["text"]


class JsonObjectFormat(_Strict):
    type: Literal["json_object"]


class JsonSchema(_Strict):
    """`strict` is always meant; `name` and `description` change nothing."""

    name: str
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(_Strict):
    type: Literal["json_schema"]
    json_schema: JsonSchema


class ChoiceFormat(_Strict):
    """The answer is one of the texts."""

    type: Literal["choice"]
    choice: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat | ChoiceFormat, Field(discriminator="type")]


class _SamplingFields(_Strict):
    """Fields of both kinds of requests for text."""

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    seed: Seed | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stop: str | list[str] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: dict[str, Bias] | None = None
    user: str | None = None
    # These cannot change the answer.
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @field_validator("stop")
    @classmethod
    def _no_empty_stop(cls, value: str | list[str] | None) -> str | list[str] | None:
        if value == "" or isinstance(value, list) and "" in value:
            raise ValueError("a stop text must not be empty")
        return value

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> "_SamplingFields":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options need stream=true")
        return self

    @property
    def stop_texts(self) -> tuple[str, ...]:
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class ChatCompletionRequest(_SamplingFields):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> "ChatCompletionRequest":
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            raise ValueError("max_tokens and max_completion_tokens differ: give one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs need logprobs=true")
        return self


class CompletionRequest(_SamplingFields):
    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: Annotated[int, Field(ge=0)] | None = None
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: None = None


class TokenizeRequest(_Strict):
    """A text, or messages as the chat template renders them."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of prompt and messages")
        return self


class DetokenizeRequest(_Strict):
    model: str | None = None
    tokens: list[int]


class ScoreRequest(_Strict):
    """Probabilities of given continuations of a conversation's next turn."""

    model: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)]
    continuations: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    user: str | None = None


class WordRequest(_Strict):
    """A word of the answer to a conversation.

    Attributes:
        before: The answer in front of the word.
    """

    model: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)]
    before: str = ""
    word: Annotated[str, Field(min_length=1)]
    user: str | None = None


class AttentionRequest(WordRequest):
    """Asks where the word looked.

    Attributes:
        layers, heads: Layers and heads of the decoder whose mean is drawn; all by default.
        through: How the visual abstractor is followed back to the patches.
        minus_average: Subtract what the tokens of the prompt look at on average.
    """

    layers: Annotated[list[int], Field(min_length=1)] | None = None
    heads: Annotated[list[int], Field(min_length=1)] | None = None
    through: Literal["last", "rollout"] = "last"
    minus_average: bool = False


class OcclusionRequest(WordRequest):
    """Asks what changes if a part of an image is hidden.

    Attributes:
        image: Which of the messages' images and frames.
        groups: Rows and columns of parts.
    """

    image: Annotated[int, Field(ge=0)] = 0
    groups: Annotated[int, Field(ge=1)] = 7
