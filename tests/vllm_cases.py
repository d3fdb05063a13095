"""Small random models that vLLM can run on a CPU, prompts, what `generate` makes of each alone, and engines."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers import GOLDENS, randomize
from model_server import picture
from PIL import Image

from owl2 import Owl2Config, Owl2ForConditionalGeneration, Owl2Processor
from owl2.modeling import Owl2AbstractorConfig, Owl2TextConfig, Owl2VisionConfig
from owl2.modeling.official_checkpoint import save_official
from owl2.processing.image_processor import Owl2ImageProcessorPil
from owl2.processing.official_layout import load_tokenizer

SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
}
"""Of the environment: an engine in the test's own process, of 1 GiB, with nothing compiled and nothing fetched."""

NEW_TOKENS = 24
CONTEXT = 512
LOGPROB_TOLERANCE = 1e-4
WORDS = "the cat sat on a mat what is in this picture please tell me more about it now".split()

SHAPES = {
    "ours": dict(num_attention_heads=4, num_key_value_heads=2, head_dim=64),
    "official": dict(num_attention_heads=2, num_key_value_heads=2),
}
"""The official code knows no heads whose sizes do not fill the width, and no groups of them."""


def save_model(directory: Path, layout: str, **text: Any) -> Path:
    """A random model with its processor, in the layout `ours` or `official`; `text` changes the language decoder."""
    sizes = dict(vocab_size=320, hidden_size=128, intermediate_size=160, num_hidden_layers=3)
    ids = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2, max_position_embeddings=CONTEXT)
    small = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    config = Owl2Config(
        vision_config=Owl2VisionConfig(**small, intermediate_size=48, image_size=32, patch_size=8),
        abstractor_config=Owl2AbstractorConfig(**small, intermediate_size=40, num_learnable_queries=7),
        text_config=Owl2TextConfig(**{**sizes, **ids, **SHAPES[layout], **text}),
    )
    model = randomize(Owl2ForConditionalGeneration(config)).eval()
    if layout == "official":
        directory.mkdir()
        save_official(model, directory)
        for file in GOLDENS.glob("tokenizer/*token*"):
            shutil.copyfile(file, directory / file.name)
        return directory
    model.save_pretrained(directory)
    images = Owl2ImageProcessorPil(size={"height": 32, "width": 32})
    tokenizer = load_tokenizer(GOLDENS / "tokenizer")
    Owl2Processor(images, tokenizer, num_image_tokens=config.tokens_per_image, num_frames=4).save_pretrained(directory)
    return directory


@dataclass(frozen=True)
class Case:
    """A prompt with its images and videos, each named by the seed of its pixels."""

    name: str
    text: str
    images: tuple[int, ...] = ()
    videos: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.name

    @property
    def pictures(self) -> list[Image.Image]:
        return [picture(seed, (60, 40)) for seed in self.images]

    @property
    def clips(self) -> list[np.ndarray]:
        """Videos [T, H, W, 3] of more frames than the model takes."""
        return [np.stack([np.asarray(picture(100 * seed + frame)) for frame in range(6)]) for seed in self.videos]


def words(count: int, seed: int) -> str:
    generator = torch.Generator().manual_seed(seed)
    return " ".join(WORDS[index] for index in torch.randint(len(WORDS), (count,), generator=generator).tolist())


LONG = f"USER: {words(30, 7)}<|image|>{words(30, 8)} ASSISTANT:"

CASES = [
    Case("text", f"USER: {words(9, 1)} ASSISTANT:"),
    Case("long text", f"USER: {words(50, 2)} ASSISTANT:"),
    Case("an image", f"USER: <|image|>{words(8, 3)} ASSISTANT:", (1,)),
    Case("an image before any text", f"<|image|>{words(8, 4)}", (2,)),
    Case("an image at the end", f"USER: {words(8, 5)}<|image|>", (3,)),
    Case("three images", f"USER: <|image|>{words(5, 6)}<|image|><|image|> {words(6, 9)} ASSISTANT:", (4, 5, 6)),
    Case("an image twice", f"USER: <|image|>{words(5, 6)}<|image|> {words(6, 9)} ASSISTANT:", (4, 4)),
    Case("image A", LONG, (10,)),
    Case("image B in its place", LONG, (11,)),
    Case("image A again", LONG, (10,)),
    Case("image A and a second turn", f"{LONG} yes</s>USER: more ASSISTANT:", (10,)),
    Case("a video", f"USER: <|video|>{words(6, 10)} ASSISTANT:", (), (1,)),
    Case("a video between images", f"USER: <|image|>a<|video|>{words(6, 11)}<|image|> ASSISTANT:", (7, 8), (2,)),
]


@dataclass
class Reference:
    """What `generate` gives for a prompt alone.

    Attributes:
        prompt: Ids, with the image token at visual rows.
        rows: How many of them are visual.
        tokens: Of the answer.
        logprobs: Of these.
    """

    prompt: list[int]
    rows: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class Reader:
    """The model in transformers, in float32.

    Attributes:
        row_id: What stands at visual rows in vLLM's prompts.
    """

    def __init__(self, directory: Path) -> None:
        self.model = Owl2ForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()
        self.processor = Owl2Processor.from_pretrained(directory)
        self.row_id = self.model.config.text_config.pad_token_id or 0

    @torch.no_grad()
    def read(self, case: Case) -> Reference:
        """Answers of one length: the end of the turn does not end them."""
        inputs = self.processor(
            text=case.text, images=case.pictures or None, videos=case.clips or None, return_tensors="pt"
        )
        self.model.generation_config.eos_token_id = None
        output = self.model.generate(
            **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
        prompt = inputs["input_ids"][0].tolist()
        tokens = output.sequences[0, len(prompt) :].tolist()
        logprobs = [
            torch.log_softmax(logits[0], -1)[token].item() for logits, token in zip(output.logits, tokens, strict=True)
        ]
        return Reference(prompt, int((inputs["mm_token_type_ids"] != 0).sum()), tokens, logprobs)

    def as_vllm_writes(self, prompt: list[int]) -> list[int]:
        """A prompt with vLLM's id at visual rows."""
        image = self.model.config.image_token_id
        return [self.row_id if token in (image, self.processor.image_token_id) else token for token in prompt]


@contextmanager
def engine(directory: Path, **changes: Any) -> Iterator[Any]:
    """An `LLM` of vLLM in this process; one at a time."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    limits = dict(max_model_len=CONTEXT, max_num_seqs=16, limit_mm_per_prompt={"image": 4, "video": 1})
    own = dict(dtype="float32", tokenizer_mode="owl2", enforce_eager=True, block_size=32)
    llm = LLM(str(directory), **{**own, **limits, **changes})
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        cleanup_dist_env_and_memory()


def answers(llm: Any, cases: list[Case] | None = None) -> list[Any]:
    """vLLM's, to all cases in one batch, with the log-probability of each token."""
    from vllm import SamplingParams

    prompts = []
    for case in cases or CASES:
        media = {"image": case.pictures, "video": case.clips}
        prompts.append({"prompt": case.text, "multi_modal_data": {kind: each for kind, each in media.items() if each}})
    sampling = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True, logprobs=0)
    return llm.generate(prompts, sampling, use_tqdm=False)


def differences(outputs: list[Any], reader: Reader, references: list[Reference]) -> list[str]:
    """What is not as `generate` has it: prompt ids and tokens exactly, log-probabilities up to the order of sums."""
    found = []
    for case, output, reference in zip(CASES, outputs, references, strict=True):
        answer = output.outputs[0]
        if list(output.prompt_token_ids) != reader.as_vllm_writes(reference.prompt):
            found.append(f"{case}: prompt")
        elif list(answer.token_ids) != reference.tokens:
            found.append(f"{case}: tokens")
        else:
            logprobs = [entry[token].logprob for entry, token in zip(answer.logprobs, answer.token_ids, strict=True)]
            furthest = max(abs(one - other) for one, other in zip(logprobs, reference.logprobs, strict=True))
            if furthest > LOGPROB_TOLERANCE:
                found.append(f"{case}: log-probabilities by {furthest:.1e}")
    return found
