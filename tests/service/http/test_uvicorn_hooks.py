"""The private parts of uvicorn that `service/http/uvicorn_adapter.py` uses must still exist."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from server_process import REPOSITORY
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from service.http.uvicorn_adapter import UvicornConnection

ADAPTER = "service/http/uvicorn_adapter.py"
METHODS = {
    "connection_made": ["self", "transport"],
    "connection_lost": ["self", "exc"],
    "data_received": ["self", "data"],
    "on_message_begin": ["self"],
    "on_headers_complete": ["self"],
    "on_body": ["self", "body"],
    "on_message_complete": ["self"],
    "on_response_complete": ["self"],
    "eof_received": ["self"],
    "pause_writing": ["self"],
    "resume_writing": ["self"],
    "shutdown": ["self"],
    "timeout_keep_alive_handler": ["self"],
    "_start_asgi_task": ["self", "cycle", "app"],
    "_unset_keepalive_if_required": ["self"],
}
PROTOCOL_ATTRIBUTES = {
    *("cycle", "flow", "headers", "logger", "loop", "parser", "pipeline", "server_state"),
    *("timeout_keep_alive", "timeout_keep_alive_task", "transport", "url"),
}
PRIVATE = {
    *("cycle", "timeout_keep_alive_handler", "timeout_keep_alive_task", "_start_asgi_task"),
}
CYCLE_ATTRIBUTES = {
    *("body", "default_headers", "disconnected", "flow", "keep_alive", "message_event"),
    *("more_body", "on_response", "response_complete", "response_started", "scope", "transport"),
}


async def _app(_scope: Any, _receive: Any, _send: Any) -> None:
    """An ASGI application that is never called."""


def new_protocol() -> UvicornConnection:
    config = uvicorn.Config(_app, lifespan="off", log_level="warning")
    return UvicornConnection(config, ServerState(), {})


def check(missing: object) -> None:
    assert not missing, (
        f"uvicorn {uvicorn.__version__} has changed {missing}: adapt {ADAPTER}, and the bounds of "
        "uvicorn in pyproject.toml if only some versions can be supported"
    )


@pytest.mark.parametrize(("name", "parameters"), METHODS.items())
def test_method_of_the_protocol_has_its_signature(name: str, parameters: list[str]) -> None:
    """A method that is overridden or called has the parameters that it is used with."""
    method = getattr(httptools_impl.HttpToolsProtocol, name, None)
    found = list(inspect.signature(method).parameters) if method else None
    check(found != parameters and f"HttpToolsProtocol.{name}: {found}, expected {parameters}")


def test_hooks_that_uvicorn_calls_are_still_called() -> None:
    """An override without a caller would silently do nothing."""
    source = inspect.getsource(httptools_impl.HttpToolsProtocol)
    check([] if "self._start_asgi_task(" in source else "callers of _start_asgi_task")
    check([] if "on_response=self.on_response_complete" in source else "on_response_complete")


@pytest.mark.anyio
async def test_attributes_of_protocol_and_cycle_exist() -> None:
    """Every attribute that is read or set exists on a new protocol and a new cycle."""
    protocol = new_protocol()
    protocol.on_message_begin()
    check(sorted(name for name in PROTOCOL_ATTRIBUTES if not hasattr(protocol, name)))
    parameters = inspect.signature(httptools_impl.RequestResponseCycle).parameters
    cycle = httptools_impl.RequestResponseCycle(**dict.fromkeys(parameters, None))
    check(sorted(name for name in CYCLE_ATTRIBUTES if not hasattr(cycle, name)))


def test_flow_control_can_resume_and_tell_that_writing_is_paused() -> None:
    """They are used to notice disconnects and slow readers."""
    flow = FlowControl(None)  # type: ignore[arg-type]
    names = ("pause_reading", "resume_reading", "write_paused")
    check([name for name in names if not hasattr(flow, name)])
    source = inspect.getsource(httptools_impl.HttpToolsProtocol.connection_made)
    check([] if "self.flow = FlowControl(transport)" in source else "flow")


def test_wrapped_transport_has_what_uvicorn_uses() -> None:
    """uvicorn calls nothing of a transport that `BoundedTransport` does not pass on."""
    source = "".join(
        inspect.getsource(kind)
        for kind in (
            httptools_impl.HttpToolsProtocol,
            httptools_impl.RequestResponseCycle,
            FlowControl,
        )
    )
    known = {"close", "is_closing", "pause_reading", "resume_reading", "write"}
    used = set(re.findall(r"\btransport\.(\w+)\(", source)) - {"set_protocol"}  # of WebSockets
    check(sorted(used - known))


@pytest.mark.parametrize("name", sorted(PRIVATE))
def test_private_attribute_is_used_in_the_adapter_only(name: str) -> None:
    """So that a change of uvicorn needs a change of one file."""
    users = {
        path.name
        for path in (REPOSITORY / "service").rglob("*.py")
        if re.search(rf"\b(self|super\(\))\.{name}\b", path.read_text())
    }
    assert users == {Path(ADAPTER).name}


def test_status_lines_are_bytes() -> None:
    """`DirectTransport` writes them as they are."""
    check(httptools_impl.STATUS_LINE[200] != b"HTTP/1.1 200 OK\r\n" and "STATUS_LINE")


def test_the_bound_in_pyproject_is_one_with_these_hooks() -> None:
    """`_start_asgi_task` exists since uvicorn 0.45."""
    requirement = next(
        line
        for line in (REPOSITORY / "pyproject.toml").read_text().splitlines()
        if "uvicorn>=" in line
    )
    assert '"uvicorn>=0.45"' in requirement
