"""A benchmark: samples from local files, a prompt, decoding, a way to score (specification, 0.3).

A task is data and functions, one file under `tasks`. Neither loading nor scoring needs a model, so that saved
predictions can be scored again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL.Image import Image

from owl2.evaluation.judge.judge import JudgeItem


@dataclass(frozen=True)
class Decoding:
    """Greedy decoding (specification, 0.2).

    Attributes:
        stop: Texts at which an answer ends; they and what follows are cut off.
    """

    max_new_tokens: int
    min_new_tokens: int = 1
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Clip:
    """A video, or the part of it from `start` to `end`, of which `num_frames` frames are spread evenly (`load_video`).

    Attributes:
        unit: Unit of `start` and `end`.
        spacing: Choice of frames; "seed" is that of SEED-Bench's program, "one_a_second" those of Q-Align's.
    """

    path: Path
    num_frames: int = 8
    start: float | None = None
    end: float | None = None
    unit: Literal["seconds", "frames"] = "seconds"
    spacing: Literal["centres", "seed", "one_a_second"] = "centres"


class Turn(NamedTuple):
    """A question with its answer that the model is shown before it is asked: turns of user and assistant in the chat
    template, lines of text without it."""

    question: str
    answer: str


@dataclass(frozen=True)
class Sample:
    """One question.

    Attributes:
        id: Name, unique in the task.
        prompt: Text that the user says, without images, which come first. The runner puts it into the chat template. A
            prompt outside of it may hold `<|image|>` where the images stand.
        gold: The right answer, as the scorer needs it; JSON.
        images: Paths or bytes of images, or functions that draw them.
        choices: Continuations of the prompt to rank by likelihood; none if an answer is generated.
        uses_chat_template: Whether it is sent in the chat template `USER: ... ASSISTANT:`; otherwise the model
            continues the raw text.
        preamble, shots: What precedes the prompt: text, or turns of the conversation. Shots are left out
            from the last on where a prompt does not fit the context (specification, 13.1).
        whole_sequence: The ranking needs the likelihood of the prompt as well.
        details: Whatever else the scorer needs; JSON.
    """

    id: str
    prompt: str
    gold: Any
    images: tuple[Path | bytes | Callable[[], Image], ...] = ()
    clip: Clip | None = None
    choices: tuple[str, ...] = ()
    uses_chat_template: bool = True
    preamble: str = ""
    shots: tuple[str | Turn, ...] = ()
    whole_sequence: bool = False
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ranking:
    """Likelihoods of the choices of a sample, natural logarithms.

    Attributes:
        log_probabilities: Log-probability of each choice after the context.
        tokens: Number of tokens of each choice.
        context_log_probability, context_tokens: The same for the context without its first token; scorers that
            rank whole sequences need it.
    """

    choices: tuple[str, ...]
    log_probabilities: tuple[float, ...]
    tokens: tuple[int, ...]
    context_log_probability: float
    context_tokens: int

    def best(self) -> int:
        """Index of the likeliest choice; the first one of equals."""
        return self.log_probabilities.index(max(self.log_probabilities))


@dataclass(frozen=True)
class Prediction:
    """A sample with the model's answer, as it is saved: everything that a scorer gets.

    Attributes:
        prompt: Text as it was sent, chat template and placeholders included.
        raw: The answer, or the likelihoods of the choices.
    """

    id: str
    prompt: str
    raw: str | Ranking
    gold: Any
    details: dict[str, Any]

    @property
    def answer(self) -> str:
        """The generated answer.

        Raises:
            ValueError: Choices were ranked.
        """
        if isinstance(self.raw, str):
            return self.raw
        raise ValueError(f"sample {self.id} has ranked choices, but this protocol scores a generated answer")

    @property
    def ranking(self) -> Ranking:
        """The likelihoods.

        Raises:
            ValueError: An answer was generated.
        """
        if isinstance(self.raw, Ranking):
            return self.raw
        raise ValueError(f"sample {self.id} has a generated answer, but this protocol scores ranked choices")


@dataclass(frozen=True)
class Scores:
    """The scores of the records, in their order.

    Attributes:
        parsed: The answers as the parser read it, JSON; None where it could not.
        scores: Score of each record; None where the benchmark scores only groups.
        summary: The measures, fractions where the benchmark counts right answers; JSON.
    """

    parsed: Sequence[Any]
    scores: Sequence[float | None]
    summary: Mapping[str, Any]


@dataclass(frozen=True)
class JudgedScoring:
    """The scoring of records by a judge under some protocols.

    Attributes:
        model: Judge that the benchmark's own program asks.
        runs: Number of independent repetitions.
        protocols: Protocols that need the judge.
        prompts: Names of the files with its prompts.
        items: Makes the questions to the judge from the records, under a protocol, with the prompts by name.
        score: Makes the scores from the values by id of each run.
    """

    model: str
    runs: int
    protocols: tuple[str, ...]
    prompts: tuple[str, ...]
    items: Callable[[Sequence[Prediction], str, Mapping[str, str]], list[JudgeItem[Any]]]
    score: Callable[[Sequence[Prediction], Sequence[Mapping[str, Any]], str], Scores]


@dataclass(frozen=True)
class Task:
    """A benchmark. The first split, prompt and protocol are the defaults.

    Attributes:
        name: Name on the command line and of its folder in a run.
        files: Annotation files of a split below the root of the data, with which `--check` and the hashes of the
            result begin.
        load: Loads the samples of a split with a prompt, from the root of the data.
        counts: Number of samples of each split, where the specification gives it.
        score: Scores predictions under a protocol that needs no judge.
        primary_metric: Key of the summary by which the benchmark is known.
        download_hint: What to fetch and from whom, in a line.
        decoding: Decoding by name of prompt; the entry "" is for all others.
        is_generated: Whether the samples are made on the spot, so that none can be missing.
        prompts_of: Prompts of a split, the default first, by split; all of them for a split that is not named.
        protocols_of: Protocols that can score a prompt's answers, by prompt; all for a prompt that is not named.
        aspect: How images become square; see `Owl2ImageProcessorPil`. None leaves it to the model's processor, whose
            default is that of the official scripts (specification, 0.2).
        suffix: Text after the chat template. The official scripts end their prompts with a space (specification, 0.2).
        submission: Writes the official form into a directory, and returns the file.
        submitted_splits: Splits of which a server takes predictions; all, if it is empty.
        on_request: Protocols that are computed only if they are named: they need a program from elsewhere.
        paper_results: Our measures by (table, measure) of `published`: keys of the summary, dots for nesting;
            `PROTOCOL:KEY` if it is not the default protocol's.
        not_comparable: Why scores must not be compared with the published ones, by split or prompt. That a prompt
            or a protocol is not the default is always a reason.
    """

    name: str
    title: str
    splits: tuple[str, ...]
    prompts: tuple[str, ...]
    protocols: tuple[str, ...]
    files: Callable[[Path, str], list[Path]]
    load: Callable[[Path, str, str], list[Sample]]
    score: Callable[[Sequence[Prediction], str], Scores]
    primary_metric: str
    download_hint: str
    decoding: Mapping[str, Decoding]
    is_generated: bool = False
    prompts_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    protocols_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    aspect: str | None = None
    suffix: str = " "
    judged: JudgedScoring | None = None
    submission: Callable[[Sequence[Prediction], Path], Path] | None = None
    submitted_splits: tuple[str, ...] = ()
    on_request: tuple[str, ...] = ()
    paper_results: Mapping[tuple[str, str], str] = field(default_factory=dict)
    not_comparable: Mapping[str, str] = field(default_factory=dict)

    def decoding_of(self, prompt: str) -> Decoding:
        """The decoding of a prompt."""
        return self.decoding.get(prompt, self.decoding[""])

    def prompt_for(self, split: str, name: str | None) -> str:
        """The prompt of the name, or the default of the split if it is None.

        Raises:
            ValueError: The prompt does not exist, or the split takes others.
        """
        usable = self.prompts_of.get(split, self.prompts)
        prompt = usable[0] if name is None else self.chosen("prompt", name)
        if prompt not in usable:
            raise ValueError(f"the split {split} of {self.name} takes the prompts {', '.join(usable)}, not {prompt!r}")
        return prompt

    def protocols_for(self, prompt: str) -> tuple[str, ...]:
        """The protocols that can score a prompt's answers; the first is the default."""
        return self.protocols_of.get(prompt, self.protocols)

    def chosen(self, kind: Literal["split", "prompt", "protocol"], name: str | None) -> str:
        """The name, or the default if it is None.

        Raises:
            ValueError: The split, prompt or protocol does not exist.
        """
        known = {"split": self.splits, "prompt": self.prompts, "protocol": self.protocols}[kind]
        if name is None:
            return known[0]
        if name not in known:
            raise ValueError(f"{self.name} has no {kind} {name!r}: choose among {', '.join(known)}")
        return name
