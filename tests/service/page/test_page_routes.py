"""The page without a browser: its shell, its headers, its setting."""

import re
from collections.abc import Iterator

import httpx
import pytest
from html_page import Page
from server_process import running

from model_store.store import ModelStore

MODULES = re.compile(r'^import .* from "(\./[^"]+)";$', re.MULTILINE)


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/page/page.css"])
def test_every_answer_of_the_page_has_its_policy(client: httpx.Client, path: str) -> None:
    """No inline script or style, and no other host."""
    response = client.get(path)
    policy = dict(
        directive.strip().split(" ", 1)
        for directive in response.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert response.headers["x-content-type-options"] == "nosniff"


def test_shell_links_only_what_this_server_has(client: httpx.Client) -> None:
    """Also the modules that the scripts import."""
    response = client.get("/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    page = Page(response.content)
    assert "style" not in page.attributes("style")
    links = {link for link in page.attributes("src") + page.attributes("href") if link[0] != "#"}
    todo = {link for link in links if link != "/"}
    seen: set[str] = set()
    while todo:
        seen.add(link := todo.pop())
        found = client.get(f"/{link}")
        assert found.status_code == 200, link
        if link.endswith(".js"):
            todo |= {f"page/{name[2:]}" for name in MODULES.findall(found.text)} - seen
    assert "page/batch.js" in seen


@pytest.fixture(scope="module")
def without_page(colour_store: ModelStore) -> Iterator[httpx.Client]:
    environment = {"SERVICE_PAGE": "false"}
    flags = ("--store", colour_store.root, "--no-builtin", "--root-path", "/ai")
    with running(*flags, environment=environment) as server, server.announced().client() as client:
        yield client


def test_page_can_be_turned_off(without_page: httpx.Client) -> None:
    """`/` then redirects to the documentation, and the scripts are gone."""
    assert without_page.get("/").headers["location"] == "/ai/docs"
    assert without_page.get("/page/main.js").status_code == 404
    assert without_page.get("/v1/models").status_code == 200
