"""The renderer of `--tokenizer-mode owl2`: turns messages and texts into the ids that owl2's processor gives."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vllm.exceptions import VLLMValidationError
from vllm.renderers.hf import HfRenderer
from vllm.renderers.params import ChatParams, TokenizeParams

from owl2.checkpoints.loading import load_processor
from owl2.processing.control_tokens import protect, written_out
from owl2.processing.tokenization import IMAGE, VIDEO, PlaceholderTokenizer, beginning_of_sequence

from .proven import refuse_unproven

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm.config import VllmConfig
    from vllm.inputs import TextPrompt, TokensPrompt
    from vllm.tokenizers.hf import HfTokenizer


KINDS = ("text", "image_url", "video_url", "image_pil")
"""Parts of a message that were tested; the last one is for `LLM.chat` in Python."""


class Owl2Renderer(HfRenderer):
    """Hugging Face's renderer with owl2's tokenization, in which what a client writes is text and never a token."""

    def __init__(self, config: "VllmConfig", tokenizer: "HfTokenizer | None") -> None:
        refuse_unproven(config)
        super().__init__(config, tokenizer)
        tokenizer = self.get_tokenizer()
        self.processor = load_processor(self.model_config.model)
        placeholders = {self.processor.image_token: IMAGE, self.processor.video_token: VIDEO}
        self.prompts = PlaceholderTokenizer(
            tokenizer, placeholders, self.processor.image_token_id, beginning_of_sequence(tokenizer)
        )
        self.video_token_id = tokenizer.get_vocab()[self.processor.video_token]

    def render_messages(self, messages: list[Any], params: ChatParams) -> Any:
        return super().render_messages(self._as_text(messages), self._as_owl2(params))

    async def render_messages_async(self, messages: list[Any], params: ChatParams) -> Any:
        return await super().render_messages_async(self._as_text(messages), self._as_owl2(params))

    def render_chat(
        self, conversations: Any, chat_params: ChatParams, tok_params: TokenizeParams | None = None, **others: Any
    ) -> Any:
        return super().render_chat(conversations, chat_params, self._opened(tok_params), **others)

    async def render_chat_async(
        self, conversations: Any, chat_params: ChatParams, tok_params: TokenizeParams | None = None, **others: Any
    ) -> Any:
        return await super().render_chat_async(conversations, chat_params, self._opened(tok_params), **others)

    async def render_cmpl_async(self, prompts: Any, *others: Any, **named: Any) -> Any:
        """Renders prompts of the server; those of `LLM.generate`, which may have placeholders, go another way."""
        return await super().render_cmpl_async([self._typed(prompt) for prompt in prompts], *others, **named)

    def validate_token_ids(self, token_ids: "Sequence[int]", *, parameter: str | None = None) -> None:
        """Refuses ids without an embedding, which end the engine; vLLM accepts all those of the tokenizer."""
        size = self.model_config.hf_config.text_config.vocab_size
        wrong = [token for token in (min(token_ids, default=0), max(token_ids, default=0)) if not 0 <= token < size]
        if wrong:
            raise VLLMValidationError(
                f"token {wrong[0]} is not in the vocabulary of {size} tokens", parameter=parameter or "prompt"
            )

    def _as_text(self, messages: list[Any]) -> list[Any]:
        """The messages with their texts as letters, whatever tokens they spell.

        Raises:
            VLLMValidationError: As `_parts`.
        """
        plain = [{**message, "content": _parts(message.get("content"))} for message in messages]
        return protect(plain, self.processor.protected_tokens)

    def _typed(self, prompt: Any) -> Any:
        """A prompt of a client, which cannot give placeholders; ids and embeddings stay as they are."""
        if not isinstance(prompt, dict) or "prompt_token_ids" in prompt or "prompt" not in prompt:
            return prompt
        (message,) = protect([{"content": prompt["prompt"]}], self.processor.protected_tokens)
        return {**prompt, "prompt": message["content"]}

    def _as_owl2(self, params: ChatParams) -> ChatParams:
        """Uses the processor's template and number of frames, and keeps the parts of messages as they are."""
        media = {**(params.media_io_kwargs or {}), "video": {"num_frames": self.processor.num_frames}}
        template = params.chat_template or self.get_tokenizer().get_chat_template()
        return replace(params, chat_template=template, chat_template_content_format="openai", media_io_kwargs=media)

    def _opened(self, params: TokenizeParams | None) -> TokenizeParams:
        """Adds the beginning of a conversation, which vLLM leaves to the template and owl2's does not write."""
        return replace(params or self.default_chat_tok_params, add_special_tokens=True)

    def _tokenize_prompt(self, prompt: "TextPrompt", params: TokenizeParams) -> "TokensPrompt":
        """Ids of a text with one token for each placeholder.

        Raises:
            VLLMValidationError: It has placeholders, and there is no image or video.
        """
        text = prompt["prompt"]
        rows = [1] * len(self.prompts.find(text))
        if rows and not prompt.get("multi_modal_data"):
            raise VLLMValidationError("the prompt has placeholders, but no image or video", parameter="prompt")
        sequence = self.prompts.encode(text, rows, params.add_special_tokens)
        ids = [
            self.video_token_id if kind == VIDEO else token
            for token, kind in zip(sequence.input_ids, sequence.mm_token_type_ids, strict=True)
        ]
        shown = {**prompt, "prompt": written_out(text, self.processor.protected_tokens)}
        offsets = sequence.offsets if self._wants_offsets(prompt, params) else None
        return self._build_tokens_prompt(ids, shown, offset_mapping=offsets)


def _parts(content: Any) -> list[dict[str, Any]]:
    """The parts of a message.

    Raises:
        VLLMValidationError: A part is of another kind than `KINDS`.
    """
    parts = [content] if isinstance(content, str) else content or []
    named = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    for part in named:
        if part.get("type") not in KINDS:
            raise VLLMValidationError(
                f"a part of type {part.get('type')!r} is not taken: use {', '.join(KINDS)}", parameter="messages"
            )
    return named
