"""Builds wheel and sdist, installs each into an environment of its own, and uses it: ``make package``.

The environment sees the packages that are installed beside this interpreter, torch among them, and nothing of the
checkout: they are found by a path file, and path files beside them, those of editable installations, do not count.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
WEIGHTS = "avalanche_sdlora/weights/vit_micro_patch4_32.formula.safetensors"

#: What a user does first: a model with the bundled weights learns two tasks, is saved and loaded.
SMOKE = """
import importlib.util, sys, tempfile, warnings
from importlib import metadata
from pathlib import Path
warnings.filterwarnings("ignore")
import torch
from avalanche.benchmarks import nc_benchmark
from torch.utils.data import TensorDataset
import avalanche_sdlora
from avalanche_sdlora import SDLoRAConfig, SDLoRAStrategy, load_model, save_adapters

assert Path(avalanche_sdlora.__file__).is_relative_to(sys.prefix), avalanche_sdlora.__file__
assert avalanche_sdlora.__version__ == metadata.version("avalanche-sdlora") == sys.argv[1]
for name in ("experiments", "benchmarks"):  # other packages bring a "tests"
    assert importlib.util.find_spec(name) is None, f"{name} is a top-level name of the environment"
labels = torch.arange(4).repeat_interleave(8)
data = TensorDataset(torch.randn(32, 3, 32, 32), labels)
benchmark = nc_benchmark(data, data, 2, task_labels=False, seed=0)
config = SDLoRAConfig(expansion=50)
strategy = SDLoRAStrategy("vit_micro_patch4_32.formula", config=config, train_mb_size=8, evaluator=None)
strategy.train(benchmark.train_stream)
file = Path(tempfile.mkdtemp(), "adapters.safetensors")
save_adapters(strategy.model, file)
x = torch.randn(2, 3, 32, 32)
assert torch.allclose(load_model(file).eval()(x), strategy.model.eval()(x), atol=1e-5)
print("avalanche_sdlora", avalanche_sdlora.__version__, "with torch", torch.__version__, "works")
"""


def check_contents(wheel: Path, sdist: Path) -> None:
    """Refuse packages that hold another top-level name than the library, or lack its weights."""
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"avalanche_sdlora"}, f"{wheel.name} has the top-level names {sorted(tops)}"
    assert {WEIGHTS, "avalanche_sdlora/py.typed"} <= set(names), f"{wheel.name} lacks the weights"
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {WEIGHTS, "pyproject.toml", "README.md", "LICENSE"} <= inside, f"{sdist.name} lacks files"
    print(f"{wheel.name}: {len(names)} files, {wheel.stat().st_size / 1e6:.1f} MB; {sdist.name}: {len(inside)} files")


def use(package: Path, version: str) -> None:
    """Install a package into a fresh environment and run :data:`SMOKE` there."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        python = Path(folder, "bin", "python")
        site = next(Path(folder, "lib").glob("python*/site-packages"))
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
        others = Path(sysconfig.get_path("purelib"))
        lines = [str(others)]
        # From Python 3.12 on, Avalanche's GPUtil finds distutils in setuptools, by this path file of its own.
        lines += [file.read_text() for file in others.glob("distutils-precedence.pth")]
        Path(site, "others.pth").write_text("\n".join(lines) + "\n")
        # The dependencies are there already, and so is what builds an sdist.
        subprocess.run([*pip, "--no-build-isolation", "--ignore-installed", str(package)], check=True)
        clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SDLORA_DATA")}
        subprocess.run([str(python), "-c", SMOKE, version], cwd=folder, env=clean, check=True)


def main() -> None:
    """Build, look inside, install, use."""
    shutil.rmtree(DIST, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(DIST), str(ROOT)], check=True)
    (wheel,), (sdist,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    check_contents(wheel, sdist)
    for package in (wheel, sdist):
        use(package, wheel.name.split("-")[1])


if __name__ == "__main__":
    main()
