"""What the quickstart measures, against one sample at a time."""

from helpers import GOLDENS, tiny_config, tiny_model
from transformers import AutoTokenizer

from owl2.processing import Owl2ImageProcessor, Owl2Processor
from owl2.quickstart.measurement import blind_answers


def test_blind_answers_come_from_prompts_without_an_image() -> None:
    model = tiny_model(tiny_config(vocab_size=320, eos_token_id=2))
    tokenizer = AutoTokenizer.from_pretrained(GOLDENS / "tokenizer")
    processor = Owl2Processor(Owl2ImageProcessor(size={"height": 16, "width": 16}), tokenizer, num_image_tokens=4)
    (found,) = blind_answers(model, processor, ["what is it?", "what is it?"], batch_size=8).values()
    inputs = processor(text="USER: what is it? ASSISTANT:", return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    expected = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    assert found == expected
