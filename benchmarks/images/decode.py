"""An image file of any format and colours as RGB pixels."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]  # (H, W, 3)


def decode_rgb(path: str | os.PathLike[str]) -> Pixels:
    """Read an image file as ``(H, W, 3)`` RGB.

    Grey, palette and CMYK images are converted, an alpha channel is dropped, 16 bits become 8, of an animation the
    first frame is taken, and an orientation noted in the file is not applied, as in the public codes.

    Raises:
        ValueError: The file cannot be read as an image to its end; the message names it.
    """
    try:
        with Image.open(path) as file:
            if file.mode.startswith("I;16"):  # PIL would clip these at 255
                return np.repeat((np.asarray(file) >> 8).astype(np.uint8)[..., None], 3, axis=2)
            return np.array(file.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # PIL's readers raise these
        raise unreadable(path, error) from error


def unreadable(path: str | os.PathLike[str], error: Exception) -> ValueError:
    """The error that names an image file which cannot be read."""
    return ValueError(f"{os.fspath(path)} cannot be read as an image: {error}.")
