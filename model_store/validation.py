"""Words for what pydantic rejects: one line for the message of an error of our own."""

from typing import Final

import pydantic

MAX_PROBLEMS: Final = 5


def describe_validation_error(error: pydantic.ValidationError) -> str:
    """The first problems of a validation error as one line, without the rejected input.

    Inputs are left out because the line may go to a client or into a log, and an input may be a secret.

    Returns:
        `"field.name: what is wrong"`, joined by `"; "` for at most five problems. A problem of the whole
        document has no field name in front.
    """
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        _describe(problem["loc"], problem["msg"]) for problem in problems[:MAX_PROBLEMS]
    )


def _describe(location: tuple[int | str, ...], message: str) -> str:
    # Errors that our own validators raise arrive with this prefix.
    message = message.removeprefix("Value error, ")
    return f"{'.'.join(map(str, location))}: {message}" if location else message
