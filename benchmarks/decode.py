"""An image file as RGB pixels, whatever its format and colours."""

from __future__ import annotations

import os

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2


def decode_rgb(path: str | os.PathLike[str]) -> Tensor:
    """Read an image file as ``(3, H, W)`` uint8 RGB: as PIL reads it, but faster where torchvision knows the format.

    Grey, palette and CMYK images are converted, an alpha channel is dropped, 16 bits become 8, of an animation the
    first frame is taken, and an orientation noted in the file is not applied, as in the public codes.

    Raises:
        ValueError: It cannot be read as an image, or not to its end; the message names it.
    """
    try:
        image = decode_image(os.fspath(path), ImageReadMode.RGB)
    except RuntimeError:  # another format or a damaged file: PIL knows which
        image = None
    if image is not None and image.ndim == 3:  # an animation has 4
        return image if image.dtype == torch.uint8 else v2.functional.to_dtype(image, torch.uint8, scale=True)
    try:
        with Image.open(path) as file:
            return torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # what PIL's readers raise
        raise unreadable(path, error) from error


def unreadable(path: str | os.PathLike[str], error: Exception) -> ValueError:
    """The error that names an image file which cannot be read."""
    return ValueError(f"{os.fspath(path)} cannot be read as an image: {error}.")
