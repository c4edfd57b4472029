"""The arguments of a run as plain data: those that somebody gave, before open ones are filled in.

A setting of SD-LoRA or of another method is not a field here: it has its home in :class:`avalanche_sdlora.SDLoRAConfig`
or in the method's own class in :mod:`experiments.methods`, and stands in ``settings`` under the name that it has
everywhere (command line, recipes, grids, ``results.json``): ``sdlora.rank``, ``ewc.weight``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from avalanche_sdlora.training.precision import Precision
from benchmarks import Augment, Cache


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How a method is trained.

    Args:
        epochs: Epochs over each experience; the first may get more. See sdlora.first_epochs.
        batch_size: Images in a training batch.
        optimizer: The optimizer; sgd has momentum 0.9, adamw a weight decay of 0.01.
        learning_rate: Learning rate of the optimizer.
        head_learning_rate: Learning rate of the head, where it differs from the others'.
        patch_drop: Share of the patches that are left out of each training image, at random and in every step anew, so
            that a step takes so much less time; 0, which is none, to below 1.
        later_patch_drop: That share for each task after the first, where it is another.
        precision: Precision of the forward pass. auto, the default of most recipes, takes bfloat16 where the device
            multiplies it natively, else float32; paper and reference compute in float32.
    """

    epochs: int | None = None
    batch_size: int | None = None
    optimizer: Literal["sgd", "adam", "adamw"] | None = None
    learning_rate: float | None = None
    head_learning_rate: float | None = None
    patch_drop: float | None = None
    later_patch_drop: float | None = None
    precision: Precision | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """Which images the experiences are made of, and how they are prepared.

    Args:
        image_size: Side of the square images in pixels; the backbone's own by default.
        normalization: "backbone", the default, scales pixels as the backbone's weights expect; "none" leaves them
            within 0 and 1.
        tasks: Number of experiences; the data set's usual number by default.
        augment: Augmentation of the training images; the data set's usual one by default.
        validation: Fraction of the training images to hold out and to test on instead of the test images.
        split: File with the split of the images, as benchmarks.export_split writes it.
        class_order: File with the names of the classes in the order of their arrival, one on each line, instead of
            the seed's order; or an .npy file of their labels.
        strict: Whether a data set without the published number of classes and images is refused.
    """

    image_size: int | None = None
    normalization: Literal["backbone", "none"] | None = None
    tasks: int | None = None
    augment: Augment | None = None
    validation: float | None = None
    split: str | None = None
    class_order: str | None = None
    strict: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """Where files are, and what computes.

    Args:
        data: Folder with the data set's files.
        cache: Where decoded images are kept; by default nowhere.
        cache_mb: Largest size of that cache in MiB.
        output: Folder for results.json, report.html, figures and TensorBoard events; a new one in runs/ by default.
        device: cpu, cuda, ..., or auto.
        workers: Number of processes that load images.
        grad_checkpointing: Whether activations are computed again in the backward pass instead of being kept, which
            takes less memory and more time.
        baselines: Whether the training-free baselines are measured too.
        keep_features: Folder in which the frozen backbone's features, which the baselines need, are kept for other
            runs, 1.5 GiB at most; by default nowhere, in a comparison in a folder of its own.
        figures: Figures and report: default; all, those too that need passes over the images of their own; or none.
    """

    data: str | None = None
    cache: Cache | None = None
    cache_mb: float | None = None
    output: str | None = None
    device: str = "auto"
    workers: int = 0
    grad_checkpointing: bool = False
    baselines: bool = True
    keep_features: str | None = None
    figures: Literal["default", "all", "none"] = "default"


@dataclasses.dataclass(frozen=True)
class Arguments(Machine, Images, Training):
    """Which method a run trains on which data set, and everything of the three groups above.

    None marks an argument left open; :func:`experiments.resolve.resolve` fills it in.

    Args:
        dataset: cifar100, digits, imagenet_r, ..., or folder:PATH for a folder of images.
        recipe: Where everything left open comes from: default, paper or reference, or another table of the data
            set's file in experiments/recipes.
        method: The method to train: sdlora; probe or finetune, without adapters; lora, joint, ewc, lwf or replay, on
            one low-rank adapter; olora, nlora, clora or inflora, with one for each task; or a low-rank relative.
            The relatives are sora, lora_dropout, rac_lora, prolora, xgblora, beamlora, prilora, lora_pm, lora_sub,
            ranpac, duallora and recycle.
        backbone: A timm model name.
        weights: A local file with the backbone's weights. By default one that carries its name in the folder that the
            environment variable SDLORA_DATA names, else timm's own.
        seed: Gives the class order and every random number.
        evaluate: When the accuracy on all tasks seen is measured: every, after each task; final, after the last one
            alone; or a number N, after each Nth task and the last. What was not measured has no figure.
        settings: Settings of SD-LoRA and of other methods by name: ``{"sdlora.rank": 8, "ewc.weight": 10.0}``.
    """

    dataset: str
    recipe: str = "default"
    method: str = "sdlora"
    backbone: str | None = None
    weights: str | None = None
    seed: int = 0
    evaluate: Literal["every", "final"] | int = "every"
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def title(self) -> str:
        """The name of the data set where a person reads it: of a folder its own name, not where it is."""
        return dataset_title(self.dataset)

    def evaluates(self, done: int, tasks: int) -> bool:
        """Whether accuracy is measured once ``done`` of ``tasks`` tasks have been learned."""
        if done == tasks or self.evaluate == "every":
            return True
        return self.evaluate != "final" and done % self.evaluate == 0

    def flat(self) -> dict[str, Any]:
        """Every argument by the name that it has on the command line, settings of methods among them."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del own["settings"]
        return {**own, **self.settings}

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> Arguments:
        """The arguments of which :meth:`flat` gives ``values``; names and types are not checked here."""
        own = {name: value for name, value in values.items() if "." not in name}
        return cls(**own, settings={name: value for name, value in values.items() if "." in name})


def dataset_title(dataset: str) -> str:
    """The name of a data set where a person reads it: ``folder:PATH`` becomes the name of the folder."""
    kind, _, path = dataset.partition(":")
    return Path(path).resolve().name if path else kind


def names(group: type[Any]) -> frozenset[str]:
    """The arguments that one of the classes above has, inherited ones included."""
    return frozenset(field.name for field in dataclasses.fields(group))


#: Arguments without influence on the figures.
CIRCUMSTANCES = names(Machine) | {"strict"}

#: Arguments that a recipe may not set.
NOT_IN_A_RECIPE = CIRCUMSTANCES | {
    *("dataset", "recipe", "method", "seed", "evaluate", "weights", "settings"),
    *("validation", "split", "class_order"),
}
