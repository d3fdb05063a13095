"""Shards on S3, read through Multi-Storage Client from a server that speaks just enough of the protocol."""

import importlib.util
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from torch.utils.data import DataLoader

from owl2.data.pairs import PairSamples, PairSettings, TarShards, index_shards
from owl2.data.sampler import Draw

NEEDED = ("multistorageclient", "boto3")
pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED), reason="needs the extra pretrain"
)


class Bucket(ThreadingHTTPServer):
    """Files of a folder as the bucket `bucket`; notes how many bytes were asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Requests)
        self.folder, self.sent = folder, 0


class Requests(BaseHTTPRequestHandler):
    server: Bucket

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        key = unquote(address.path).removeprefix("/bucket").lstrip("/")
        if not key:
            return self._list(parse_qs(address.query).get("prefix", [""])[0])
        file = self.server.folder / key
        if not file.is_file():
            return self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        content, status, headers = file.read_bytes(), 200, {}
        if "Range" in self.headers:
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            stop = min(int(last) + 1 if last else len(content), len(content))
            headers = {"Content-Range": f"bytes {first}-{stop - 1}/{len(content)}"}
            content, status = content[int(first) : stop], 206
        self._answer(status, content, headers)

    def _list(self, prefix: str) -> None:
        files = [path for path in sorted(self.server.folder.rglob("*")) if path.is_file()]
        named = {path.relative_to(self.server.folder).as_posix(): path for path in files}
        rows = "".join(
            f"<Contents><Key>{key}</Key><Size>{path.stat().st_size}</Size><ETag>e</ETag>"
            "<LastModified>2024-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, path in named.items()
            if key.startswith(prefix)
        )
        self._answer(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>".encode())

    def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        added = {"Content-Length": str(len(content)), "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT", "ETag": '"e"'}
        for name, value in {**added, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.server.sent += len(content)
            self.wfile.write(content)


@pytest.fixture(scope="module")
def server() -> Iterator[Bucket]:
    server = Bucket(Path())
    threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def bucket(server: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    for name, value in {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    server.folder = tmp_path
    return server


def test_shards_on_s3_are_indexed_and_read_pair_by_pair(
    bucket: Bucket, shards: Callable[..., Path], tmp_path: Path
) -> None:
    folder, index = shards(40, 30), tmp_path / "index"
    assert [shard.pairs for shard in index_shards("s3://bucket/shards", index)] == [40, 30]
    list(index_shards(folder))
    remote, local = TarShards("s", "s3://bucket/shards", index), TarShards("s", folder)
    bucket.sent = 0
    places = [(group, number) for group, size in enumerate(local.groups) for number in range(size)]
    assert [remote.read(*place) for place in places[::7]] == [local.read(*place) for place in places[::7]]
    size = (folder / "00000.tar").stat().st_size
    assert bucket.sent < size / 2, "only the bytes of the pairs are transferred"


def test_workers_read_from_s3_after_the_main_process_did(
    bucket: Bucket, shards: Callable[..., Path], tmp_path: Path
) -> None:
    shards(6)
    list(index_shards("s3://bucket/shards", tmp_path / "index"))
    samples = PairSamples([TarShards("s", "s3://bucket/shards", tmp_path / "index")], PairSettings(8))
    draws = [Draw("s", epoch, position) for epoch in range(2) for position in range(6)]
    captions = [
        [drawn.sample["caption"] for drawn in DataLoader(samples, sampler=draws, batch_size=None, num_workers=workers)]  # type: ignore[arg-type]
        for workers in (0, 2)
    ]
    assert captions[0] == captions[1] and len(set(captions[0])) == 6
