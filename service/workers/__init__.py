"""Several server processes that are one service: the supervisor, and what workers tell each other.

`docs/explanation/architecture.md` describes the design.
"""
