"""From the arguments that somebody gave to a run with nothing left open."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from avalanche_sdlora import RankSchedule, SDLoRAConfig
from avalanche_sdlora.near import did_you_mean
from avalanche_sdlora.training.precision import multiplies_bfloat16
from benchmarks import benchmark_name
from experiments.arguments import Arguments
from experiments.methods import METHODS, Method
from experiments.options.run_options import check_settings, run_options
from experiments.recipes import recipe_of

PRESETS: dict[str, Callable[..., SDLoRAConfig]] = {
    "default": SDLoRAConfig,
    "paper": SDLoRAConfig.paper,
    "reference": SDLoRAConfig.reference,
}


@dataclasses.dataclass(frozen=True)
class Resolved:
    """A run with nothing left open.

    Attributes:
        arguments: The arguments, with everything that the recipe or the method says filled in.
        method: The method with its own arguments.
        config: The settings of the model.
    """

    arguments: Arguments
    method: Method
    config: SDLoRAConfig

    def described(self) -> dict[str, Any]:
        """All settings of the method, as ``results.json`` has them."""
        return self.method.described(self.config)

    def values(self) -> dict[str, Any]:
        """Everything that makes this run again, by the names of the options; the output folder is no part of it.

        A setting of SD-LoRA has its value here wherever that came from, the preset included. Those that the method
        fixes, and those that no text can give, follow from the method and from what else stands here.
        """
        known = run_options()
        whole = {f"sdlora.{name}": value for name, value in self.config.to_dict().items()}
        own = {name: v for name, v in whole.items() if _has(type(self.method), name) and known[name].takes(v)}
        return own | {name: value for name, value in self.arguments.flat().items() if name != "output"}


def resolve(given: Arguments) -> Resolved:
    """Fill in everything that was left open.

    A value comes from the command line; else from the recipe of the data set; else from the preset, for a setting of
    SD-LoRA, or from the method, for its own argument; else from the data set or the backbone. Settings in a recipe for
    other methods are left out.

    Raises:
        ValueError: The data set, the recipe, the method or a setting is unknown, a value cannot be used, or a setting
            is of no use to the method.
    """
    dataset = benchmark_name(given.dataset)
    kind = dataset.partition(":")[0]
    if given.method not in METHODS:
        raise ValueError(
            f"method={given.method!r}: expected one of {', '.join(METHODS)}{did_you_mean(given.method, METHODS)}"
        )
    method = METHODS[given.method]
    check_settings(given.settings, "settings")
    for name, value in given.settings.items():
        if not _has(method, name):
            users = ", ".join(key for key, other in METHODS.items() if _has(other, name))
            raise ValueError(f"{name}={value!r}: not for --method {given.method}, but for {users}")
    recipe = recipe_of(dataset, given.recipe)
    check_settings(recipe, f"recipe {given.recipe!r} of {kind}")

    asked = {name: value for name, value in given.flat().items() if value is not None}
    last = {
        "weights": local_weights(given.backbone or recipe["backbone"]),
        "precision": "auto",
        "output": str(Path("runs", f"{kind}-{datetime.now():%Y%m%d-%H%M%S}")),
        **method().own(),
    }
    found = {**last, **{name: value for name, value in recipe.items() if _has(method, name)}, **asked}
    arguments = Arguments.from_flat({**found, "dataset": dataset})
    if not 0 <= arguments.seed < 2**32:
        raise ValueError(f"seed={arguments.seed}: expected a whole number from 0 to {2**32 - 1}")
    if not isinstance(arguments.evaluate, str) and arguments.evaluate < 1:
        raise ValueError(f"evaluate={arguments.evaluate}: expected every, final, or a whole number of at least 1")
    for name in ("epochs", "batch_size", "learning_rate", "head_learning_rate"):
        number = getattr(arguments, name)
        if number is not None and not number > 0:
            raise ValueError(f"{name}={number}: expected a number above 0")
    for name in ("patch_drop", "later_patch_drop"):
        share = getattr(arguments, name)
        if not 0 <= (share or 0) < 1:
            raise ValueError(f"{name}={share}: expected a share of at least 0 and below 1")
    if arguments.workers < 0:
        raise ValueError(f"workers={arguments.workers}: expected a number of at least 0")
    made = method(**{f.name: arguments.settings[f"{method.name}.{f.name}"] for f in dataclasses.fields(method)})
    config = _config(_of_group(arguments.settings, "sdlora"), made)
    # Whatever is wrong with words and numbers has been said by now: torch is imported for the machine, and Avalanche
    # for the plugins of a method with arguments of its own.
    arguments = _on_machine(arguments, config)
    if made.own():
        try:
            made.plugins()  # refuses values out of range
        except ValueError as error:  # by the name that a plugin has for it, which several methods may share
            own = f"{method.name}.{str(error).partition('=')[0]}"
            raise ValueError(f"{method.name}.{error}" if own in made.own() else str(error)) from error
    return Resolved(arguments, made, config)


def _on_machine(arguments: Arguments, config: SDLoRAConfig) -> Arguments:
    """The arguments with a device that is there, its precision, and a learning rate."""
    import torch

    from avalanche_sdlora.training.optim import default_rate

    device = arguments.device if arguments.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    _check_device(device)
    precision = arguments.precision
    if precision == "auto":
        precision = "bfloat16" if multiplies_bfloat16(device) else "float32"
    rate = default_rate(config) if arguments.learning_rate is None else arguments.learning_rate
    return dataclasses.replace(arguments, device=device, precision=precision, learning_rate=rate)


def _check_device(device: str) -> None:
    """Refuse a device that is not there."""
    import torch

    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        known = ["auto", "cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        reason = str(error).partition("\n")[0].rstrip(".")[:160]
        near = did_you_mean(device, known)
        raise ValueError(f"device={device!r}: cannot be used ({reason}); there are {', '.join(known)}{near}") from None


def _has(method: type[Method], name: str) -> bool:
    """Whether a method uses a setting; arguments that are no settings of a method are used by all."""
    group, dot, key = name.partition(".")
    if not dot or group == method.name:
        return True
    return group == "sdlora" and (method.accepts is None or key in method.accepts)


def _of_group(settings: Mapping[str, Any], group: str) -> dict[str, Any]:
    return {name.partition(".")[2]: value for name, value in settings.items() if name.startswith(f"{group}.")}


def _config(settings: dict[str, Any], method: Method) -> SDLoRAConfig:
    """The preset, changed by the settings, and these by the values that the method fixes."""
    preset = PRESETS[settings.pop("preset", "default")]
    depth = settings.pop("rank_depth", None)
    if "targets" in settings:
        first, *others = settings["targets"].split(",")
        settings["targets"] = (first, *others) if others else first
    if isinstance(settings.get("rank"), str) or depth is not None:
        settings["rank"] = RankSchedule.parse(str(settings.get("rank", SDLoRAConfig.rank)), _depth(depth or "1"))
    return preset(**{**method.usual, **settings, **method.fixed})


def _depth(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(factor) for factor in text.split(","))
    except ValueError:
        raise ValueError(f"sdlora.rank_depth={text!r}: expected factors such as 0.5,1.5") from None


def local_weights(backbone: str) -> str | None:
    """The file of ``backbone``'s weights in the folder that SDLORA_DATA names, None where there is none."""
    folder = os.environ.get("SDLORA_DATA")
    files = sorted(Path(folder).glob(f"{backbone}*.safetensors")) if folder else []
    return str(files[0]) if files else None
