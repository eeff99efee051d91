"""Version policies: which versions of a model serve, from its versions and aliases."""

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
    """Which versions serve. `alias` also names the default for requests without a version."""

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
    """What a policy selects: the first `count` of `candidates` that pass their proof serve.

    Requests without a version number are answered by the first of `named` that serves, or else by
    the highest version that serves.
    """

    candidates: tuple[int, ...]
    count: int
    named: tuple[int, ...] = ()


def parse_policy(text: str) -> VersionPolicy:
    """Parse `alias:production`, `latest:2`, `versions:1,4` or `all`. Raises ValueError."""
    kind, separator, rest = text.strip().partition(":")
    if kind == "all" and not separator:
        return VersionPolicy("all")
    if kind == "alias" and is_alias_name(rest):
        return VersionPolicy("alias", alias=rest)
    try:
        if kind == "latest":
            # A count has the same syntax as a version: 1, 2, …
            return VersionPolicy("latest", count=parse_version(rest))
        if kind == "versions":
            numbers = {parse_version(part.strip()) for part in rest.split(",")}
            return VersionPolicy("versions", numbers=tuple(sorted(numbers)))
    except InvalidNameError:
        pass
    raise ValueError(f"{text!r} is not a version policy; {EXPECTED}")


def _check(text: str) -> str:
    parse_policy(text)
    return text


PolicyText = Annotated[str, AfterValidator(_check)]
"""The text of a policy in a setting."""


def select_versions(
    policy: VersionPolicy, versions: Sequence[int], aliases: Mapping[str, Sequence[int]]
) -> Selection:
    """Apply a policy.

    Args:
        policy: The policy.
        versions: The versions in the store, ascending, at least one.
        aliases: By alias: the current version, then those that rollbacks would restore.

    If the policy's alias does not exist, `production` is used; if that does not exist either, the
    newest version. The version that the alias points to, and versions that `versions:` names, are
    candidates even if the store lacks them, so that the error is visible.
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
