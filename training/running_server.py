"""Asks the server on this machine whether it serves a new version."""

import http.client
import json
import os
import time
from typing import Any, Final

CONNECT_SECONDS: Final = 0.5
WAIT_SECONDS: Final = 10.0
"""A server looks at its store every second, and then loads, proves and warms up the version."""
POLL_SECONDS: Final = 0.25
MAX_BYTES: Final = 4 * 2**20


class RunningServer:
    """A server of Resident on this machine, at `SERVICE_PORT` or port 8000."""

    def __init__(self) -> None:
        port = os.environ.get("SERVICE_PORT", "")
        self.port = int(port) if port.isascii() and port.isdecimal() else 8000
        self.address = f"http://127.0.0.1:{self.port}"

    def answers(self) -> bool:
        """Whether a server of Resident answers there."""
        return self._models() is not None

    def serves(self, model: str, digest: str, wait: float = WAIT_SECONDS) -> bool:
        """Whether a version answers for the model within `wait` seconds.

        Args:
            model: The name of the model.
            digest: The version's digest with its prefix `sha256:`.
            wait: Seconds, for the server to load the version.
        """
        deadline = time.monotonic() + wait
        while (models := self._models()) is not None:
            if any(each.get("model") == model and each.get("digest") == digest for each in models):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return False

    def _models(self) -> list[dict[str, Any]] | None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=CONNECT_SECONDS)
        try:
            connection.request("GET", "/v1/models")
            body = json.loads(connection.getresponse().read(MAX_BYTES))
            models = body["models"]
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            return None
        finally:
            connection.close()
        is_list = isinstance(models, list) and all(isinstance(each, dict) for each in models)
        return models if is_list else None
