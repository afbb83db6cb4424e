"""``python -m medp2p.cli`` is the ``medp2p`` command."""

from . import main

main()
