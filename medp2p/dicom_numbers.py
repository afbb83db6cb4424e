"""Numbers as DICOM writes them."""

from __future__ import annotations

from pydicom.valuerep import format_number_as_ds

LONGEST_DS = 16


def decimal_string(value: float) -> str:
    """Format a number as DS, of at most 16 characters (PS3.5 6.2)."""
    number = float(value) + 0.0  # + 0.0: no negative zero
    text = format_number_as_ds(number)
    if len(text) <= LONGEST_DS:
        return text
    return f"{number:.9g}"  # pydicom makes 17 characters of 9.999999999999998
