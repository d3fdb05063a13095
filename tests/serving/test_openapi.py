"""Requests made up from the server's own OpenAPI document: none of them may harm it or get an answer not described."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.mark.slow
def test_the_server_behaves_as_its_document_says(start: Any, tmp_path: Path) -> None:
    server = start("limits.new_tokens=4")
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--checks", CHECKS]
    command += ["--max-examples", "25", "--seed", "1", "--phases", "examples,coverage,fuzzing", "--no-color"]
    command += ["--suppress-health-check", "all"]
    # It keeps what it found in the directory that it runs in.
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=tmp_path)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert httpx.get(f"{server.url}/health").status_code == 200
    server.wait(lambda: server.engine.in_flight == 0 and server.engine.admission.running == 0)
