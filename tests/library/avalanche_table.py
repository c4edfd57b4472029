"""Writes the table of Avalanche's plugins in the docs: ``python -m tests.library.avalanche_table``."""

from __future__ import annotations

from pathlib import Path

from avalanche_sdlora.training.compatibility import REFUSALS, Refusal
from tests.library.avalanche_catalogue import REFUSED, WORKS

PATH = Path(__file__).resolve().parents[2] / "docs" / "guide" / "avalanche.md"

HEAD = """# Beside Avalanche's plugins and strategies

`SDLoRAPlugin` makes any supervised strategy of Avalanche learn with SD-LoRA. Give it first in the list of plugins:

```python
strategy = Replay(model=vit, optimizer=SGD(vit.parameters(), lr=0.01), criterion=CrossEntropyLoss(), mem_size=200,
                  plugins=[SDLoRAPlugin(SDLoRAConfig(rank=10))])
```

Everything that Avalanche 0.6 exports has been tried, on streams with and without task labels where it takes both, with
falling ranks, truncation, a rank budget, and a head in closed form. What cannot work is refused when `train` is called
and before anything has changed, by an error that says what the table says. Subclasses are refused with their parents;
`avalanche_sdlora.training.compatibility.check_strategy(strategy, config)` asks beforehand.

Two things hold for all that keeps samples, gradients or copies of the model. The loss is computed over the classes of
the present experience, and over all classes seen where a batch holds others. And what anchors parameters by their names
(EWC, MAS, SI) needs parameters that keep their meaning: `SDLoRAConfig(directions="single")`, one direction that all
tasks train on and on, at the rank of the first task.

A test makes this table: `python -m tests.library.avalanche_table` writes it anew.

"""


def table() -> str:
    """The whole file."""
    lines = ["| Avalanche | beside `SDLoRAPlugin` | why, or what to know | use instead |", "|---|---|---|---|"]
    for group in sorted(_groups(), key=lambda names: names[0].lower()):
        title = ", ".join(f"`{name}`" for name in group)
        known = [WORKS[name] for name in group if name in WORKS]
        if known:
            label = "needs task labels" if known[0].labels else ""
            lines.append(f"| {title} | works | {'; '.join(filter(None, [known[0].remark, label]))} | |")
        lines += [_refused("" if known else title, refusal) for refusal in _refusals(group)]
    return HEAD + "\n".join(lines) + "\n"


def _groups() -> list[list[str]]:
    """A strategy of Avalanche and the plugin that it is made of stand in one row."""
    groups: dict[str, list[str]] = {}
    for name in sorted({*WORKS, *REFUSED}):
        groups.setdefault(name.removesuffix("Plugin"), []).append(name)
    return list(groups.values())


def _refusals(group: list[str]) -> list[Refusal]:
    return [refusal for refusal in REFUSALS if refusal.name in group]


def _refused(title: str, refusal: Refusal) -> str:
    condition = f", with {refusal.condition}" if refusal.condition else ""
    return f"| {title} | refused{condition} | {refusal.why} | {refusal.instead} |"


if __name__ == "__main__":
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(table())
