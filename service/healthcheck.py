"""`python -m service.healthcheck`: exit code 0 if the service in this container is ready.

It runs every few seconds, so it imports little.
"""

import os
import sys
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

TIMEOUT_SECONDS = 2


def main() -> None:
    """Request /health/ready on `SERVICE_PORT`; exit with code 1 and a reason unless it is 200."""
    port = int(os.environ.get("SERVICE_PORT", "8000"))
    try:
        build_opener(ProxyHandler({})).open(
            f"http://127.0.0.1:{port}/health/ready", timeout=TIMEOUT_SECONDS
        ).close()
    except (URLError, OSError) as error:
        sys.exit(f"not ready: {error}")


if __name__ == "__main__":
    main()
