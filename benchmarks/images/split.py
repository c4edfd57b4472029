"""Which image is of which class and part: a split of image files, as a JSON file that can be handed on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from avalanche_sdlora.files import replacing
from benchmarks.images.validation import held_out

Part = Literal["train", "test"]

_FORMAT = "image split 1"
_FIELDS = ["path", "class", "part", "domain"]


class SplitImage(NamedTuple):
    """An image of a split.

    Attributes:
        path: Its path below the folder of the data set, with forward slashes.
        label: The place of its class in the class names.
        part: ``train`` or ``test``.
        domain: Its domain, where images of one class come from several; else None.
    """

    path: str
    label: int
    part: Part
    domain: str | None = None


@dataclass(frozen=True)
class Split:
    """The training and test images of a data set.

    As a file it is a JSON object with ``format``, ``name``, ``class_names``, ``fields`` (the names of an image's four
    entries), ``images`` (a list of them for each image, the class by its name) and ``digest``. One written by hand may
    leave out ``name``, ``digest``, and the domain of the images.

    Attributes:
        name: The data set that it splits.
        class_names: The names in the order of the labels.
        images: The images in the order in which a stream holds them.

    Raises:
        ValueError: Class names repeat; a label or part does not exist; a path leads out of the folder or is in both
            parts; or a part lacks a class.
    """

    name: str
    class_names: tuple[str, ...]
    images: tuple[SplitImage, ...]

    def __post_init__(self) -> None:
        names, where = self.class_names, f"The split {self.name!r}"
        if len(names) < 2 or len(set(names)) != len(names):
            raise ValueError(f"{where} needs two class names or more, no two alike; it has {some(names)}.")
        for image in self.images:
            if not image.path or image.path.startswith("/") or ".." in image.path.split("/"):
                raise ValueError(f"{where}: {image.path!r} is no path below the folder of the data set.")
            if image.part not in get_args(Part) or not 0 <= image.label < len(names):
                raise ValueError(
                    f"{where}: {image} is of no part (train, test) or of no class (0 to {len(names) - 1})."
                )
        if both := {image.path for image in self.part("train")} & {image.path for image in self.part("test")}:
            raise ValueError(f"{where}: training and test share the images {some(both)}.")
        for part in get_args(Part):
            if lacking := set(range(len(names))) - {image.label for image in self.part(part)}:
                lacking_names = some(names[label] for label in lacking)
                raise ValueError(f"{where}: no {part} images of the classes {lacking_names}.")

    @classmethod
    def of(cls, name: str, train: Mapping[str, Sequence[str]], test: Mapping[str, Sequence[str]]) -> Split:
        """Make a split from the paths of each class, which ``train`` and ``test`` give by class name."""
        images = [
            SplitImage(path, label, part)
            for part, files in zip(get_args(Part), (train, test), strict=True)
            for label, class_name in enumerate(train)
            for path in files.get(class_name, ())
        ]
        return cls(name, tuple(train), tuple(images))

    def part(self, part: Part) -> list[SplitImage]:
        """The images of one part."""
        return [image for image in self.images if image.part == part]

    @cached_property
    def digest(self) -> str:
        """64 hexadecimal digits, the SHA-256 of the class names and the images in their order, but not of pixels."""
        return hashlib.sha256(json.dumps([self.class_names, self.images]).encode()).hexdigest()

    def hold_out(self, fraction: float) -> Split:
        """This split with held-out training images in place of the test images.

        They are chosen as ``benchmarks.images.validation.held_out`` says, of each class and domain.

        Raises:
            ValueError: ``fraction`` is not between 0 and 1, or a class has too few training images.
        """
        images = self.part("train")
        chosen = held_out([(image.label, image.domain) for image in images], fraction)
        kept = [image._replace(part="test" if out else "train") for image, out in zip(images, chosen, strict=True)]
        return replace(self, name=f"{self.name}, validation={fraction}", images=tuple(kept))

    def without(self, paths: Collection[str]) -> Split:
        """This split without some images.

        Raises:
            ValueError: A part is left without a class.
        """
        return replace(self, images=tuple(image for image in self.images if image.path not in paths)) if paths else self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, whole or not at all, one image on a line.

        Raises:
            OSError: The file cannot be written.
        """
        head = {"format": _FORMAT, "name": self.name, "digest": self.digest, "class_names": self.class_names}
        with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in (head | {"fields": _FIELDS}).items()]
            rows = (json.dumps([i.path, self.class_names[i.label], i.part, i.domain]) for i in self.images)
            file.write("{\n" + ",\n".join(lines) + ',\n"images": [\n' + ",\n".join(rows) + "\n]\n}\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Split:
        """Read a file of a split.

        Raises:
            ValueError: There is no such file, it is not as described, or its content does not have the digest it
                states.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict) or content.get("format") != _FORMAT:
                raise ValueError(f'expected an object with "format": "{_FORMAT}"')
            names = tuple(content["class_names"])
            labels = {name: label for label, name in enumerate(names)}
            split = cls(
                str(content.get("name", path.stem)), names, tuple(_image(row, labels) for row in content["images"])
            )
        except (OSError, ValueError, TypeError, KeyError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error).rstrip(".")
            raise ValueError(f"{path} cannot be read as a split: {what}.") from error
        stated = content.get("digest", split.digest)
        if stated != split.digest:
            raise ValueError(
                f"{path} has been changed: it states the digest {stated} and its images have {split.digest}."
            )
        return split


def _image(row: Any, labels: dict[str, int]) -> SplitImage:
    if not isinstance(row, list) or not 3 <= len(row) <= 4 or not all(isinstance(entry, str) for entry in row[:3]):
        raise ValueError(f"{row} is not an image's {', '.join(_FIELDS)}")
    if row[3:] and not isinstance(row[3], str | None):
        raise ValueError(f"{row}: its domain is neither a name nor null")
    if row[1] not in labels:
        raise ValueError(f"{row} is of none of the classes {some(labels)}")
    return SplitImage(row[0], labels[row[1]], row[2], row[3] if len(row) == 4 else None)


def some(names: Any) -> str:
    """The first five names in order and how many more there are, for a message."""
    names = sorted(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
