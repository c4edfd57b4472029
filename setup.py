"""Packaging of avalanche_sdlora; tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

# What ``benchmarks/`` and ``experiments/`` need beyond the library itself.
EXPERIMENTS = [
    "docstring-parser",
    "jsonargparse[signatures]>=4.40",
    "matplotlib",
    "rich",
    "scikit-learn",
    "tomli; python_version < '3.11'",
]

setup(
    name="avalanche-sdlora",
    version="0.1.0",
    description="SD-LoRA for Avalanche: rehearsal-free continual learning with pre-trained vision transformers",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["avalanche_sdlora*"]),
    package_data={"avalanche_sdlora": ["py.typed", "weights/*.safetensors"]},
    install_requires=[
        "avalanche-lib>=0.6",
        "torch>=2.4",
        "torchvision",
        "timm>=1.0.15",
        "safetensors>=0.4",
        "tensorboard",
    ],
    extras_require={
        "experiments": EXPERIMENTS,
        "speed": [*EXPERIMENTS, "peft"],  # only to compare with
        # peft and the onnx packages: what exported models are loaded back with.
        "test": [
            *EXPERIMENTS,
            "hypothesis",
            "import-linter",
            "mypy",
            "onnxruntime",
            "onnxscript",
            "peft",
            "pytest",
            "ruff",
        ],
    },
)
