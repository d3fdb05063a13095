"""VLMEvalKit: mPLUG-Owl2 as a model of that harness, in an environment that has it.

Add it to the harness's table of models before a run:

    from vlmeval.config import supported_VLM
    from owl2.evaluation.harnesses.vlmevalkit import Owl2VLM
    supported_VLM["owl2"] = functools.partial(Owl2VLM, pretrained="DIR")
"""

from typing import Any

from .completion import Completion

try:
    from vlmeval.vlm.base import BaseModel
except ImportError:
    BaseModel = object

_LONGEST_CHOICE, _LONGEST_ANSWER = 10, 512  # tokens, of the harness's own wrapper for this model (specification, 0.2)


class Owl2VLM(BaseModel):  # type: ignore[misc]  # an object where the harness is not installed
    """Greedy answers to messages of texts and images in any order.

    Args:
        pretrained: Directory of the model.
        dtype, device: See `load_for_chat`.

    Raises:
        ImportError: VLMEvalKit is not installed.
    """

    INSTALL_REQ = False
    INTERLEAVE = True

    def __init__(self, pretrained: str, dtype: str = "auto", device: str = "auto", **_: Any) -> None:
        if BaseModel is object:
            raise ImportError(
                "VLMEvalKit is not installed: install it in an environment of its own (docs/evaluation/evaluate.md)"
            )
        super().__init__()
        self._completion = Completion(pretrained, dtype, device, 1)

    def generate_inner(self, message: list[dict[str, str]], dataset: str | None = None) -> str:
        """The answer to a message, whose parts are {"type": "text" or "image", "value": text or path}."""
        content: list[dict[str, str]] = []
        images = []
        for part in message:
            if part["type"] == "image":
                content.append({"type": "image"})
                images.append(part["value"])
            elif part["type"] == "text":
                content.append({"type": "text", "text": part["value"]})
            else:
                raise ValueError(f"a part of type {part['type']!r} is neither text nor image")
        messages = [{"role": "user", "content": content}]
        prompt = self._completion.processor.apply_chat_template(messages, add_generation_prompt=True)
        longest = _LONGEST_CHOICE if self._is_multiple_choice(dataset) else _LONGEST_ANSWER
        (answer,) = self._completion.answer([prompt], [images], longest)
        return answer.strip()

    def _is_multiple_choice(self, dataset: str | None) -> bool:
        if dataset is None:
            return False
        from vlmeval.dataset import DATASET_TYPE

        return bool(DATASET_TYPE(dataset) == "MCQ")
