"""Version policies: which versions of a model are to serve, as a pure function of the versions there are and of its aliases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import AfterValidator

from model_store.aliases import PRODUCTION, is_alias_name
from model_store.errors import InvalidNameError
from model_store.names import parse_version

EXPECTED: Final = "expected alias:NAME, latest:COUNT, versions:NUMBER,NUMBER or all"


@dataclass(frozen=True)
class VersionPolicy:
    """What is to serve of a model; `alias` also says which version answers where none is named."""

    kind: Literal["alias", "latest", "versions", "all"] = "alias"
    alias: str = PRODUCTION
    count: int = 1
    numbers: tuple[int, ...] = ()

    def __str__(self) -> str:
        match self.kind:
            case "alias":
                return f"alias:{self.alias}"
            case "latest":
                return f"latest:{self.count}"
            case "versions":
                return f"versions:{','.join(map(str, self.numbers))}"
            case "all":
                return "all"


@dataclass(frozen=True)
class Selection:
    """What a policy comes to: of `candidates`, best first, the first `count` that can be proven are to serve.

    `named` are the versions that answer where none is named, best first; where none of them serves the highest does.
    """

    candidates: tuple[int, ...]
    count: int
    named: tuple[int, ...] = ()


def parse_policy(text: str) -> VersionPolicy:
    """`alias:production`, `latest:2`, `versions:1,4` or `all`. Raises ValueError that says what was expected."""
    kind, separator, rest = text.strip().partition(":")
    if kind == "all" and not separator:
        return VersionPolicy("all")
    if kind == "alias" and is_alias_name(rest):
        return VersionPolicy("alias", alias=rest)
    try:
        if kind == "latest":
            return VersionPolicy(
                "latest", count=parse_version(rest)
            )  # a count is written as a version is: 1, 2, …
        if kind == "versions":
            return VersionPolicy(
                "versions",
                numbers=tuple(sorted({parse_version(part.strip()) for part in rest.split(",")})),
            )
    except InvalidNameError:
        pass  # said below, with what is expected
    raise ValueError(EXPECTED)


def _check(text: str) -> str:
    parse_policy(text)
    return text


PolicyText = Annotated[str, AfterValidator(_check)]
"""A policy as it stands in a setting."""


def select_versions(
    policy: VersionPolicy, versions: Sequence[int], aliases: Mapping[str, Sequence[int]]
) -> Selection:
    """What the policy selects of `versions`, ascending and at least one.

    `aliases` has the versions that each alias has pointed to and not been rolled back from, newest first. A model without the
    policy's alias follows `production`; without that too it serves its newest version. Only what an alias points to now, and
    what `versions:` names, is a candidate also where it is not there: its error is to be seen.
    """
    named = tuple(aliases.get(policy.alias) or aliases.get(PRODUCTION) or ())
    newest_first = tuple(versions[::-1])
    match policy.kind:
        case "alias":
            latest, *earlier = named or newest_first
            return Selection(
                (latest, *(number for number in earlier if number in versions)), 1, named
            )
        case "latest":
            return Selection(newest_first, policy.count, named)
        case "versions":
            return Selection(policy.numbers[::-1], len(policy.numbers), named)
        case "all":
            return Selection(newest_first, len(newest_first), named)
