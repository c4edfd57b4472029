"""The error of weights that could not be fetched; whoever explains it need not import what fetches."""


class DownloadError(RuntimeError):
    """Pre-trained weights could not be fetched.

    Attributes:
        reason: Why, on one line.
    """

    def __init__(self, name: str, error: Exception) -> None:
        self.reason = " ".join(str(error).split())[:300]
        super().__init__(
            f"The pretrained weights of name={name!r} could not be downloaded ({self.reason}). "
            "Without a connection, pass a local file as weights=, or pretrained=False for random weights."
        )
