"""What medp2p raises when it refuses.

MedP2PError
├── ConfigError        a setting that is unknown, misspelled or out of range
├── ImageReadError     an image file that is missing, damaged or not what it says
├── GeometryError      voxels that cannot be placed, or grids that do not agree
├── ManifestError      a data set that does not hang together
├── RegistrationError  images that cannot be brought to one place
├── PreparedDataError  prepared volumes that are missing, damaged or made otherwise
├── CheckpointError    a model file or training state that cannot be used
├── TrainingError      training that cannot go on
├── EvaluationError    images that a metric has no value for
└── OutputError        a result that cannot be written, or would replace another

A wrong argument of a caller is a plain ``ValueError``. Every message names the file or
case, what was found, what was expected, and what to do.
"""


class MedP2PError(Exception):
    """Base of everything that medp2p refuses; its text is one line for the user."""


class ConfigError(MedP2PError):
    """A setting is unknown, misspelled or out of range."""


class ImageReadError(MedP2PError):
    """An image file is missing, damaged or not what it says."""


class GeometryError(MedP2PError):
    """Voxels cannot be placed in space, or two grids do not agree."""


class ManifestError(MedP2PError):
    """A data set does not hang together."""


class RegistrationError(MedP2PError):
    """Two images cannot be brought to one place."""


class PreparedDataError(MedP2PError):
    """Prepared volumes are missing, damaged or were made with other settings."""


class CheckpointError(MedP2PError):
    """A model file or a training state cannot be used."""


class TrainingError(MedP2PError):
    """Training cannot start or cannot go on."""


class EvaluationError(MedP2PError):
    """A metric has no value for these images."""


class OutputError(MedP2PError):
    """A result cannot be written, or would replace another."""
