"""Finds image files that cannot be read before a run, by decoding each once and to its end."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image
from rich.progress import track

from avalanche_sdlora.files import replacing
from benchmarks.images.split import some

_FORMAT = 1  # part of every key: another way of looking counts it up
_MANY = 2000  # so many files take a second or more; fewer leave no trace


@dataclass(frozen=True)
class Findings:
    """The findings of a look at image files.

    Attributes:
        unreadable: The path of each file that cannot be decoded, and why.
        converted: How many files are in which of PIL's modes other than RGB (``L`` is grey, ``P`` a palette, ``RGBA``
            has an alpha channel); they are read as RGB.
    """

    unreadable: dict[str, str]
    converted: dict[str, int]


def look_at(root: Path, paths: Sequence[str], *, remember: Path | None = None) -> Findings:
    """Decode every file once, in threads; JPEG files at an eighth of their size, which reads all of their data.

    Args:
        root: A folder.
        paths: Files below it.
        remember: A folder that keeps the findings. As long as every file keeps its size and time, nothing is decoded
            the next time. By default the user's cache folder, from 2000 files on.

    Raises:
        ValueError: Files are missing; the message counts them.
    """
    seen = hashlib.sha256(repr((_FORMAT, str(root.absolute()))).encode())
    missing = []
    for path in paths:
        try:
            status = os.stat(root / path)
        except OSError:
            missing.append(path)
        else:
            seen.update(repr((path, status.st_size, status.st_mtime_ns)).encode())
    if missing:
        raise ValueError(f"{root} lacks {len(missing)} of {len(paths)} images: {some(missing)}.")
    if remember is None and len(paths) >= _MANY:
        remember = cache_folder() / "readable"
    memo = None if remember is None else remember / f"{seen.hexdigest()}.json"
    if memo is not None:
        with suppress(OSError, ValueError, TypeError):
            return Findings(**json.loads(memo.read_text(encoding="utf-8")))
    found = _decode_all(root, paths)
    if memo is not None:
        with suppress(OSError), replacing(memo) as temporary:  # without a place for them, files are looked at again
            temporary.write_text(json.dumps(asdict(found)), encoding="utf-8")
    return found


def cache_folder() -> Path:
    """The project's folder in the user's cache, for files that can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "avalanche_sdlora")


def _decode_all(root: Path, paths: Sequence[str]) -> Findings:
    unreadable: dict[str, str] = {}
    modes: Counter[str] = Counter()
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:  # PIL decodes without the interpreter's lock
        results = pool.map(_decode, (root / path for path in paths))
        shown = track(results, "Looking at the images", total=len(paths), transient=True, disable=len(paths) < _MANY)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's, of oddities that keep no image from being read
            for path, (mode, error) in zip(paths, shown, strict=True):
                if error:
                    unreadable[path] = error
                elif mode != "RGB":
                    modes[mode] += 1
    return Findings(unreadable, dict(sorted(modes.items())))


def _decode(path: Path) -> tuple[str, str]:
    try:
        with Image.open(path) as image:
            mode = image.mode
            image.draft(None, (1, 1))
            image.load()
            return mode, ""
    except Exception as error:  # damaged files make PIL's readers raise nearly anything
        return "", f"{type(error).__name__}: {error}"
