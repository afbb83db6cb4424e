"""A DICOM node: series that arrive by C-STORE are translated, and the results sent on."""
