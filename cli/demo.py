def demo() -> None:
    """Soon."""
