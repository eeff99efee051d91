"""One line for what pydantic rejects."""

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError, field_validator

from model_store.validation import MAX_PROBLEMS, describe_validation_error


class Limits(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sizes: list[int] = []
    secret: SecretStr = SecretStr("")

    @field_validator("sizes")
    @classmethod
    def _not_too_many(cls, sizes: list[int]) -> list[int]:
        if len(sizes) > 20:
            raise ValueError("more than 20 sizes")
        return sizes


def describe(document: str) -> str:
    try:
        Limits.model_validate_json(document)
    except ValidationError as error:
        return describe_validation_error(error)
    raise AssertionError("the document is valid")


def test_a_problem_has_the_path_of_its_field() -> None:
    """Names and indices are joined by dots."""
    assert describe('{"sizes": [1, "x"]}').startswith("sizes.1: ")


def test_several_problems_are_listed_up_to_the_limit() -> None:
    """A document full of errors still gives one short line."""
    described = describe('{"sizes": ["x", "x", "x", "x", "x", "x", "x"]}')
    assert described.count("; ") == MAX_PROBLEMS - 1
    assert "\n" not in described


def test_a_message_of_our_own_has_no_prefix() -> None:
    """pydantic puts 'Value error, ' in front of what a validator raises."""
    assert describe(f'{{"sizes": {[1] * 21}}}') == "sizes: more than 20 sizes"


def test_a_problem_of_the_whole_document_has_no_field() -> None:
    """Text that is not JSON has no location."""
    assert describe("{").startswith("Invalid JSON")


def test_the_rejected_input_is_not_repeated() -> None:
    """An input may be a secret."""
    assert "hunter2" not in describe('{"secret": ["hunter2"], "other": "hunter2"}')
