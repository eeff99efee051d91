"""Headers that every response has, whatever its route, so that browsers do not misuse it."""

from typing import Final

SECURITY_HEADERS: Final = [
    (
        "X-Content-Type-Options",
        "nosniff",
    ),  # what a model or a client named is never run as a script
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]
"""Beside them, pages with scripts have a `Content-Security-Policy`."""
