"""What the tests of the benchmarks share: a small input, and folders of small images."""

import numpy as np
from PIL import Image

from benchmarks import InputSpec

SMALL = InputSpec(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def write_image(path, seed=0, mode="RGB"):
    """A small image that its seed tells from others; its suffix gives the format."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    coarse.resize((30 + seed % 10, 24)).convert(mode).save(path)


def fill(folder, counts, seed=0):
    """So many images of each class, ``CLASS/00.jpg``, ``CLASS/01.PNG``, ..., written in an order from the seed."""
    rng = np.random.default_rng(seed)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in rng.permutation(count):
            write_image(folder / name / f"{i:02d}.{('jpg', 'PNG')[i % 2]}", int(rng.integers(10_000)))
    return folder


def truncate(path, keep=0.6):
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])


def labels_of(stream):
    return [set(experience.dataset.targets) for experience in stream]
