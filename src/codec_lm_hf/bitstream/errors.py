"""What a reader of compressed files raises."""


class BitstreamError(ValueError):
    """A compressed file is cut short, damaged, or not for this codec."""
