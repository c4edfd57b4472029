"""Features of the frozen backbone, computed once and kept for other runs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from importlib import metadata

import numpy as np
import torch
from torch import Tensor, nn

from avalanche_sdlora.persistence.tensorfile import hash_tensors
from benchmarks.images.store import Store

#: The largest size of a store in MiB: some 900,000 images of a ViT-S, half as many of a ViT-B.
LIMIT_MB = 1536


class KeptFeatures(Store):
    """Keeps the features of images by what they are computed from.

    A key is made from the weights of the backbone, from the type of device, the precision and the versions of the
    libraries that compute, and from the very pixels that the backbone is given. So whatever an image, its file, the
    transform or the weights change finds nothing, and everything else finds what it would compute, but for the
    rounding that depends on the images beside it in a batch. Features are kept in float32, as runs compute them.

    Args:
        folder: The folder of the store, of at most :data:`LIMIT_MB`.
        backbone: The backbone before it is adapted.
        device: Where it computes.
        precision: In which precision.

    Raises:
        ValueError: The folder cannot be used.
    """

    KIND = "feature"

    def __init__(self, folder: str | os.PathLike[str], backbone: nn.Module, device: str, precision: str | None) -> None:
        super().__init__(folder, LIMIT_MB)
        versions = [metadata.version(package) for package in ("timm", "torch")]
        about = [repr(backbone), torch.device(device).type, precision, *versions]
        self._about = hash_tensors(backbone.state_dict()).digest() + json.dumps(about).encode()

    def of(self, features: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """The function ``features``, which computes those of images that are not kept yet alone.

        Args:
            features: Maps images ``(n, 3, size, size)`` to ``(n, d)``, each by itself.
        """

        def kept(x: Tensor) -> Tensor:
            keys = [self._key(image) for image in x.cpu()]
            found = {i: entry for i, key in enumerate(keys) if (entry := self.read(key)) is not None}
            missing = [i for i in range(len(x)) if i not in found]
            if missing:
                new = features(x if len(missing) == len(x) else x[missing])  # (m, d)
                rows = [row.tobytes() for row in new.to("cpu", torch.float32).numpy()]
                self.write({keys[i]: row for i, row in zip(missing, rows)})
                found |= dict(zip(missing, rows))
            return torch.from_numpy(np.stack([np.frombuffer(found[i], np.float32) for i in range(len(x))])).to(x.device)

        return kept

    def _key(self, image: Tensor) -> bytes:
        about = self._about + json.dumps([str(image.dtype), list(image.shape)]).encode()
        key = hashlib.blake2b(about, digest_size=32).digest()
        return hashlib.blake2b(image.contiguous().numpy().data, digest_size=32, key=key).digest()
