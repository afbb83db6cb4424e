"""The ``medp2p`` command: one thin module per subcommand.

NumPy, torch and pydantic are imported inside commands, so that ``--help`` answers at once.
For the same reason annotations are not postponed here: Typer would evaluate each of them twice.
"""

from .app import app, main

__all__ = ["app", "main"]
