"""`owl2 export --hub-code`: a directory that runs without owl2, with a card, and its upload."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from typer.testing import Result

from owl2 import Owl2ForConditionalGeneration, Owl2Processor
from owl2.checkpoints.hub_code import flat_modules

Run = Callable[..., Result]
PROMPT = "USER: <|image|>What is it? ASSISTANT:"

WITHOUT_OWL2 = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("owl2", "av"):
            raise ImportError(f"No module named {name!r}")
sys.meta_path.insert(0, Refuse())
import torch
import transformers
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
directory, out = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(directory, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(directory, trust_remote_code=True)
parts = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
text = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
inputs = processor(text=text, images=Image.linear_gradient("L"), return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits
answer = model.generate(**inputs, max_new_tokens=3, do_sample=False)
found = {"logits": logits, "text": text, "answer": answer, "version": transformers.__version__}
torch.save(found, out)
model.save_pretrained(directory + "-again")
processor.save_pretrained(directory + "-again")
"""


@pytest.fixture(scope="module")
def exported(official: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from typer.testing import CliRunner

    from owl2.cli.main import app

    directory = tmp_path_factory.mktemp("export") / "tiny-owl"
    options = ["--hub-code", "--dtype", "float32"]
    result = CliRunner().invoke(app, ["export", str(official), str(directory), *options])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{directory}: {official} in float32, owl2 layout, with its code\n"
    return directory


def other_transformers() -> list[Any]:
    """The installed transformers and, where it is named, one at the other end of the window."""
    overlay = os.environ.get("OWL2_OTHER_TRANSFORMERS", "")
    reason = "OWL2_OTHER_TRANSFORMERS names no folder with another transformers"
    return ["", pytest.param(overlay, marks=pytest.mark.skipif(not overlay, reason=reason), id="other")]


@pytest.mark.parametrize("overlay", other_transformers())
def test_it_computes_the_same_where_owl2_is_not_installed(exported: Path, tmp_path: Path, overlay: str) -> None:
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": overlay}
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_OWL2, str(exported), str(tmp_path / "out.pt")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = torch.load(tmp_path / "out.pt")
    assert (found["version"] == transformers.__version__) == (not overlay)
    model, processor = (
        Owl2ForConditionalGeneration.from_pretrained(exported).eval(),
        Owl2Processor.from_pretrained(exported),
    )
    inputs = processor(text=PROMPT, images=Image.linear_gradient("L"), return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(found["logits"], model(**inputs).logits)
    assert found["text"] == PROMPT
    assert torch.equal(found["answer"], model.generate(**inputs, max_new_tokens=3, do_sample=False))
    again = Path(f"{exported}-again")
    assert {file.name for file in exported.glob("*.py")} <= {file.name for file in again.glob("*.py")}


def test_entry_modules_name_every_file_that_they_need() -> None:
    """transformers copies what the entry names, and no further."""
    modules = flat_modules()
    for entry in ("modeling_owl2", "processing_owl2", "configuration_owl2"):
        named = {line.split(".")[1].split(" ")[0] for line in modules[entry].splitlines() if "from ." in line}
        for name in named:
            inner = {line.split(".")[1].split(" ")[0] for line in modules[name].splitlines() if "from ." in line}
            assert inner <= named | {entry}, f"{entry} does not name what {name} needs"
    assert not any(
        "owl2." in line for source in modules.values() for line in source.splitlines() if "import" in line[:25]
    )


def test_what_cannot_be_exported_is_refused(
    refused: Callable[..., str], official: Path, exported: Path, tmp_path: Path
) -> None:
    assert "not empty" in refused("export", official, exported)
    assert "no steps" in refused("export", official, tmp_path / "a", "--step", 3)
    assert "reads our layout" in refused("export", official, tmp_path / "a", "--hub-code", "--layout", "official")


def test_the_card_says_what_the_model_is_and_how_it_loads(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "# tiny-owl" in card and "56 x 56 pixels" in card and "trust_remote_code=True" in card
    assert "Nothing is recorded of how this model was trained" in card
    assert "| code in this directory (owl2) | Apache-2.0 |" in card and "@inproceedings{ye2024mplugowl2" in card


class FakeHub(BaseHTTPRequestHandler):
    """What huggingface_hub asks of a hub for an upload, with every file in the commit itself."""

    files: dict[str, bytes] = {}
    requests: list[tuple[str, str]] = []

    def do_GET(self) -> None:
        self.answer({"name": "me", "type": "user", "sha": "0" * 40, "siblings": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.requests.append((self.path, self.headers.get("Authorization", "")))
        if "/preupload/" in self.path:
            wanted = [each["path"] for each in json.loads(body)["files"]]
            modes = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self.answer({"files": [{"path": path, **modes} for path in wanted]})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            place = f"http://127.0.0.1:{self.server.server_address[1]}/me/tiny-owl/commit/{'1' * 40}"
            self.answer({"commitUrl": place, "commitOid": "1" * 40, "success": True})
        else:
            name = json.loads(body).get("name", "") if body else ""
            place = f"http://127.0.0.1:{self.server.server_address[1]}/me/tiny-owl"
            self.answer({"url": place, "name": name, "id": "me/tiny-owl"})

    def answer(self, content: Any) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = HTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield
    server.shutdown()


@pytest.mark.usefixtures("hub")
def test_it_is_uploaded_through_huggingface_hub(owl2: Run, official: Path, tmp_path: Path) -> None:
    result = owl2("export", official, tmp_path / "tiny-owl", "--hub-code", "--push-to-hub", "me/tiny-owl")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].endswith("/commit/" + "1" * 40)
    written = {file.name: file.read_bytes() for file in (tmp_path / "tiny-owl").iterdir() if file.is_file()}
    assert FakeHub.files == written
    assert ("/api/repos/create", "Bearer hf_test") in FakeHub.requests


def test_a_hub_that_cannot_be_reached_is_one_line(
    refused: Callable[..., str], official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    error = refused("export", official, tmp_path / "tiny-owl", "--push-to-hub", "me/tiny-owl")
    assert "was written, but not uploaded to me/tiny-owl" in error
