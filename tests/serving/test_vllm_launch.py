"""`owl2 serve --engine vllm` up to the moment at which vLLM takes over; no vLLM is needed for it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from owl2.cli.main import app
from owl2.serving.settings import ServeSettings
from owl2.serving.vllm import launch, register


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Makes a release of vLLM the installed one."""

    def install(release: str | None) -> None:
        monkeypatch.setattr("owl2.serving.vllm.launch.vllm_version", lambda: release)
        monkeypatch.setattr("owl2.serving.vllm.vllm_version", lambda: release)

    return install


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, installed: Callable[..., None]) -> list[Any]:
    """What the process would become: program, arguments, environment."""
    calls: list[Any] = []
    monkeypatch.setattr("os.execve", lambda *arguments: calls.append(arguments))
    installed("0.32.0")
    return calls


def serve(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["serve", "--engine", "vllm", *(str(argument) for argument in arguments)])


def refusal(*arguments: object) -> str:
    result = serve(*arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return line


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_vllm_is_started_with_what_is_right_for_the_model(directory: Path, started: list[Any]) -> None:
    assert serve("-m", directory, "--port", 9000, "limits.images=2").exit_code == 0
    ((program, command, environment),) = started
    assert [program, *command[:2]] == [sys.executable, sys.executable, "-m"]
    assert option(command, "--model") == str(directory)
    assert option(command, "--tokenizer-mode") == "owl2"
    assert option(command, "--dtype") == "float32"  # as the weights are stored: vLLM would halve them
    assert option(command, "--port") == "9000" and option(command, "--host") == "127.0.0.1"
    assert option(command, "--served-model-name") == directory.name
    assert json.loads(option(command, "--limit-mm-per-prompt")) == {"image": 2, "video": 2}
    assert "--enforce-eager" in command and "--max-num-seqs" not in command
    assert environment["VLLM_MEDIA_CONNECTOR"] == "owl2" and environment["VLLM_NO_USAGE_STATS"] == "1"
    assert ServeSettings.model_validate_json(environment[launch.SETTINGS]).limits.images == 2


def test_settings_become_options_and_options_of_vllm_come_last(directory: Path, started: list[Any]) -> None:
    given = ["engine.max_requests=64", "engine.prefix_cache=false", "model_name=owl", "api_keys=[a, b]"]
    serve("-m", directory, "--dtype", "bfloat16", *given, "--", "--gpu-memory-utilization", "0.8")
    ((_, command, environment),) = started
    assert option(command, "--max-num-seqs") == "64" and "--no-enable-prefix-caching" in command
    assert option(command, "--served-model-name") == "owl" and option(command, "--dtype") == "bfloat16"
    assert command[-2:] == ["--gpu-memory-utilization", "0.8"]
    assert not {"a", "b"} & set(command)  # others see the arguments of a process
    assert json.loads(environment[launch.SETTINGS])["api_keys"] == ["a", "b"]


def test_what_somebody_has_in_the_environment_stays(
    directory: Path, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_MEDIA_CONNECTOR", "http")
    serve("-m", directory)
    assert started[0][2]["VLLM_MEDIA_CONNECTOR"] == "http"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["engine.cache_tokens=9"], "there is no setting engine.cache_tokens: it is of the embedded engine"),
        (["limits.queued=9", "engine.image_cache_bytes=9"], "limits.queued, engine.image_cache_bytes"),
        (["--device", "cuda:1"], "not --device cuda:1"),
        (["--base", "B"], "no --base"),
        (["--", "--tensor-parallel-size=2"], "--tensor-parallel-size was not tested with mPLUG-Owl2 in vLLM: each"),
        (["--", "--quantization", "fp8"], "--quantization was not tested"),
        (["--dtype", "int8"], "'int8' is not one of 'auto', 'float32'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_vllm_does_not_have_or_was_not_tested_is_one_line(
    arguments: list[str], said: str, directory: Path, started: list[Any]
) -> None:
    assert said in refusal("-m", directory, *arguments)
    assert started == []


@pytest.mark.parametrize(
    ("release", "said"),
    [(None, "it is not installed: pip install 'owl2[vllm]'"), ("0.33.0", "0.33.0 is installed: pip install")],
)
def test_without_the_right_vllm_it_says_what_to_install(
    release: str | None, said: str, directory: Path, installed: Callable[..., None]
) -> None:
    installed(release)
    assert said in refusal("-m", directory)


def test_a_folder_that_is_no_model_and_an_engine_that_is_none(tmp_path: Path, started: list[Any]) -> None:
    assert "no config.json" in refusal("-m", tmp_path)
    assert "does not exist" in refusal("-m", tmp_path / "none")
    assert "there is no engine 'tgi': choose among embedded, vllm" in refusal("-m", tmp_path, "--engine", "tgi")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"qk_norm": True}, "models with qk_norm=True were not tested in vLLM"),
        ({"sliding_window": 9}, "models with sliding_window=9 were not tested"),
        ({"routing": "hash"}, "models with routing='hash' were not tested"),
        ({"connector": "mlp"}, "models with connector='mlp' were not tested"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_model_that_was_not_tested_is_refused_before_vllm_starts(
    changes: dict[str, Any], said: str, loaded: Any, tmp_path: Path, started: list[Any]
) -> None:
    loaded[0].config.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, **changes, "text_config": {**config["text_config"], **changes}}))
    assert said in refusal("-m", tmp_path)


def test_the_plugin_leaves_another_release_of_vllm_as_it_is(
    installed: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    installed("0.33.0")
    register()
    assert "owl2 is not registered with vLLM 0.33.0: its plugin is for vLLM 0.32" in caplog.text


def test_mistakes_are_answered_without_torch() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom owl2.cli.main import app\n"
        "result = CliRunner().invoke(app, ['serve', '--engine', 'vllm', '-m', 'none', 'limits.queued=3'])\n"
        "print(result.exit_code, [name for name in ('torch', 'transformers', 'vllm') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "2 []"
