"""The card of what a run has learned, beside its adapters file, in the form that model hubs read."""

from __future__ import annotations

import math
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from avalanche_sdlora.files import replacing
from experiments.figures.mistakes import class_names
from experiments.figures.style import Results, data_name, provenance
from experiments.report.one_run import NOT_MEASURED, command

_TEXT = """---
{metadata}
---

# {title}

What a pre-trained vision transformer has learned of {classes} classes in {tasks} tasks, one after another, with
{method} and the library `avalanche-sdlora`. The file `adapters.safetensors` holds what was learned; the network itself,
`{backbone}`, is not in it and is loaded from timm.

{provenance}

## How well it works

Measured on {images:,} test images, none of which was trained on. One run with one seed: *±* is the standard error
that so many test images leave, and does not include that another seed gives another result.

| | |
|---|---:|
| right among all {classes} classes (pooled) | {pooled:.1f} ± {error:.1f} % |
| Acc, mean over the tasks | {acc:.1f} % |
{more}

{yardstick}

## How to load it

```python
from avalanche_sdlora import load_model

model = load_model("adapters.safetensors")
logits = model.eval()(images)  # ({size}, {size}) pixels, normalised with mean {mean} and std {std}
```

or, for image files, `python -m experiments.predict IMAGE... --adapters adapters.safetensors`.

## How it was trained

```sh
{command}
```

## What it knows

{names}
"""


def write_model_card(path: str | Path, results: Results) -> None:
    """Write the card of a run's adapters file: Markdown with the metadata of the Hugging Face hub.

    Args:
        path: ``README.md`` beside the adapters file, the name that hubs look for.
        results: Contents of the run's ``results.json``.
    """
    observed, data = results.get("observed", {}), data_name(results)
    pooled, images = results["pooled_acc"], sum(results["test_samples"])
    error = 100 * math.sqrt(pooled / 100 * (1 - pooled / 100) / images)
    names, inputs = class_names(results), results["inputs"]
    found = {"accuracy": round(pooled, 2), "acc_mean_over_tasks": round(results["acc"], 2)}
    more = []
    if results.get("aaa") is not None:
        more += [f"| AAA, mean over the stream | {results['aaa']:.1f} % |"]
        more += [f"| forgetting | {results['forgetting']:.1f} points |"]
        found["average_anytime_accuracy"] = round(results["aaa"], 2)
    else:
        more += [f"| AAA and forgetting | {NOT_MEASURED} |"]
    if observed.get("calibration_error"):
        more.append(
            f"| expected calibration error of its probabilities (0 to 1) | {observed['calibration_error'][-1]:.3f} |"
        )
        found["expected_calibration_error"] = round(observed["calibration_error"][-1], 4)
    yardstick = ""
    if results["baselines"]:
        name, best = max(results["baselines"].items(), key=lambda item: item[1]["acc"])
        yardstick = (
            f"For comparison: {name.replace('_', ' ')} on the features of the frozen network, which needs no "
            f"training, has an Acc of {best['acc']:.1f} %."
        )
    card = ModelCardData(
        library_name="avalanche-sdlora",
        pipeline_tag="image-classification",
        base_model=f"timm/{results['arguments']['backbone']}",
        tags=["continual-learning", "class-incremental-learning", "lora", "vision-transformer"],
        model_name=f"{results['method']} on {data}",
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=results["arguments"]["dataset"].partition(":")[0],
                dataset_name=data,
                metric_type=metric,
                metric_value=value,
            )
            for metric, value in found.items()
        ],
    )
    text = _TEXT.format(
        metadata=card.to_yaml(),
        title=f"{results['method']} on {data}",
        classes=len(names),
        tasks=len(results["accuracy_matrix"]),
        method=results["method"],
        backbone=results["arguments"]["backbone"],
        provenance=" · ".join(provenance([results])),
        images=images,
        pooled=pooled,
        error=error,
        acc=results["acc"],
        more="\n".join(more),
        yardstick=yardstick,
        size=inputs["size"],
        mean=tuple(round(float(m), 4) for m in inputs["mean"]),
        std=tuple(round(float(s), 4) for s in inputs["std"]),
        command=command(results),
        names=", ".join(names.values()),
    )
    with replacing(path) as temporary:
        ModelCard(text, ignore_metadata_errors=False).save(temporary)
