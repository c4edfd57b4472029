"""Classify images with an adapters file: ``python -m experiments.predict IMAGE... --adapters FILE``."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from avalanche_sdlora.training.precision import autocast_dtype
from benchmarks import BENCHMARKS
from experiments.arguments import Arguments
from experiments.interruption import leave
from experiments.options.commandline import CommandLine, Option
from experiments.options.flags import in_flags
from experiments.resolve import local_weights

if TYPE_CHECKING:
    from avalanche_sdlora import AdaptersInfo, SDLoRAModel
    from benchmarks import InputSpec

COMMAND = CommandLine(
    "python -m experiments.predict",
    "Classify images with an adapters file.",
    [
        Option("image", str, "Image files.", positional=True, nargs="+"),
        Option("adapters", str, "The adapters file that a run left behind."),
        Option("weights", str, "A local file with the backbone's weights."),
        Option("top", int, "Number of classes to name; 3 by default."),
        Option("device", str, "cpu, cuda, ..., or auto."),
    ],
)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image.

    Attributes:
        image: The file.
        classes: The names of the classes, the most probable first.
        probabilities: The probabilities of these classes among all classes seen, the softmax of the model's logits.
    """

    image: str
    classes: list[str]
    probabilities: list[float]


def serving_notes(arguments: Arguments, inputs: InputSpec) -> dict[str, Any]:
    """Notes for an adapters file that let :func:`predict` prepare images as a run prepared its test images."""
    return {
        "image_size": arguments.image_size,
        "inputs": dataclasses.asdict(inputs),
        "crop": BENCHMARKS[arguments.dataset.partition(":")[0]].files,
        "precision": arguments.precision,
    }


def predict(
    images: list[str], adapters: str, *, weights: str | None = None, top: int = 3, device: str = "auto"
) -> list[Prediction]:
    """Classify images with the classes that an adapters file has learned.

    Args:
        images: Image files.
        adapters: A file that a run left behind, or that ``save_adapters`` wrote.
        weights: A local file with the backbone's weights. By default one that carries its name in the folder that
            the environment variable SDLORA_DATA names, else timm's own.
        top: Number of classes to name.
        device: cpu, cuda, ..., or auto.

    Raises:
        ValueError: There are no images, one cannot be read, the adapters file is damaged or belongs to other weights,
            or its classes depend on task labels.
        FileNotFoundError: There is no such file.
        RuntimeError: The weights are missing and cannot be downloaded.
    """
    if not images:
        raise ValueError("images: none given; expected at least one file")
    if top < 1:
        raise ValueError(f"top={top}: expected at least 1")

    import torch
    from PIL import Image

    from avalanche_sdlora import read_adapters
    from benchmarks import eval_transform
    from benchmarks.images.decode import decode_rgb

    info = read_adapters(adapters)
    # Images are read before the backbone is built, which may take long.
    pictures = [Image.fromarray(decode_rgb(path)) for path in images]
    device = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    model, inputs = _model(info, adapters, weights, device)
    if model.head.multi_head:
        raise ValueError(
            f"adapters={adapters!r}: its class labels restart in every task, so an image's task must be known"
        )
    model.to(device).eval()
    transform = eval_transform(inputs, crop=info.notes.get("crop", True))
    seen = model.head.classes()
    found = []
    for path, picture in zip(images, pictures):
        with torch.no_grad():
            logits = model(transform(picture).unsqueeze(0).to(device))[0, seen]  # (classes seen,)
        best = logits.double().softmax(0).topk(min(top, len(seen)))
        names = [_name(info, seen[i]) for i in best.indices.tolist()]
        found.append(Prediction(path, names, best.values.tolist()))
    return found


def _model(info: AdaptersInfo, adapters: str, weights: str | None, device: str) -> tuple[SDLoRAModel, InputSpec]:
    import timm

    from avalanche_sdlora import create_backbone, load_model
    from benchmarks import InputSpec

    size = info.notes.get("image_size") if info.notes else info.image_size and info.image_size[0]
    name = info.backbone if "." in info.backbone else info.timm_name or info.backbone
    if not timm.is_model(name.partition(".")[0]):
        raise ValueError(
            f"adapters={adapters!r}: belongs to a {info.backbone}, which is no timm model and cannot be made here; "
            "avalanche_sdlora.load_model takes it as a module"
        )
    backbone = create_backbone(name, weights=weights or local_weights(name), img_size=size)
    inputs = InputSpec(**info.notes["inputs"]) if "inputs" in info.notes else InputSpec.of(backbone)
    model = load_model(adapters, backbone)
    former = "bfloat16" if info.notes.get("bfloat16") else "float32"  # as version 0.1 noted it
    model.autocast = autocast_dtype(info.notes.get("precision", former), device)
    return model, inputs


def _name(info: AdaptersInfo, label: int) -> str:
    return f"class {label}" if info.class_names is None else info.class_names[label]


def main() -> None:
    """The command line."""
    try:
        given = COMMAND.parse()
        if "adapters" not in given:
            raise ValueError("--adapters: name the file that a run left behind")
        found = predict(given.pop("image"), **given)
    except KeyboardInterrupt as interrupt:
        leave(interrupt)
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"error: {in_flags(error, COMMAND.flags)}")
    table = Table()
    for column in ("image", "class", "probability"):
        table.add_column(column, justify="right" if column == "probability" else "left", overflow="fold")
    for one in found:
        for i, (name, probability) in enumerate(zip(one.classes, one.probabilities)):
            table.add_row(escape(one.image) if i == 0 else "", escape(name), f"{100 * probability:.1f} %")
        table.add_section()
    Console().print(table)


if __name__ == "__main__":
    main()
