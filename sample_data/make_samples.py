"""Write the sample cases beside this file: four phantom heads, MR (T1) and CT, and an MR as DICOM.

Run from the checkout: ``python sample_data/make_samples.py``. The bytes are the same every
time on one kind of processor with the versions of ``constraints.txt``; on another a few voxels
are rounded the other way.
"""

from __future__ import annotations

from pathlib import Path

from dicom_series import write_mr_series

from medp2p.cli.phantom import write_phantom
from medp2p.phantom import case_seed, make_phantom

CASES = 4
SERIES_SEED = 4096
SHAPE = (88, 88, 36)
DICOM_SHAPE = (128, 128, 36)


def main() -> None:
    """Write ``head_001`` to ``head_004``, and ``head_005_dicom``."""
    here = Path(__file__).parent
    for number in range(1, CASES + 1):
        subject = make_phantom("head", case_seed(SERIES_SEED, number), shape=SHAPE)
        write_phantom(subject, here / f"head_{number:03d}", overwrite=True)
    subject = make_phantom("head", case_seed(SERIES_SEED, CASES + 1), shape=DICOM_SHAPE)
    (mr,) = subject.mr.values()
    write_mr_series(mr, here / "head_005_dicom")


if __name__ == "__main__":
    main()
