"""What a policy selects, by versions and aliases."""

from collections.abc import Mapping, Sequence

import pytest

from service.versions.version_policy import Selection, parse_policy, select_versions

NONE: Mapping[str, Sequence[int]] = {}
MOVED = {"production": (3, 1), "canary": (4, 2)}


@pytest.mark.parametrize(
    ("policy", "versions", "aliases", "expected"),
    [
        ("alias:production", (1, 2, 3), NONE, Selection((3, 2, 1), 1)),
        ("alias:production", (1, 2, 3, 4), MOVED, Selection((3, 1), 1, (3, 1))),
        # A deleted earlier version is no candidate, the deleted current version is one.
        ("alias:production", (2, 3), MOVED, Selection((3,), 1, (3, 1))),
        ("alias:production", (1, 2), MOVED, Selection((3, 1), 1, (3, 1))),
        ("alias:canary", (1, 2, 3, 4), MOVED, Selection((4, 2), 1, (4, 2))),
        ("alias:canary", (1, 2, 3), {"production": (3, 1)}, Selection((3, 1), 1, (3, 1))),
        ("alias:canary", (1, 2, 3), {"canary": (), "production": (2,)}, Selection((2,), 1, (2,))),
        ("alias:canary", (1, 2, 3), NONE, Selection((3, 2, 1), 1)),
        ("latest:1", (1, 2, 3), MOVED, Selection((3, 2, 1), 1, (3, 1))),
        ("latest:2", (1, 2, 10), NONE, Selection((10, 2, 1), 2)),
        ("latest:5", (1, 2), NONE, Selection((2, 1), 5)),
        ("versions:4,1", (1, 2, 3, 4), MOVED, Selection((4, 1), 2, (3, 1))),
        ("versions:7", (1, 2), NONE, Selection((7,), 1)),
        ("all", (1, 2, 3), MOVED, Selection((3, 2, 1), 3, (3, 1))),
        ("all", (5,), NONE, Selection((5,), 1)),
    ],
)
def test_policy_selects(
    policy: str, versions: Sequence[int], aliases: Mapping[str, Sequence[int]], expected: Selection
) -> None:
    """A policy selects candidates, their number, and the versions that answer without a number."""
    assert select_versions(parse_policy(policy), versions, aliases) == expected


@pytest.mark.parametrize(
    "text", ["alias:production", "alias:canary-2", "latest:1", "latest:12", "versions:1,4", "all"]
)
def test_policy_text_round_trips(text: str) -> None:
    """The text of a policy is what was parsed."""
    assert str(parse_policy(text)) == text


@pytest.mark.parametrize(("text", "same"), [("versions:4, 1,4", "versions:1,4"), (" all ", "all")])
def test_spaces_order_and_repeats_do_not_matter(text: str, same: str) -> None:
    """Spaces, order and repeats do not change a policy."""
    assert parse_policy(text) == parse_policy(same)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "production",
        "alias",
        "alias:",
        "alias:1",
        "alias:a/b",
        "latest",
        "latest:",
        "latest:0",
        "latest:-1",
        "latest:two",
        "versions:",
        "versions:1,",
        "versions:01",
        "versions:a",
        "all:1",
        "any",
    ],
)
def test_invalid_policy_is_rejected(text: str) -> None:
    """The error names the four forms."""
    with pytest.raises(
        ValueError, match=r"alias:NAME, latest:COUNT, versions:NUMBER,NUMBER or all"
    ):
        parse_policy(text)
