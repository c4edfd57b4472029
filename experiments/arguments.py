"""The arguments of a run: from the command line, from Python, and from the recipe of the data set."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser

from avalanche_sdlora import SDLoRAConfig
from avalanche_sdlora.ranks import RankSchedule
from benchmarks import benchmark_name
from experiments.methods import METHODS, own_arguments
from experiments.recipe import hint, recipe_of

PRESETS: dict[str, Callable[..., SDLoRAConfig]] = {
    "default": SDLoRAConfig,
    "paper": SDLoRAConfig.paper,
    "reference": SDLoRAConfig.reference,
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train a method on the experiences of a data set, one after another, and report.

    What is left open here is filled in from the recipe of the data set, and what the recipe leaves open from its preset
    or by the data set itself.

    Args:
        dataset: cifar100, digits, imagenet_r, ..., or folder:PATH for a folder of images.
        recipe: Where everything left open comes from: default, best, paper or reference, or another table of the data
            set's file in experiments/recipes.
        method: What is trained: sdlora; probe or finetune, without adapters; lora, joint, ewc, lwf or replay, on one
            low-rank adapter; olora, nlora, clora or inflora, with one for each task.
        backbone: A timm model name.
        weights: A local file with its weights. By default one that carries its name in the folder that the
            environment variable SDLORA_DATA names, else timm's own.
        image_size: Side of the square images in pixels; the backbone's own by default.
        normalization: "backbone": pixels are scaled as the backbone's weights expect, the default. "none": pixels
            are within 0 and 1.
        tasks: Number of experiences.
        preset: Which SDLoRAConfig the settings of SD-LoRA start from: default, paper or reference.
        rank: Rank of each direction, or ranks with the tasks from which they hold: 10,4:8,8:6.
        rank_depth: Factors of the rank along the depth of the backbone: 0.5,1.5.
        targets: "attention.qv" or patterns of layer names, separated by commas.
        norm: See SDLoRAConfig, like all until rescale_past. Of these, rank, targets and magnitude_init hold for every
            method on low-rank adapters, the others for sdlora only.
        boundary: "continuous" or "reset".
        magnitudes: "per_projection" or "shared".
        magnitude_init: Initial magnitude of a direction.
        reset_magnitudes: Whether magnitudes start anew with every task.
        energy: Share of a direction's squared singular values to keep.
        rank_budget: Bound of the total rank of what is frozen.
        kd_tolerance: Residual below which a new direction is folded into the old ones.
        kd_fold: "contribution" or "coefficients".
        directions: "every", "first" or "single".
        rescale_past: Whether the magnitudes of past directions train.
        head: What predicts: "linear", as it was trained, or in closed form "ncm", "lda", "ridge" or "random_ridge".
        drift: Whether a closed-form head follows features that move: "none" or "linear".
        expansion: Units of "random_ridge".
        backbone_learning_rate: Of the backbone's weights in full fine-tuning; the head's is `learning_rate`.
        ewc_lambda: Weight of EWC's penalty.
        lwf_alpha: Weight of LwF's distillation.
        replay_memory: Images that replay keeps.
        olora_lambda: Weight of O-LoRA's overlap with past directions.
        nlora_lambda: Weight of N-LoRA's sum of absolute elements.
        clora_lambda: Weight of CLoRA's energy in fixed subspaces.
        inflora_threshold: Share of the inputs' energy that InfLoRA protects.
        epochs: Epochs over each experience.
        batch_size: Images in a training batch.
        optimizer: sgd (with momentum 0.9) or adam.
        learning_rate: Its learning rate.
        head_learning_rate: That of the head, where it is to be another one.
        later_learning_rate: That of all but the head from the second experience on, where it is to be a smaller one;
            of no effect on joint, like the next.
        first_epochs: Epochs over the first experience, where they are to be others.
        augment: Augmentation of the training images; the data set's usual by default.
        bfloat16: Autocast the forward pass to bfloat16.
        seed: Gives the class order and every random number.
        validation: Hold out this fraction of the training images and test on them instead of the test images.
        split: A file with the split of the images, as benchmarks.export_split writes it.
        class_order: A file with the names of the classes in the order of their arrival, one on each line, in place of
            the seed's order.
        strict: Refuse a data set that has not the published number of classes and images.
        data: Folder with the data set's files.
        cache: Keep decoded images in memory or on disk.
        cache_mb: So many MiB of them at most.
        output: Folder for results.json, accuracy_matrix.png and TensorBoard events; a new one in runs/ by default.
        device: cpu, cuda, ..., or auto.
        workers: Processes that load images.
        baselines: Measure the training-free baselines too.
    """

    dataset: str
    recipe: str = "default"
    method: str = "sdlora"
    backbone: str | None = None
    weights: str | None = None
    image_size: int | None = None
    normalization: Literal["backbone", "none"] | None = None
    tasks: int | None = None
    preset: Literal["default", "paper", "reference"] | None = None
    rank: int | str | None = None
    rank_depth: str | None = None
    targets: str | None = None
    norm: Literal["product", "factors"] | None = None
    boundary: Literal["continuous", "reset"] | None = None
    magnitudes: Literal["per_projection", "shared"] | None = None
    magnitude_init: float | None = None
    reset_magnitudes: bool | None = None
    energy: float | None = None
    rank_budget: int | None = None
    kd_tolerance: float | None = None
    kd_fold: Literal["contribution", "coefficients"] | None = None
    directions: Literal["every", "first", "single"] | None = None
    rescale_past: bool | None = None
    head: Literal["linear", "ncm", "lda", "ridge", "random_ridge"] | None = None
    drift: Literal["none", "linear"] | None = None
    expansion: int | None = None
    backbone_learning_rate: float | None = None
    ewc_lambda: float | None = None
    lwf_alpha: float | None = None
    replay_memory: int | None = None
    olora_lambda: float | None = None
    nlora_lambda: float | None = None
    clora_lambda: float | None = None
    inflora_threshold: float | None = None
    epochs: int | None = None
    batch_size: int | None = None
    optimizer: Literal["sgd", "adam"] | None = None
    learning_rate: float | None = None
    head_learning_rate: float | None = None
    later_learning_rate: float | None = None
    first_epochs: int | None = None
    augment: Literal["paper", "flip", "none"] | None = None
    bfloat16: bool | None = None
    seed: int = 0
    validation: float | None = None
    split: str | None = None
    class_order: str | None = None
    strict: bool = True
    data: str | None = None
    cache: Literal["memory", "disk"] | None = None
    cache_mb: float | None = None
    output: str | None = None
    device: str = "auto"
    workers: int = 0
    baselines: bool = True

    def resolved(self) -> Arguments:
        """These arguments with everything left open filled in from the recipe.

        Raises:
            ValueError: The data set, the recipe or the method is unknown, a value in the recipe cannot be used, a
                number is out of range, or an argument is of no use to the method.
        """
        dataset = benchmark_name(self.dataset)
        if self.method not in METHODS:
            raise ValueError(
                f"method={self.method!r}: expected one of {', '.join(METHODS)}{hint(self.method, METHODS)}"
            )
        kind = dataset.partition(":")[0]
        recipe = recipe_of(dataset, self.recipe)
        check_settings(recipe, f"recipe {self.recipe!r} of {kind}")
        recipe["weights"] = local_weights(self.backbone or recipe["backbone"])
        recipe["output"] = str(Path("runs", f"{kind}-{datetime.now():%Y%m%d-%H%M%S}"))
        if self.head == "linear":
            recipe.pop("drift", None)  # which belongs to the recipe's own head
        filled = {name: value for name, value in recipe.items() if getattr(self, name) is None}
        device = self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        complete = dataclasses.replace(self, **{**filled, "dataset": dataset, "device": device})
        complete = dataclasses.replace(complete, **own_arguments(complete))
        rates = [f"{which}learning_rate" for which in ("", "head_", "later_", "backbone_")]
        for name in ("epochs", "first_epochs", "batch_size", *rates):
            value = getattr(complete, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value}: expected a number above 0")
        return complete

    def sdlora_config(self) -> SDLoRAConfig:
        """SD-LoRA's settings: the preset's, with what was given in their place.

        Raises:
            ValueError: A setting is out of range, or contradicts another.
        """
        given = {f.name: getattr(self, f.name, None) for f in dataclasses.fields(SDLoRAConfig)}
        if self.targets is not None:
            given["targets"] = tuple(self.targets.split(","))
        if isinstance(self.rank, str) or self.rank_depth is not None:
            given["rank"] = RankSchedule.parse(str(self.rank or SDLoRAConfig.rank), self._depth())
        return PRESETS[self.preset or "default"](**{key: value for key, value in given.items() if value is not None})

    def _depth(self) -> tuple[float, ...]:
        try:
            return tuple(float(factor) for factor in (self.rank_depth or "1").split(","))
        except ValueError:
            raise ValueError(f"rank_depth={self.rank_depth!r}: expected factors such as 0.5,1.5") from None


#: Where things are, and how fast they are had; no part of what is measured.
CIRCUMSTANCES = frozenset({"data", "strict", "cache", "cache_mb", "output", "device", "workers", "baselines"})

#: What a recipe may not say.
NOT_IN_A_RECIPE = CIRCUMSTANCES | {
    *("dataset", "recipe", "method", "seed", "weights"),
    *("validation", "split", "class_order"),
}


def check_settings(settings: Mapping[str, Any], where: str, *, allowed: Collection[str] = ()) -> None:
    """Refuse what is no setting of a run, or is of another type.

    Args:
        settings: Names and values.
        where: What the message begins with.
        allowed: Names to be accepted although they are no part of a recipe.

    Raises:
        ValueError: With the name, the value and what is right.
    """
    known = {field.name for field in dataclasses.fields(Arguments)} - NOT_IN_A_RECIPE.difference(allowed)
    for name in settings:
        if name not in known:
            raise ValueError(f"{where}: unknown setting {name!r}{hint(name, known)}")
    if _accepted(settings):
        return
    for name, value in settings.items():
        if not _accepted({name: value}):
            expected = Arguments.__annotations__[name].removesuffix(" | None")
            raise ValueError(f"{where}: {name}={value!r}: expected {expected}")


def _accepted(settings: Mapping[str, Any]) -> bool:
    try:
        _types().parse_object(dict(settings))
    except argparse.ArgumentError:
        return False
    return True


@functools.cache
def _types() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Arguments, as_group=False, skip={"dataset"})
    return parser


def local_weights(backbone: str) -> str | None:
    """The file of ``backbone``'s weights in the folder SDLORA_DATA, if there is one."""
    folder = os.environ.get("SDLORA_DATA")
    files = sorted(Path(folder).glob(f"{backbone}*.safetensors")) if folder else []
    return str(files[0]) if files else None
