def import_pix2pix() -> None:
    """Soon."""
