"""`owl2 chat` and the session behind it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
import torch
from helpers import GOLDENS
from PIL import Image
from safetensors.torch import load_file, save_file

from owl2.chat import ChatSession
from owl2.checkpoints.loading import load_for_chat
from owl2.cli.main import COMMANDS

QUICK = ("--max-new-tokens", 6)
ROWS = 9  # of an image: 8 queries and the end of the image
CONTEXT = 256


@pytest.fixture
def session(ours: Path) -> ChatSession:
    return ChatSession(*load_for_chat(ours))


def expected_answer(session: ChatSession, prompt: str, images: list, tokens: int) -> str:
    """Prompt and images straight through processor, model and tokenizer."""
    inputs = session.processor(text=prompt, images=images or None, return_tensors="pt")
    output = session.model.generate(**inputs, max_new_tokens=tokens, do_sample=False, pad_token_id=0)
    text = session.processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return text.strip()


def pieces(text: str) -> int:
    """Number of tokens that the sentencepiece library gives a stretch of text."""
    return len(sentencepiece.SentencePieceProcessor(str(GOLDENS / "tokenizer" / "tokenizer.model")).encode(text))


class TestOneShot:
    def test_the_answer_is_the_models_to_the_published_prompt(self, owl2, ours, image, session):
        result = owl2("chat", "--model", ours, "--image", image, *QUICK, "what is this?")
        assert result.exit_code == 0, result.output
        prompt = "USER: <|image|>what is this? ASSISTANT:"
        assert result.stdout.strip() == expected_answer(session, prompt, [image], 6)

    @pytest.mark.parametrize("layout", ["ours", "official"])
    def test_both_layouts_chat_without_an_image(self, owl2, layout, session, request):
        result = owl2("chat", "--model", request.getfixturevalue(layout), *QUICK, "hello")
        assert result.stdout.strip() == expected_answer(session, "USER: hello ASSISTANT:", [], 6)

    def test_json_holds_the_answer_and_the_counts(self, owl2, ours, image):
        result = owl2("chat", "-m", ours, "--image", image, "--image", image, *QUICK, "--json", "hello")
        reply = json.loads(result.stdout)
        assert reply["prompt"] == "USER: <|image|><|image|>hello ASSISTANT:"
        assert (reply["images"], reply["output_tokens"], reply["finish_reason"]) == (2, 6, "length")
        # beginning of sequence, each piece of text by itself, and the rows of the images
        assert reply["input_tokens"] == 1 + pieces("USER: ") + 2 * ROWS + pieces("hello ASSISTANT:")
        assert reply["seconds"] > 0 and isinstance(reply["text"], str)

    def test_the_prompt_may_come_from_the_standard_input(self, owl2, ours):
        reply = json.loads(owl2("chat", "-m", ours, *QUICK, "--json", "-", stdin="hello\n").stdout)
        assert reply["prompt"] == "USER: hello ASSISTANT:"

    def test_placeholders_in_the_prompt_decide_where_images_go(self, owl2, ours, image):
        result = owl2("chat", "-m", ours, "--image", image, *QUICK, "--json", "is <|image|> a cat?")
        assert json.loads(result.stdout)["prompt"] == "USER: is <|image|> a cat? ASSISTANT:"

    def test_every_frame_of_a_video_takes_the_rows_of_an_image(self, owl2, ours, tmp_path):
        frames = [Image.new("RGB", (20, 20), (shade, 0, 0)) for shade in (0, 120, 240)]
        frames[0].save(tmp_path / "three.gif", save_all=True, append_images=frames[1:])
        with_video, without = (
            json.loads(owl2("chat", "-m", ours, *QUICK, "--json", *arguments, "hello").stdout)
            for arguments in (["--video", tmp_path / "three.gif"], [])
        )
        assert with_video["prompt"] == "USER: <|video|>hello ASSISTANT:" and with_video["videos"] == 1
        text_alone = 1 + pieces("USER: ") + pieces("hello ASSISTANT:")
        assert with_video["input_tokens"] == text_alone + 3 * ROWS > without["input_tokens"]

    def test_a_system_text_stands_in_front(self, owl2, ours):
        reply = json.loads(owl2("chat", "-m", ours, *QUICK, "--json", "--system", "Be brief.", "hello").stdout)
        assert reply["prompt"] == "Be brief. USER: hello ASSISTANT:"

    def test_it_runs_in_bfloat16_and_sampled(self, owl2, ours):
        result = owl2("chat", "-m", ours, *QUICK, "--dtype", "bfloat16", "--temperature", "0.8", "hello")
        assert result.exit_code == 0, result.output


class TestConversation:
    def test_earlier_turns_and_their_images_stay_in_the_prompt(self, session, image):
        session.add_image(image)
        first = session.ask("what is this?", max_new_tokens=4)
        second = session.ask("why?", max_new_tokens=4)
        prompt = f"USER: <|image|>what is this? ASSISTANT: {first.text}</s>USER: why? ASSISTANT:"
        assert second.prompt == prompt and second.images == 1
        assert second.text == expected_answer(session, prompt, [image], 4)

    def test_reset_forgets_the_turns_and_waiting_images(self, session, image):
        session.add_image(image)
        session.ask("what is this?", max_new_tokens=2)
        session.add_image(image)
        session.reset()
        assert session.ask("hello", max_new_tokens=2).prompt == "USER: hello ASSISTANT:"

    def test_the_streamed_pieces_are_the_answer(self, session):
        streamed: list[str] = []
        reply = session.ask("hello", max_new_tokens=20, on_text=streamed.append)
        assert "".join(streamed).strip() == reply.text and len(streamed) > 1

    def test_an_answer_that_the_model_ends_is_reported_as_stopped(self, session):
        first = session.processor(text="USER: hello ASSISTANT:", return_tensors="pt")
        session.model.generation_config.eos_token_id = int(session.model(**first).logits[0, -1].argmax())
        reply = session.ask("hello", max_new_tokens=5)
        assert (reply.finish_reason, reply.output_tokens) == ("stop", 1)

    def test_a_turn_that_fails_or_is_interrupted_leaves_no_trace(self, session, image):
        def interrupt(text: str) -> None:
            raise KeyboardInterrupt

        session.add_image(image)
        with pytest.raises(ValueError, match="2 .* 1 images"):
            session.ask("<|image|><|image|>", max_new_tokens=2)
        with pytest.raises(KeyboardInterrupt):
            session.ask("hello", max_new_tokens=2, on_text=interrupt)
        assert session.ask("hello", max_new_tokens=2).prompt == "USER: <|image|>hello ASSISTANT:"

    def test_a_processor_of_another_model_is_refused(self, session):
        session.processor.num_image_tokens = 65
        with pytest.raises(ValueError, match=f"65 .* {ROWS}"):
            ChatSession(session.model, session.processor)

    def test_the_interactive_chat_goes_on_after_errors(self, owl2, ours, image):
        lines = [
            f"/image {image}",
            "what is this?",
            "/image missing.png",
            "/nonsense",
            "/help",
            "/reset",
            "hi",
            "/exit",
        ]
        result = owl2("chat", "-m", ours, *QUICK, stdin="\n".join([*lines, "never asked"]))
        assert result.exit_code == 0, result.output
        assert "Image of 256 x 256 pixels" in result.stderr and "/image PATH" in result.stderr
        errors = [line for line in result.stderr.splitlines() if line.startswith("owl2: error: ")]
        assert len(errors) == 2 and "missing.png" in errors[0] and "/nonsense" in errors[1]
        assert len(result.stdout.strip().splitlines()) == 2  # one answer each before and after /reset

    def test_the_interactive_chat_ends_with_the_input(self, owl2, ours):
        assert owl2("chat", "-m", ours, stdin="").exit_code == 0


class TestContext:
    def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(self, refused, ours):
        text = "a b " * 300
        length = 1 + pieces(f"USER: {text} ASSISTANT:")
        line = refused("chat", "-m", ours, text)
        assert f" {length} tokens" in line and f" {CONTEXT} " in line

    def test_text_is_cut_on_request_and_images_are_kept(self, owl2, ours, image):
        text = "a b " * 300
        result = owl2("chat", "-m", ours, "--image", image, "--truncate", "--max-new-tokens", 4, "--json", text)
        reply = json.loads(result.stdout)
        kept = text[: len(text) - reply["cut_characters"]]
        assert reply["prompt"] == f"USER: <|image|>{kept} ASSISTANT:" and 0 < len(kept) < len(text)
        assert reply["images"] == 1 and CONTEXT - 8 < reply["input_tokens"] <= CONTEXT - 4

    def test_images_are_never_cut(self, refused, ours, image):
        images = ["--image", image] * 30
        line = refused("chat", "-m", ours, *images, "--truncate", "hello")
        assert "Only text is ever cut" in line and str(1 + pieces("USER: ") + 30 * ROWS + pieces(" ASSISTANT:")) in line

    def test_only_text_behind_the_last_placeholder_is_cut(self, owl2, refused, ours, image):
        arguments = ("chat", "-m", ours, "--image", image, "--truncate", "--max-new-tokens", 4)
        reply = json.loads(owl2(*arguments, "--json", "look: <|image|>" + "c d " * 200).stdout)
        assert reply["prompt"].startswith("USER: look: <|image|>c d ") and reply["images"] == 1
        assert "text before a placeholder" in refused(*arguments, "a b " * 200 + "<|image|> c d")

    def test_a_temperature_next_to_zero_is_greedy(self, session):
        assert (
            session.ask("hello", 4, temperature=1e-300).text
            == ChatSession(session.model, session.processor).ask("hello", 4).text
        )
        for temperature in (float("nan"), float("inf"), -1.0):
            with pytest.raises(ValueError, match=f"temperature={temperature}"):
                session.ask("hello", 4, temperature=temperature)

    def test_an_answer_ends_with_the_context(self, session):
        reply = session.ask("a b " * 60, max_new_tokens=500)
        assert reply.input_tokens + reply.output_tokens <= CONTEXT


class TestBadInput:
    def test_a_missing_image(self, refused, ours):
        assert "missing.png" in refused("chat", "-m", ours, "--image", "missing.png", "hi")

    def test_images_and_videos_are_looked_at_before_the_model_is_loaded(self, refused, tmp_path):
        no_model = tmp_path / "model"
        assert "missing.png" in refused("chat", "-m", no_model, "--image", "missing.png", "hi")
        assert "missing.mp4" in refused("chat", "-m", no_model, "--video", "missing.mp4", "hi")

    def test_a_corrupt_image(self, refused, ours, tmp_path):
        (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
        assert "broken.png" in refused("chat", "-m", ours, "--image", tmp_path / "broken.png", "hi")

    def test_a_decompression_bomb(self, refused, ours, image, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        assert "decompression bomb" in refused("chat", "-m", ours, "--image", image, "hi")

    def test_a_missing_video(self, refused, ours):
        assert "missing.mp4" in refused("chat", "-m", ours, "--video", "missing.mp4", "hi")

    def test_fewer_images_than_placeholders(self, refused, ours, image):
        line = refused("chat", "-m", ours, "--image", image, "<|image|> or <|image|>?")
        assert "2 <|image|> placeholders" in line and "1 images" in line

    def test_an_unknown_model_directory(self, refused):
        assert "no/such/model does not exist" in refused("chat", "-m", "no/such/model", "hi")

    def test_a_run_directory_names_the_checkpoint_inside(self, refused, editable):
        assert f"did you mean {editable}?" in refused("chat", "-m", editable.parent, "hi")

    def test_the_folder_of_a_run_with_lora_says_how_its_model_is_made(self, refused, ours, tmp_path):
        shutil.copytree(ours, tmp_path / "run" / "initial")
        adapter = tmp_path / "run" / "checkpoint"
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "bases/seven"}')
        said = refused("chat", "-m", tmp_path / "run", "hi")
        assert f"owl2 merge-lora {adapter} MODEL --base bases/seven" in said and "did you mean" not in said
        shutil.rmtree(adapter)
        (tmp_path / "run" / "checkpoints").mkdir()
        assert f"owl2 export {tmp_path / 'run'} MODEL" in refused("chat", "-m", tmp_path / "run", "hi")

    def test_a_model_of_another_type(self, refused, editable):
        (editable / "config.json").write_text('{"model_type": "llama"}')
        assert "'llama'" in refused("chat", "-m", editable, "hi")

    def test_a_config_that_is_not_json(self, refused, editable):
        (editable / "config.json").write_text("{")
        assert "config.json is not valid JSON" in refused("chat", "-m", editable, "hi")

    def test_a_checkpoint_with_missing_and_extra_keys_names_them(self, refused, editable):
        tensors = load_file(editable / "model.safetensors")
        tensors["model.extra.weight"] = tensors.pop("lm_head.weight")
        save_file(tensors, editable / "model.safetensors", metadata={"format": "pt"})
        line = refused("chat", "-m", editable, "hi")
        assert "lm_head.weight" in line and "model.extra.weight" in line

    def test_damaged_weights(self, refused, editable):
        weights = editable / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        line = refused("chat", "-m", editable, "hi")
        assert str(editable) in line and "cannot be read" in line

    def test_weights_that_would_execute_code(self, refused, editable):
        (editable / "model.safetensors").unlink()
        torch.save({"lm_head.weight": os.system}, editable / "pytorch_model.bin")
        line = refused("chat", "-m", editable, "hi")
        assert str(editable) in line and "cannot be read" in line

    def test_no_tokenizer(self, refused, editable):
        for file in editable.glob("tokenizer*"):
            file.unlink()
        assert "has no tokenizer" in refused("chat", "-m", editable, "hi")

    @pytest.mark.parametrize(("file", "contents"), [("tokenizer.json", "{}"), ("generation_config.json", "nope")])
    def test_a_damaged_small_file(self, refused, editable, file, contents):
        (editable / file).write_text(contents)
        assert str(editable) in refused("chat", "-m", editable, "hi")

    def test_an_empty_tokenizer(self, refused, official, tmp_path):
        model = Path(shutil.copytree(official, tmp_path / "model"))
        (model / "tokenizer.model").write_bytes(b"")
        assert "tokenizer.model is empty" in refused("chat", "-m", model, "hi")

    @pytest.mark.parametrize("contents", ["[1]", '{"weight_map": {"lm_head.weight": "../model.safetensors"}}'])
    def test_an_index_that_is_none_or_leaves_its_directory(self, refused, editable, contents):
        (editable / "model.safetensors").rename(editable.parent / "model.safetensors")
        (editable / "model.safetensors.index.json").write_text(contents)
        assert "model.safetensors.index.json" in refused("chat", "-m", editable, "hi")

    def test_weights_of_no_bytes(self, refused, official, tmp_path):
        model = Path(shutil.copytree(official, tmp_path / "model"))
        (model / "model.safetensors").unlink()
        (model / "pytorch_model.bin").write_bytes(b"")
        assert "pytorch_model.bin cannot be read as weights" in refused("chat", "-m", model, "hi")

    def test_a_prompt_that_is_not_unicode(self, refused, ours):
        prompt = os.fsdecode(b"caf\xe9")  # as Python reads an argument in Latin-1
        assert "is not valid Unicode" in refused("chat", "-m", ours, prompt)
        assert "the standard input is not text" in refused("chat", "-m", ours, "-", stdin=b"caf\xe9")

    def test_json_without_a_prompt(self, refused, ours):
        assert "--json needs a PROMPT" in refused("chat", "-m", ours, "--json")

    def test_an_empty_prompt(self, refused, ours):
        assert "empty" in refused("chat", "-m", ours, " ")

    def test_an_unknown_dtype_and_device(self, refused, ours):
        assert "int3" in refused("chat", "-m", ours, "--dtype", "int3", "hi")
        assert "did you mean cuda?" in refused("chat", "-m", ours, "--device", "cdua", "hi")
        for device in ("nonsense", "meta", "cuda:", "cuda:first"):
            message = refused("chat", "-m", ours, "--device", device, "hi")
            assert f"--device {device}: " in message and "choose among auto, cpu, cuda" in message

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"dtype": "int3"}, "there is no dtype 'int3'"),
            ({"device": "nonsense"}, "the device 'nonsense' cannot be used here"),
            ({"device": "meta"}, "'meta' holds no values"),
        ],
        ids=str,
    )
    def test_an_unknown_dtype_and_device_in_python(self, ours, settings, said):
        with pytest.raises(ValueError, match=said):
            load_for_chat(ours, **settings)


class TestErrors:
    def test_the_installed_command_prints_one_line_and_no_traceback(self, ours):
        command = [sys.executable, "-m", "owl2.cli.main", "chat", "--model", str(ours), "--image", "missing.png", "hi"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (result.returncode, result.stdout) == (2, "")
        # torchao, where it is installed, may complain before.
        assert result.stderr.splitlines()[-1] == "owl2: error: the image 'missing.png' does not exist"
        assert "Traceback" not in result.stderr and result.stderr.count("owl2") == 1

    def test_debug_shows_where_an_error_arose(self, owl2, ours, monkeypatch):
        arguments = ("chat", "-m", ours, "--image", "missing.png", "hi")
        assert isinstance(owl2("--debug", *arguments).exception, ValueError)
        monkeypatch.setenv("OWL2_DEBUG", "1")
        assert isinstance(owl2(*arguments).exception, ValueError)

    def test_what_a_user_cannot_put_right_keeps_its_traceback(self, owl2, ours, monkeypatch):
        def fail(*arguments: object, **settings: object) -> None:
            raise RuntimeError("a mistake of ours")

        monkeypatch.setattr(ChatSession, "ask", fail)
        assert isinstance(owl2("chat", "-m", ours, "hi").exception, RuntimeError)


def test_the_help_lists_every_command(owl2):
    result = owl2("--help")
    assert result.exit_code == 0 and all(f" {command} " in result.stdout for command in COMMANDS)
