"""The files of the page, without a browser."""

import httpx
import pytest


def test_the_page_and_its_files_come_with_what_keeps_browsers_at_home(server):
    answer = httpx.get(server.url)
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; img-src 'self' blob: data:") and "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    for name, kind in (("app.js", "text/javascript"), ("style.css", "text/css"), ("icon.svg", "image/svg+xml")):
        file = httpx.get(f"{server.url}/page/{name}")
        assert file.status_code == 200 and file.headers["content-type"].startswith(kind)


@pytest.mark.parametrize(
    "name", ["routes.py", "../routes.py", "..%2froutes.py", "%2e%2e/__init__.py", "no.js", "", "a/b.js"]
)
def test_no_other_file_is_served(server, name):
    assert httpx.get(f"{server.url}/page/{name}").status_code == 404


def test_with_keys_the_page_is_open_and_nothing_else(keyed_server):
    server = keyed_server
    assert httpx.get(server.url).is_success and httpx.get(f"{server.url}/page/app.js").is_success
    for path in ("/v1/models", "/metrics", "/openapi.json", "/page", "//", "/./v1/models"):
        assert httpx.get(server.url + path).status_code == 401, path
