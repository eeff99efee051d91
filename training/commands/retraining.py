"""`retrain`: from what is published to the next version, when new pictures come."""

import click


@click.command()
def retrain() -> None:
    """Go on from what is published."""
