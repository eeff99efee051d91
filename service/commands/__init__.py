"""The subcommands of `python -m service` beside serving, each a click command in a module of its own."""
