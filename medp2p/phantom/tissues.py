"""What tissues look like to a CT and to an MR scanner.

CT numbers are rounded ones of 120 kV scans. Those of fat, muscle, skin, grey matter, blood,
cartilage and cortical bone agree within 15 HU or 6 % with what follows by the stoichiometric
calibration of Schneider et al., Phys. Med. Biol. 45:459 (2000), from the compositions of ICRU
Report 44 (1989) and, for fat, of Woodard and White, Br. J. Radiol. 59:1209 (1986); a test
recomputes them. Others lie within what was measured: enamel (2070 to 2950 HU) and dentine (1320
to 1900 HU) in children by Reshetnikov et al., JMIRx Med 5:e56759 (2024); the spongy bone of
young adults (227 to 236 HU on average in lumbar vertebrae) by Hendrickson et al., Iowa Orthop.
J. 38:25 (2018), which falls with age (Schreiber et al., J. Bone Joint Surg. Am. 93:1057, 2011);
white matter and cerebrospinal fluid in the usual clinical ranges (20 to 30 and 0 to 15 HU). All
other CT numbers, and every spread, are estimates.

Relaxation times (references in brackets in the table):

S. Stanisz et al., Magn. Reson. Med. 54:507 (2005): excised tissue at 37 °C, 1.5 and 3 T.
B. de Bazelaire et al., Radiology 230:652 (2004): abdomen and pelvis, 1.5 and 3 T.
P. Wansapura et al., J. Magn. Reson. Imaging 9:531 (1999): brain at 3 T.
J. Bojorquez et al., Magn. Reson. Imaging 35:69 (2017): a review at 3 T.
W. BrainWeb, Collins et al., IEEE Trans. Med. Imaging 17:463 (1998), with the tissue
   parameters of Kwan et al., IEEE Trans. Med. Imaging 18:1085 (1999): brain at 1.5 T.
E. Estimated: rounded from scattered measurements, or after a similar tissue in S, B or J.

Proton densities of fat, muscle, fluid, grey and white matter are those of W, the others
estimates. BrainWeb's T1 of grey and white matter are at the short end of what is measured at
1.5 T. Fluids, whose T1 hardly depends on the field, have one value for both. Cortical bone,
enamel and dentine have T2 below a millisecond (Robson et al., J. Comput. Assist. Tomogr.
27:825, 2003), so that no echo is left of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Contrast = Literal["t1", "t2", "pd", "flair"]

FIELD_STRENGTHS_T = (1.5, 3.0)
CONTRASTS: tuple[Contrast, ...] = ("t1", "t2", "pd", "flair")


@dataclass(frozen=True)
class Relaxation:
    """Relaxation times in milliseconds."""

    t1_ms: float
    t2_ms: float


@dataclass(frozen=True)
class Tissue:
    """One tissue.

    Attributes:
        name: Its name in the label list of a phantom.
        hu: Mean CT number.
        hu_sd: Spread of the mean between subjects, in HU.
        hu_texture: Spread within a subject, in HU.
        proton_density: Relative to water, 0 to 1.
        relaxation: Relaxation times by field strength in tesla.
        mr_texture: Spread of the MR signal within a subject, relative. Negative where
            denser parts give less signal, as bone trabeculae do.
    """

    name: str
    hu: float
    hu_sd: float
    hu_texture: float
    proton_density: float
    relaxation: dict[float, Relaxation]
    mr_texture: float


@dataclass(frozen=True)
class Sequence:
    """Timing of a spin-echo sequence in milliseconds.

    Attributes:
        repetition_ms: TR.
        echo_ms: TE.
        inversion_ms: TI of the inversion pulse, None without one.
    """

    repetition_ms: float
    echo_ms: float
    inversion_ms: float | None = None


SEQUENCES: dict[tuple[Contrast, float], Sequence] = {
    ("t1", 1.5): Sequence(500.0, 12.0),
    ("t2", 1.5): Sequence(4500.0, 100.0),
    ("pd", 1.5): Sequence(3500.0, 18.0),
    ("flair", 1.5): Sequence(8500.0, 110.0, 2200.0),
    ("t1", 3.0): Sequence(650.0, 11.0),
    ("t2", 3.0): Sequence(5000.0, 95.0),
    ("pd", 3.0): Sequence(4000.0, 16.0),
    ("flair", 3.0): Sequence(9000.0, 105.0, 2350.0),
}
"""Timings of routine protocols; the inversion times null a fluid of T1 = 4000 ms."""


def _tissue(
    name: str,
    hu: tuple[float, float, float],
    proton_density: float,
    at_1_5_t: tuple[float, float],
    at_3_t: tuple[float, float],
    mr_texture: float = 0.03,
) -> Tissue:
    relaxation: dict[float, Relaxation] = {
        1.5: Relaxation(*at_1_5_t),
        3.0: Relaxation(*at_3_t),
    }
    return Tissue(name, *hu, proton_density, relaxation, mr_texture)


NO_ECHO = (250.0, 0.4)

TISSUES: tuple[Tissue, ...] = (
    #       name              HU: mean, between and within    PD     T1, T2 at 1.5 T  T1, T2 at 3 T
    _tissue("background", (-1000, 0, 0), 0.0, NO_ECHO, NO_ECHO, 0),
    _tissue("air", (-1000, 0, 0), 0.0, NO_ECHO, NO_ECHO, 0),
    _tissue("skin", (70, 8, 8), 0.70, (900, 30), (1100, 30)),  # E
    _tissue("fat", (-100, 6, 7), 1.00, (343, 58), (382, 68), 0.04),  # B
    _tissue("muscle", (55, 5, 6), 1.00, (1008, 44), (1412, 50), 0.05),  # S
    _tissue("cartilage", (105, 10, 6), 0.80, (1024, 30), (1168, 27)),  # S
    _tissue("mucosa", (40, 5, 5), 0.95, (1000, 80), (1300, 75), 0.05),  # E
    _tissue("gland", (15, 15, 12), 0.90, (750, 70), (900, 65), 0.08),  # E
    _tissue("blood", (45, 4, 2), 0.90, (1441, 290), (1932, 275)),  # S
    _tissue("cortical_bone", (1450, 110, 110), 0.15, NO_ECHO, NO_ECHO, 0),
    _tissue("petrous_bone", (1950, 100, 120), 0.10, NO_ECHO, NO_ECHO, 0),
    _tissue("diploe", (560, 90, 130), 0.60, (400, 52), (450, 52), -0.25),  # E
    _tissue("trabecular_bone", (240, 50, 60), 0.80, (549, 49), (586, 49), -0.15),  # B
    _tissue("yellow_marrow", (-60, 12, 20), 0.95, (350, 56), (390, 65), -0.05),  # E
    _tissue("enamel", (2750, 100, 60), 0.05, NO_ECHO, NO_ECHO, 0),
    _tissue("dentine", (1650, 90, 60), 0.10, NO_ECHO, NO_ECHO, 0),
    _tissue("disc", (85, 8, 6), 0.85, (1100, 70), (1250, 65)),  # E
    _tissue("csf", (9, 2, 1), 1.00, (4000, 2000), (4000, 2000), 0.01),  # J, rounded
    _tissue("grey_matter", (38, 2, 2), 0.86, (833, 83), (1331, 110), 0.02),  # W, P
    _tissue("white_matter", (29, 2, 2), 0.77, (500, 70), (832, 80), 0.02),  # W, P
    _tissue("deep_grey_matter", (37, 2, 2), 0.83, (700, 75), (1150, 82), 0.02),  # E
    _tissue("nerve", (32, 4, 2), 0.77, (815, 77), (1083, 78), 0.02),  # S
    _tissue("vitreous", (9, 2, 1), 1.00, (4000, 1500), (4000, 1500), 0.01),  # E
    _tissue("lens", (90, 8, 3), 0.70, (1000, 30), (1100, 30)),  # E
    _tissue("tongue", (48, 6, 10), 0.98, (850, 50), (1150, 55), 0.12),  # E
    _tissue("urine", (6, 4, 1), 1.00, (3500, 1500), (3500, 1500), 0.01),  # E
    _tissue("smooth_muscle", (42, 5, 4), 0.95, (1100, 60), (1400, 60)),  # E
    _tissue("stool", (40, 25, 70), 0.60, (600, 45), (700, 45), 0.25),  # E
    _tissue("bowel_fluid", (18, 6, 6), 0.98, (1800, 180), (2000, 180), 0.06),  # E
    _tissue("prostate", (42, 4, 4), 0.92, (1317, 88), (1597, 74), 0.06),  # B
    _tissue("peripheral_zone", (34, 4, 3), 0.95, (1500, 140), (1800, 130), 0.05),  # E
    _tissue("seminal_vesicle", (25, 5, 5), 0.97, (1700, 180), (2000, 170), 0.15),  # E
    _tissue("myometrium", (55, 6, 4), 0.92, (1309, 117), (1514, 79), 0.05),  # B
    _tissue("endometrium", (40, 5, 3), 0.95, (1274, 150), (1453, 140), 0.04),  # B, T2: E
    _tissue("ovary", (30, 6, 8), 0.95, (1400, 110), (1600, 100), 0.15),  # E
)

LABELS: dict[str, int] = {tissue.name: number for number, tissue in enumerate(TISSUES)}
"""The number in a label image of each tissue, by name."""


def spin_echo_signal(proton_density: float, relaxation: Relaxation, sequence: Sequence) -> float:
    """Signal magnitude of a spin echo.

    ``PD (1 - exp(-TR/T1)) exp(-TE/T2)``; after an inversion pulse
    ``PD |1 - 2 exp(-TI/T1) + exp(-TR/T1)| exp(-TE/T2)``
    (Bernstein, King and Zhou, Handbook of MRI Pulse Sequences, 2004, ch. 14).

    Returns:
        The signal relative to that of water without relaxation, 0 to 1.
    """
    recovery = 1 - np.exp(-sequence.repetition_ms / relaxation.t1_ms)
    if sequence.inversion_ms is not None:
        inverted = 2 * np.exp(-sequence.inversion_ms / relaxation.t1_ms)
        recovery = abs(1 - inverted + np.exp(-sequence.repetition_ms / relaxation.t1_ms))
    return float(proton_density * recovery * np.exp(-sequence.echo_ms / relaxation.t2_ms))


def subject_tissues(rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the mean CT number of every tissue for one subject, in the order of `TISSUES`."""
    deviation = rng.standard_normal(len(TISSUES)).clip(-2, 2)
    return np.asarray([t.hu + d * t.hu_sd for t, d in zip(TISSUES, deviation, strict=True)])
