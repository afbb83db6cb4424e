"""Write the sample cases beside this file: four phantom heads, MR (T1) and CT.

Run from the checkout: ``python sample_data/make_samples.py``. The bytes are the same every
time with the versions of ``constraints.txt``.
"""

from __future__ import annotations

from pathlib import Path

from medp2p.cli.phantom import write_phantom
from medp2p.phantom import case_seed, make_phantom

CASES = 4
SERIES_SEED = 4096
SHAPE = (88, 88, 36)


def main() -> None:
    """Write ``head_001`` to ``head_004``."""
    for number in range(1, CASES + 1):
        subject = make_phantom("head", case_seed(SERIES_SEED, number), shape=SHAPE)
        write_phantom(subject, Path(__file__).parent / f"head_{number:03d}", overwrite=True)


if __name__ == "__main__":
    main()
