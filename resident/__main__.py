"""`python -m resident`: the command `resident` without installing it."""

from resident.cli import main

if __name__ == "__main__":
    main()
