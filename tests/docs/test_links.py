"""Every link within the repository leads somewhere, every page is reachable, and every public name is described."""

import importlib
import inspect
import pkgutil
import re

import avalanche_sdlora
import benchmarks
from tests.docs.pages import PAGES, ROOT, anchors, links


def test_every_internal_link_resolves():
    broken, count = [], 0
    for page in PAGES:
        for link in links(page):
            if re.match(r"[a-z]+:", link):
                continue
            count += 1
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                broken.append(f"{page.relative_to(ROOT)}: {link}")
            if page.is_relative_to(ROOT / "docs") and not target.is_relative_to(ROOT / "docs"):
                broken.append(f"{page.relative_to(ROOT)}: {link} is no part of the site")
    print(f"internal links: {count}, broken: {len(broken)}")
    assert count > 50
    assert not broken


def test_every_page_is_in_a_table_of_contents():
    contents = {
        (page.parent / line).with_suffix(".md").resolve()
        for page in PAGES
        for tree in re.findall(r"```\{toctree\}(.*?)```", page.read_text(), re.DOTALL)
        for line in tree.split()
        if not line.startswith(":")
    }
    pages = {page for page in PAGES if "docs" in page.parts and page.name != "index.md"}
    assert not pages - contents


def test_no_table_stands_twice():
    seen = {}
    for page in PAGES:
        for table in re.findall(r"(?:^\|.*\n)+", page.read_text(), re.MULTILINE):
            rows = [row for row in table.splitlines()[2:] if len(row) > 60]
            for row in rows:
                assert seen.setdefault(row, page) == page, f"{page} and {seen[row]}: {row}"
    assert len(seen) > 100


def public_objects():
    """Modules, classes, functions and methods without a leading underscore, by name."""
    for package in (avalanche_sdlora, benchmarks):
        modules = [package.__name__, *(m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}."))]
        for name in modules:
            module = importlib.import_module(name)
            yield name, module
            for key, found in vars(module).items():
                if key[0] == "_" or getattr(found, "__module__", None) != name or not callable(found):
                    continue
                if inspect.isclass(found) or inspect.isfunction(found):
                    yield f"{name}.{key}", found
                if inspect.isclass(found):
                    for attribute, member in vars(found).items():
                        member = getattr(member, "__func__", getattr(member, "fget", member))
                        named = inspect.isfunction(member) and member.__name__[0] not in "_<"  # no default of a field
                        if attribute[0] != "_" and named:
                            yield f"{name}.{key}.{attribute}", member


def test_every_public_name_has_a_docstring():
    found = dict(public_objects())
    without = [name for name, thing in found.items() if not vars(thing).get("__doc__", thing.__doc__)]
    print(f"public names: {len(found)}, without docstring: {len(without)}")
    assert len(found) > 300
    assert not without


#: Modules that the reference leaves out, since no script calls them: they work for other modules of the library.
INNER = {
    "avalanche_sdlora": {"files", "growing", "lazy", "learned", "near", "past"},
    "avalanche_sdlora.adapter": {"calls", "directions", "undo"},
    "avalanche_sdlora.persistence": {"eventfiles", "plainstate", "runstate", "tensorfile"},
    "avalanche_sdlora.training": {
        "boundary",
        "features",
        "guesses",
        "held_out",
        "lesson",
        "loading",
        "randomness",
        "shared_work",
    },
}


def reference():
    """The modules that the reference has as a whole, and the names that it has one by one."""
    text = "\n".join(page.read_text() for page in PAGES if page.parent.name == "api")
    return (
        set(re.findall(r"automodule:: (\S+)", text)),
        set(re.findall(r"auto(?:class|function|exception):: (\S+)", text)),
    )


def modules_of(package):
    return [m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]


def test_the_reference_has_every_public_name():
    whole, named = reference()
    packages = [avalanche_sdlora, *map(importlib.import_module, modules_of(avalanche_sdlora))]
    packages = [package for package in packages if hasattr(package, "__all__")]
    assert len(packages) > 5
    shown = {getattr(importlib.import_module(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in named}
    lacking, count = [], 0
    for package in packages:
        for name in set(package.__all__) - {"__version__"}:
            thing, count = getattr(package, name), count + 1
            if package.__name__ not in whole and thing.__module__ not in whole and thing not in shown:
                lacking.append(f"{package.__name__}.{name}")
    print(f"names that packages give: {count}, not in the reference: {len(lacking)}")
    assert not lacking


def test_the_reference_has_every_module():
    """A new module is described, or said to be an inner one."""
    whole, named = reference()
    inner = {f"{package}.{module}" for package, modules in INNER.items() for module in modules}
    own = {}
    for name in modules_of(avalanche_sdlora):
        module = importlib.import_module(name)
        things = [thing for key, thing in vars(module).items() if key[0] != "_"]
        own[name] = {t for t in things if getattr(t, "__module__", None) == name and not isinstance(t, type(re))}
    shown = {getattr(importlib.import_module(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in named}
    shown |= {
        getattr(module, name)
        for module in map(importlib.import_module, whole)
        for name in getattr(module, "__all__", ())
    }
    missing = {name for name, things in own.items() if things and name not in whole and not things & shown}
    print(f"modules: {len(own)}, in the reference: {len(own) - len(missing)}, inner: {len(inner)}")
    assert missing == inner
