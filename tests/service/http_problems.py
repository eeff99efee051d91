"""What every error over HTTP must look like."""

import httpx
from server_process import REPOSITORY

LEAKS = ("Traceback", 'File "', "site-packages", str(REPOSITORY), "/tmp", " at 0x")


def check_problem(response: httpx.Response, status: int, code: str) -> None:
    """RFC 9457 problem details with a stable code, and nothing of the server's inside in them."""
    assert (response.status_code, response.json().get("code")) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["type"] == f"urn:resident:error:{code}"
    assert problem["title"]
    assert problem["detail"]
    assert not [leak for leak in LEAKS if leak in response.text]
