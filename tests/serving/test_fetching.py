"""Images by address: which are fetched, and which never."""

import io
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from model_server import picture

from owl2.serving.engine.errors import InvalidRequest
from owl2.serving.fetching import Fetcher, is_public
from owl2.serving.settings import FetchSettings

PUBLIC = "93.184.216.34"


def png() -> bytes:
    buffer = io.BytesIO()
    picture(0).save(buffer, "PNG")
    return buffer.getvalue()


class _Site(BaseHTTPRequestHandler):
    """Answers by path, and notes what it was asked."""

    def do_GET(self) -> None:
        self.server.asked.append((self.headers["Host"], self.path, dict(self.headers)))
        kind, _, rest = self.path.lstrip("/").partition("/")
        if kind == "to":
            self.send_response(302)
            self.send_header("Location", self.server.locations[rest])
            self.end_headers()
        elif kind == "slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"x")
                time.sleep(0.05)
        elif kind == "endless":
            self.send_response(200)
            self.end_headers()
            for _ in range(1000):
                self.wfile.write(b"x" * 10_000)
        elif kind == "image":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(png())
        else:
            self.send_error(404)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    server.asked, server.locations = [], {}
    thread = threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True)
    thread.start()
    yield server
    server.shutdown()


@pytest.fixture
def dialled() -> list[tuple[str, int]]:
    return []


@pytest.fixture
def fetcher(site, dialled):
    """Makes a fetcher for which names lead where a test says, and every public address to the site."""

    def make(names: dict[str, list[list[str]]] | None = None, **settings):
        answers = {name: iter(lists) for name, lists in (names or {"images.example.org": [[PUBLIC]]}).items()}

        def resolve(host: str, port: int) -> list[str]:
            return next(answers[host])

        def connect(address: str, port: int, seconds: float) -> socket.socket:
            dialled.append((address, port))
            return socket.create_connection(site.server_address, timeout=seconds)

        settings = {"allowed_hosts": ("images.example.org", "*.pictures.example"), **settings}
        return Fetcher(FetchSettings(**settings), resolve, connect)

    return make


def test_an_image_of_an_allowed_host_comes_from_the_address_that_was_checked(site, fetcher, dialled):
    assert fetcher().fetch("http://images.example.org/image", "x") == png()
    assert dialled == [(PUBLIC, 80)]
    ((host, path, headers),) = site.asked
    assert (host, path) == ("images.example.org", "/image")
    assert not {"Cookie", "Authorization", "Referer"} & set(headers)


def test_the_environment_has_no_say(fetcher, site, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert fetcher().fetch("http://images.example.org/image", "x") == png()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "10.0.0.1",
        "172.16.5.4",
        "192.168.1.1",
        "169.254.169.254",  # the metadata service of clouds
        "100.64.0.1",
        "100.100.100.200",
        "0.0.0.0",
        "0.1.2.3",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "198.18.0.1",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::a00:1",
        "2002:7f00:1::",
        "2001:db8::1",
        "2001:0:4136:e378::1",
        "fec0::1",
    ],
)
def test_an_address_that_is_not_public_is_never_dialled(fetcher, dialled, address):
    assert not is_public(address)
    for answer in ([address], [PUBLIC, address], [address, PUBLIC]):
        with pytest.raises(InvalidRequest, match="no public address"):
            fetcher({"images.example.org": [answer]}).fetch("http://images.example.org/image", "x")
    assert not dialled


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:2800:220:1::1", "::ffff:8.8.8.8"])
def test_addresses_of_the_internet_are_public(address):
    assert is_public(address)


def test_a_name_that_changes_its_address_after_the_check_gains_nothing(fetcher, dialled):
    names = {"images.example.org": [[PUBLIC], ["127.0.0.1"]]}
    assert fetcher(names).fetch("http://images.example.org/image", "x") == png()
    assert dialled == [(PUBLIC, 80)]


class TestRedirects:
    def test_to_an_allowed_host_is_followed_and_checked_again(self, site, fetcher, dialled):
        site.locations["a"] = "http://b.pictures.example/image"
        names = {"images.example.org": [[PUBLIC]], "b.pictures.example": [["8.8.8.8"]]}
        assert fetcher(names).fetch("http://images.example.org/to/a", "x") == png()
        assert dialled == [(PUBLIC, 80), ("8.8.8.8", 80)]

    @pytest.mark.parametrize(
        "location",
        [
            "http://127.0.0.1/image",
            "http://169.254.169.254/latest/meta-data",
            "http://elsewhere.example/image",
            "https://images.example.org/image",
            "http://images.example.org:8080/image",
            "file:///etc/passwd",
            "ftp://images.example.org/image",
            "http://[::1]/image",
        ],
    )
    def test_to_anywhere_else_is_not(self, site, fetcher, dialled, location):
        site.locations["a"] = location
        with pytest.raises(InvalidRequest):
            fetcher().fetch("http://images.example.org/to/a", "x")
        assert dialled == [(PUBLIC, 80)]

    def test_to_a_name_that_has_become_private_is_not(self, site, fetcher, dialled):
        site.locations["a"] = "/image"
        names = {"images.example.org": [[PUBLIC], ["127.0.0.1"]]}
        with pytest.raises(InvalidRequest, match="no public address"):
            fetcher(names).fetch("http://images.example.org/to/a", "x")
        assert dialled == [(PUBLIC, 80)]

    def test_are_three_at_most(self, site, fetcher):
        site.locations.update({"3": "/to/2", "2": "/to/1", "1": "/image", "4": "/to/3"})
        names = {"images.example.org": [[PUBLIC]] * 9}
        assert fetcher(names).fetch("http://images.example.org/to/3", "x") == png()
        with pytest.raises(InvalidRequest, match="more than 3"):
            fetcher(names).fetch("http://images.example.org/to/4", "x")


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://images.example.org/image",
        "/etc/passwd",
        "gopher://images.example.org/",
        "http://",
        "http://evil.example/image",
        "http://images.example.org.evil.example/image",
        "http://evilpictures.example/image",
        "http://pictures.example/image",
        "http://images.example.org@evil.example/image",
        "http://user:word@images.example.org/image",
        "http://images.example.org:22/image",
        "http://images.example.org:x/image",
        "http://images.example.org/a b",
        "http://images.example.org/a\r\nX-Evil: 1",
        "http://127.0.0.1/image",
        "http://0x7f000001/image",
    ],
)
def test_other_addresses_are_refused_before_a_name_is_looked_up(fetcher, dialled, url):
    with pytest.raises(InvalidRequest):
        fetcher({}).fetch(url, "x")
    assert not dialled


def test_nothing_is_fetched_by_default(dialled):
    with pytest.raises(InvalidRequest, match="fetches nothing"):
        Fetcher(FetchSettings(), lambda host, port: pytest.fail("looked up")).fetch("http://images.example.org/", "x")


def test_a_file_may_be_as_large_as_the_limit_and_no_larger(fetcher):
    size = len(png())
    assert fetcher(max_bytes=size).fetch("http://images.example.org/image", "x") == png()
    with pytest.raises(InvalidRequest, match=f"larger than {size - 1}"):
        fetcher(max_bytes=size - 1).fetch("http://images.example.org/image", "x")
    with pytest.raises(InvalidRequest, match="larger than"):
        fetcher(max_bytes=100_000).fetch("http://images.example.org/endless", "x")


def test_a_server_that_drips_is_left_at_the_time_limit(fetcher):
    with pytest.raises(InvalidRequest, match="within"):
        fetcher(seconds=0.3).fetch("http://images.example.org/slow", "x")


def test_a_missing_file_is_a_bad_request(fetcher):
    with pytest.raises(InvalidRequest, match="404"):
        fetcher().fetch("http://images.example.org/none", "x")
