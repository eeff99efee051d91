"""`python -m service.healthcheck`: exit 0 when the service in this container is ready; light, for it runs every few seconds."""

import os
import sys
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

TIMEOUT_SECONDS = 2


def main() -> None:
    """Ask /health/ready on the port that SERVICE_PORT names."""
    port = int(os.environ.get("SERVICE_PORT", "8000"))
    try:
        build_opener(ProxyHandler({})).open(
            f"http://127.0.0.1:{port}/health/ready", timeout=TIMEOUT_SECONDS
        ).close()
    except (URLError, OSError) as error:
        sys.exit(f"not ready: {error}")


if __name__ == "__main__":
    main()
