"""Several server processes that act as one service, the supervisor, and their messages.

`docs/explanation/architecture.md` describes the design.
"""
