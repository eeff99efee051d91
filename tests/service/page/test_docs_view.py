"""The documentation at /docs in a real browser."""

from typing import TYPE_CHECKING

from server_process import PATIENCE_SECONDS, ServerProcess

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def test_documentation_works_within_its_policy(server: ServerProcess, browser: "Browser") -> None:
    """The Swagger UI shows the routes, and nothing violates the Content-Security-Policy."""
    with browser.new_context() as context:
        page, problems = context.new_page(), list[str]()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "console",
            lambda message: problems.append(message.text) if message.type == "error" else None,
        )
        page.goto(f"{server.address}/docs")
        route = page.get_by_text("Classify with the default model").first
        route.wait_for(timeout=PATIENCE_SECONDS * 1000)
        route.click()
        page.get_by_text("Try it out").first.wait_for(timeout=PATIENCE_SECONDS * 1000)
        assert problems == []
