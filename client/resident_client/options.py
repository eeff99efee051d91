"""The defaults of the clients, and the options of a prediction."""

from typing import Any, Final, TypedDict
from urllib.parse import quote

DEFAULT_URL: Final = "http://127.0.0.1:8000"
TIMEOUT_SECONDS: Final = 60.0
RETRIES: Final = 3
MAX_WAIT_SECONDS: Final = 60.0
BATCH_SIZE: Final = 16
CONCURRENCY: Final = 4


class EmbedOptions(TypedDict, total=False):
    """The options of an embedding. All may be left out.

    Attributes:
        model: Name of the model. Default: the service's default model.
        version: Number of the version. Default: the one that serves.
        alias: Name of an alias, whose version answers.
        timeout_ms: Milliseconds within which the service must answer.
        priority: 1 is interactive; 2 is bulk, which interactive requests overtake.
    """

    model: str | None
    version: int | None
    alias: str | None
    timeout_ms: int | None
    priority: int | None


class PredictOptions(EmbedOptions, total=False):
    """The options of a prediction. All may be left out.

    Attributes:
        top_k: How many classes to return for each image. Default: 5.
        coverage: Also return the set of labels that contains the correct one with this probability.
        embedding: Also return the embedding of each image.
    """

    top_k: int | None
    coverage: float | None
    embedding: bool | None


ACTIONS: Final = {"predict": PredictOptions, "embed": EmbedOptions}


def image_route(action: str, options: EmbedOptions) -> tuple[str, dict[str, Any]]:
    """Return the path and the query of a route of `ACTIONS`.

    Raises:
        ValueError: There is a version without a model.
        TypeError: There is no such option.
    """
    if unknown := set(options) - set(ACTIONS[action].__annotations__):
        raise TypeError(f"there is no option {', '.join(sorted(unknown))}")
    query: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    model, version = query.pop("model", None), query.pop("version", None)
    if model is None and version is not None:
        raise ValueError("`version` needs `model`")
    path = f"/v1/models/{quote(model, safe='')}" if model is not None else "/v1"
    path += f"/versions/{version}" if version is not None else ""
    return f"{path}/{action}", query


def check_url(url: str) -> str:
    """Return the address of the service. Raises ValueError if it is not a URL."""
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"`url` must begin with http:// or https://, got {url!r}")
    return url
