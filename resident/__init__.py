"""The command `resident`. It imports a package only when one of its commands runs."""
