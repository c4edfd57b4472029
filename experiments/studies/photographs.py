"""Generated photographs: JPEG files as large and as hard to decode as real ones, for profiling loaders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def write_photographs(root: Path, n_images: int = 5000, *, n_classes: int = 200, seed: int = 0) -> None:
    """Write ``root/CLASS/NUMBER.jpg``: smooth colours, a few shapes and grain; about 500 x 375 pixels and 45 kB each.

    Args:
        root: Folder that gets the folders of the classes.
        n_images: Number of images, spread evenly over the classes.
        n_classes: Number of classes.
        seed: Equal seeds give equal files.

    Raises:
        ValueError: There would be a class with less than two images.
    """
    if n_images < 2 * n_classes:
        raise ValueError(f"{n_images} images are too few for {n_classes} classes; each needs two.")
    for i in range(n_images):
        folder = root / f"class{i % n_classes:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        _photograph(np.random.default_rng([seed, i])).save(folder / f"{i // n_classes:04d}.jpg", quality=88)


def _photograph(rng: np.random.Generator) -> Image.Image:
    width, height = int(rng.integers(450, 551)), int(rng.integers(340, 411))
    if rng.random() < 0.3:
        width, height = height, width
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        w, h = int(rng.integers(10, width // 2)), int(rng.integers(10, height // 2))
        shape = (draw.ellipse, draw.rectangle)[int(rng.integers(2))]
        shape((x, y, x + w, y + h), fill=tuple(rng.integers(0, 256, 3).tolist()))
    grain = rng.normal(0, 6, (height, width, 1))
    return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))
