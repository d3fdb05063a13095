"""A command imports what it needs: help, checks and messages answer before torch would have been imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pope_data import SUBSETS, write_pope

from owl2.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "tokenizers", "huggingface_hub", "datasets", "pandas", "scipy", "matplotlib")

RUN = """
import contextlib, io, json, sys
from owl2.cli.main import app

for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            app(arguments)
        except SystemExit as stop:
            code = stop.code
    print(json.dumps([arguments, code, [name for name in json.loads(sys.argv[2]) if name in sys.modules]]))
"""


def python(code: str, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, timeout=120, **options)


def imported_by(*commands: list[str]) -> list[tuple[list[str], int, list[str]]]:
    """Each command line with its exit code and what of `HEAVY` is imported after it, all in one process."""
    output = python(RUN, json.dumps(commands), json.dumps(HEAVY)).stdout
    return [tuple(json.loads(line)) for line in output.splitlines()]


def test_help_and_version_import_nothing_heavy():
    helps = [[name, "--help"] for name in COMMANDS]
    for command, code, heavy in imported_by(
        ["--help"], ["--version"], ["recipes"], *helps, ["data", "check", "--help"]
    ):
        assert (code, heavy) == (0, []), command


def test_mistyped_commands_options_and_keys_import_nothing_heavy(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("base: small/pretrain\noptimizer: {lerning_rate: 1}")
    commands = [["tain"], ["train", "small/pretrian"], ["train", str(recipe)], ["cost", str(recipe)]]
    commands += [["train", "small/pretrain", "optimizer.lerning_rate=1"], ["chat", "--modle", "x"], ["evaluate"]]
    commands += [["train", "small/pretrain", "evaluate.tasks={popo: {}}"], ["evaluate", "-m", "x", "--tasks", "popo"]]
    commands += [["cost", "pretrain", "--gpu", "h999"], ["inspect", "-m", "absent", "--out", "x"]]
    commands += [["inspect", "-m", str(tmp_path), "--out", "x", "--data", "coco"]]
    commands += [["info", "absent"], ["chat", "-m", "absent", "hello"], ["serve", "-m", "absent"]]
    commands += [["quickstart", "--preset", "huge"], ["evaluate", "-m", "absent", "--tasks", "pope"]]
    commands += [["export", "absent", "x"], ["data", "pairs", "absent"], ["quality", "-m", "absent", "docs/images"]]
    commands += [[*command, "-m", "absent", "--bits", "5"] for command in (["chat"], ["serve"], ["quality", "photos"])]
    commands += [["serve", "-m", str(tmp_path), *wrong] for wrong in (["--dtype", "bf16"], ["--device", "gpu"])]
    for command, code, heavy in imported_by(*commands):
        assert (code, heavy) == (2, []), command


def test_data_results_and_lists_need_neither_torch_nor_transformers(tmp_path):
    file = "docs/examples/instructions.jsonl"
    commands = [["data", "check", file], ["data", "check", file, "--images"], ["data", "stats", file]]
    commands += [["evaluate", "--list"], ["score", str(tmp_path)], ["report", str(tmp_path)]]
    commands += [["data", "mix", "mixtures/table8"]]
    for command, code, heavy in imported_by(*commands):
        assert code == (0 if command[1] in ("check", "stats", "--list") else 2), command
        assert heavy == [], command


def test_benchmarks_are_checked_and_answers_scored_with_neither_torch_nor_transformers(tmp_path):
    root, file = write_pope(tmp_path / "data"), tmp_path / "answers.jsonl"
    answers = [{"question_id": f"{each}-{number}", "text": "yes"} for each in SUBSETS for number in range(4)]
    file.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    commands = [["evaluate", "--check", str(root), "--tasks", "pope"]]  # exit code 1: not the 9,000 questions
    commands += [["score", "--answers", str(file), "--task", "pope", "--data", str(root), "--out", str(tmp_path / "o")]]
    for command, code, heavy in imported_by(*commands):
        assert (code, heavy) == (int(command[0] == "evaluate"), []), command


class TestImport:
    """`import owl2` costs nothing, and yet the Auto classes know the model in either order of imports."""

    def test_the_package_alone_imports_nothing_heavy(self):
        code = "import owl2, sys; print([name for name in sys.argv[1:] if name in sys.modules], len(dir(owl2)) > 11)"
        assert python(code, *HEAVY, "numpy", "PIL").stdout.strip() == "[] True"

    @pytest.mark.parametrize(
        "imports",
        [
            "import owl2; from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor",
            pytest.param(
                "from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor; import owl2",
                marks=pytest.mark.slow,
            ),
            # transformers imports its Auto classes halfway through these
            "import owl2, transformers.modeling_layers; from transformers import LlamaForCausalLM, pipeline\n"
            "from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor",
        ],
        ids=["first", "last", "halfway"],
    )
    def test_auto_classes_load_a_directory(self, imports, official):
        code = f"""
{imports}
import pickle, sys
from threading import Thread
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

pickle.loads(pickle.dumps(CONFIG_MAPPING))
found = []
threads = [
    Thread(target=lambda auto: found.append(type(auto.from_pretrained(sys.argv[1])).__name__), args=[auto])
    for auto in 2 * [AutoProcessor, AutoConfig, AutoModelForImageTextToText]
]
[thread.start() for thread in threads], [thread.join() for thread in threads]
print(sorted(set(found)), len(found), type(AutoConfig.for_model("mplug_owl2")).__module__)
print([finder for finder in sys.meta_path if type(finder).__module__ == "owl2.registration"])
"""
        names = ["Owl2Config", "Owl2ForConditionalGeneration", "Owl2Processor"]
        assert python(code, str(official)).stdout.splitlines() == [f"{names} 6 owl2.modeling.configuration", "[]"]


class TestStandardError:
    """Of what other packages say, nothing is seen; -v shows it."""

    def test_commands_that_succeed_say_nothing_there(self, official):
        commands = [["info", "DIR"], ["chat", "-m", "DIR", "--max-new-tokens", "2", "hello"], ["doctor"]]
        commands += [["train", "small/pretrain", "--dry-run"]]
        filled = [[str(official) if word == "DIR" else word for word in command] for command in commands]
        code = """
import json, sys
from owl2.cli.main import app

for arguments in json.loads(sys.argv[1]):
    try:
        app(arguments)
    except SystemExit as stop:
        print(f"ended with {stop.code}")
"""
        result = python(code, json.dumps(filled))
        assert result.stdout.count("ended with 0") == len(commands), result.stdout
        assert result.stderr == ""

    def test_bars_of_others_need_a_terminal(self):
        bar = "from tqdm.auto import tqdm; list(tqdm(range(3), 'a bar of another package'))"
        assert "a bar of another package" in python(bar).stderr
        quiet = python(f"from owl2.quiet import only_our_lines\nwith only_our_lines(): {bar}")
        assert quiet.stderr == ""

    def test_verbose_shows_what_others_say(self, tmp_path):
        code = """
import logging, sys, warnings
from owl2.cli.main import app

class Talkative:
    def find_spec(self, name, path, target=None):
        if name == "owl2.recipes":
            logging.getLogger("other").warning("said by a logger")
            warnings.warn("said by a warning")

sys.meta_path.insert(0, Talkative())
app(sys.argv[1:])
"""
        spoken, silent = python(code, "-v", "recipes").stderr, python(code, "recipes").stderr
        assert "said by a logger" in spoken and "said by a warning" in spoken
        assert silent == ""
