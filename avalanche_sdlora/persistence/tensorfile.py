"""Tensors and plain data in one safetensors file that names its kind and notices damage; never a pickle."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from avalanche_sdlora.files import replacing

_HEAD = "sdlora"


def write_tensors(
    path: str | os.PathLike[str], kind: str, version: int, tensors: Mapping[str, Tensor], about: Mapping[str, Any]
) -> None:
    """Writes one file, whole or not at all (see :func:`avalanche_sdlora.files.replacing`).

    Args:
        path: The file; one that is there is replaced in one step.
        kind: The kind of file, for :func:`read_tensors` to check.
        version: Version of its content.
        tensors: Any tensors by name; they are copied to the CPU.
        about: A value of JSON.

    Raises:
        OSError: The file cannot be written; an older one is as it was.
        TypeError: ``about`` is no value of JSON.
    """
    # A copy, since safetensors refuses tensors that share memory.
    tensors = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    head = json.loads(json.dumps({"kind": kind, "version": version, "about": about}))  # as it will be read
    head["sha256"] = _digest(head, tensors)
    # One entry, since safetensors would write several in any order: equal content makes equal files.
    data = safetensors.torch.save(tensors, {_HEAD: json.dumps(head, sort_keys=True)})
    with replacing(path) as temporary, open(temporary, "xb") as file:
        file.write(data)


def read_tensors(path: str | os.PathLike[str], kind: str, version: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a file of :func:`write_tensors`.

    Args:
        path: The file.
        kind: The kind that the file must have.
        version: The newest version of its content that the caller understands.

    Returns:
        The tensors, on the CPU, and the plain data.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, of another kind, or of a newer version.
    """
    data = _bytes_of(Path(path))
    try:
        tensors = safetensors.torch.load(data)
        # The library gives no access to the header of a file in memory; it has checked it just now.
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        head = dict(json.loads(header.get("__metadata__", {}).get(_HEAD, "{}")))
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is damaged, or no safetensors file: {error}") from error
    if head.get("kind") != kind:
        raise ValueError(f"{str(path)!r} is not a file of {kind}; it says it is {head.get('kind', 'nothing')!r}")
    found = head.get("version")
    if isinstance(found, int) and found > version:
        raise ValueError(
            f"{str(path)!r} has version {found} of the format; this package reads versions up to {version}. Update it"
        )
    if head.pop("sha256", None) != _digest(head, tensors) or "about" not in head:
        raise ValueError(f"{str(path)!r} is damaged: its content does not have the checksum it was written with")
    return tensors, head["about"]


def hash_tensors(tensors: Mapping[str, Tensor]) -> hashlib._Hash:
    """SHA-256 over names, types, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu").contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)  # as bytes: numpy has no bfloat16
    return digest


def _digest(head: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hash_tensors(tensors)
    digest.update(json.dumps(head, sort_keys=True).encode())
    return digest.hexdigest()


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "there is no such file", str(path)) from error
    except OSError as error:  # a folder, no permission, a broken disk
        raise type(error)(error.errno, f"cannot be read: {error.strerror}", str(path)) from error
