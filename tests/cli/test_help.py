"""`--help` of every command ends with an example that the command takes, and the shell completes what can be listed."""

import shlex
from collections.abc import Callable, Iterator

import pytest
import typer
from typer.testing import CliRunner

from owl2.cli.main import COMMANDS, app

GROUP = typer.main.get_command(app)


def commands() -> Iterator[tuple[list[str], object]]:
    """Every command and command of a group, as it is typed."""
    for name in COMMANDS:
        command = GROUP.get_command(None, name)
        yield [name], command
        for inner in getattr(command, "commands", {}):
            yield [name, inner], command.commands[inner]


@pytest.mark.parametrize(
    ("words", "command"), list(commands()), ids=lambda value: "-".join(value) if type(value) is list else ""
)
def test_help_ends_with_an_example_that_the_command_takes(words, command):
    output = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*words, "--help"]).stdout
    last = output.strip().splitlines()[-1].strip()
    assert last.startswith(f"Example: owl2 {' '.join(words)}"), last
    typed = shlex.split(last.removeprefix("Example: owl2 ").partition(" > ")[0])
    if not hasattr(command, "commands"):
        command.make_context(words[-1], typed[len(words) :])  # raises on an option that does not exist


def test_an_adapter_and_fewer_bits_are_asked_for_in_the_same_words_everywhere():
    options = {
        name: {tuple(each.opts): each.help for each in GROUP.get_command(None, name).params}
        for name in ("chat", "serve", "quality")
    }
    for option in (("--base",), ("--bits",)):
        assert len({found[option] for found in options.values()}) == 1, option


@pytest.fixture
def completed(tmp_path, monkeypatch) -> Callable[[str], list[str]]:
    """What bash is offered for the last word of a line, in a directory with a recipe and a data file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text("")
    (tmp_path / "small.jsonl").write_text("")

    def complete(line: str) -> list[str]:
        words = line.split(" ")
        environment = {"_OWL2_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        return CliRunner(env=environment).invoke(app, [], prog_name="owl2").stdout.split()

    return complete


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("owl2 merg", ["merge-lora"]),
        ("owl2 chat --im", ["--image"]),
        ("owl2 train smal", ["small/instruct", "small/pretrain", "small.yaml"]),
        ("owl2 cost pretrain_", ["pretrain_single_gpu"]),
        ("owl2 data mix mixtures/tab", ["mixtures/table5_pictures", "mixtures/table5_text", "mixtures/table8"]),
        ("owl2 evaluate --tasks pope,mmb", ["pope,mmbench"]),
    ],
)
def test_the_shell_completes_options_recipes_and_benchmarks(completed, line, offered):
    assert completed(line) == offered


def test_completion_can_be_installed():
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).stdout
