"""lmms-eval: mPLUG-Owl2 as a model of that harness, in an environment that has it.

Import this module before the harness runs, then name the model `owl2`:

    python -c "import owl2.evaluation.harnesses.lmms_eval; import lmms_eval.__main__ as m; m.cli_evaluate()" \\
        --model owl2 --model_args pretrained=DIR --tasks pope
"""

from collections.abc import Sequence
from typing import Any

from .completion import Completion, stop_texts

try:
    from lmms_eval.api.model import lmms
    from lmms_eval.api.registry import register_model
except ImportError:
    lmms = object

    def register_model(*names: str) -> Any:
        """Registers nothing: without the harness, this module can be imported but not used."""
        return lambda model: model


_LONGEST_ANSWER = 1024  # tokens, where a task does not say


@register_model("owl2")
class Owl2Lmms(lmms):  # type: ignore[misc]  # an object where the harness is not installed
    """Greedy answers to prompts with images.

    Args:
        pretrained: Directory of the model.
        dtype, device: See `load_for_chat`.

    Raises:
        ImportError: lmms-eval is not installed.
    """

    def __init__(
        self, pretrained: str, dtype: str = "auto", device: str = "auto", batch_size: int | str = 1, **_: Any
    ) -> None:
        if lmms is object:
            raise ImportError(
                "lmms-eval is not installed: install it in an environment of its own (docs/evaluation/evaluate.md)"
            )
        super().__init__()
        self._completion = Completion(pretrained, dtype, device, int(batch_size))

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """One answer for each request: (text, settings, function that gives the images, document, task, split)."""
        answers = []
        for request in requests:
            text, settings, to_visuals, document, task, split = request.args
            images = to_visuals(self.task_dict[task][split][document])
            prompt = self._completion.chat_prompt(text, len(images))
            longest = int(settings.get("max_new_tokens", _LONGEST_ANSWER))
            (answer,) = self._completion.answer([prompt], [images], longest, stop_texts(settings))
            answers.append(answer.strip())
        return answers

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError("likelihoods with images: use owl2 evaluate, whose SEED-Bench ranks the options")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise NotImplementedError("tasks of several rounds are not supported")
