"""The site: ``make docs`` builds it into ``docs/_build/html``, without a network and without a warning."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util.inspect import signature as signature_of
from sphinx.util.inspect import stringify_signature

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# Notebooks run in kernels of their own, which find the checkout. Their tensors gain nothing from a second thread.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import avalanche_sdlora  # noqa: E402 - found by the path above

project = "avalanche_sdlora"
author = "The avalanche_sdlora developers"
copyright = author
release = version = avalanche_sdlora.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]

html_math_renderer = "mathml"  # browsers draw it themselves, where MathJax would be fetched
html_theme = "furo"
html_title = "avalanche_sdlora"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1d5f8a", "color-brand-content": "#1d5f8a"},
    "dark_css_variables": {"color-brand-primary": "#7fb8de", "color-brand-content": "#7fb8de"},
}
html_static_path = ["_static"]
html_css_files = ["site.css"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 300  # a cell takes seconds; a machine may be busy
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
add_module_names = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # an attribute of a dataclass is described once
suppress_warnings = ["config.cache"]

# Every link to something of this library must resolve. Names of other libraries are shown without a link, since their
# inventories would have to be fetched.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(torch|nn|np|numpy|avalanche|collections|os|pathlib|argparse|typing|datetime|PIL|timm)\..+"),
    ("py:.*", "Any|Callable|Iterable|Iterator|Mapping|Optimizer|Part|Path|Precision|Self|Sequence|Tensor|T"),
    ("py:.*", r"avalanche_sdlora\.processes\.collectives\.T|(tuple|dict)\[.*"),  # no names, but how types are written
]


def setup(app: Any) -> None:
    """What Sphinx calls."""
    app.connect("autodoc-process-signature", _arguments_of_init)
    app.add_html_math_renderer("mathml", inline_renderers=(_math, None), block_renderers=(_equation, None))


def _math(translator: Any, node: Any) -> None:
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _equation(translator: Any, node: Any) -> None:
    translator.body.append(f'<div class="equation">{convert(node.astext(), display="block")}</div>\n')
    raise nodes.SkipNode


def _arguments_of_init(app: Any, what: str, name: str, thing: Any, options: Any, signature: str, returns: str) -> Any:
    """The arguments of a class whose ``__new__`` takes any, so that its ``__init__`` has the names."""
    if what == "class" and (signature or "").startswith("(*args"):
        return stringify_signature(signature_of(thing.__init__, bound_method=True), show_annotation=False), returns
    return None
