"""The ``medp2p`` command: one thin module per subcommand.

NumPy, torch and pydantic are imported inside commands, so that ``--help`` answers at once.
"""

from .app import app, main

__all__ = ["app", "main"]
