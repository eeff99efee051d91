"""Headers of every response. They restrict what browsers do with it."""

from typing import Final

SECURITY_HEADERS: Final = [
    # Browsers do not guess another type, such as a script.
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]
"""Pages with scripts also have a `Content-Security-Policy`."""
