"""Learn a folder of your own images, some classes at a time: ``python examples/own_images.py FOLDER``.

FOLDER holds train/CLASS/IMAGE and test/CLASS/IMAGE.
"""

import argparse

from avalanche.benchmarks import nc_benchmark
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import InteractiveLogger
from avalanche.training.plugins import EvaluationPlugin
from timm.data import create_transform, resolve_model_data_config
from torchvision.datasets import ImageFolder

from avalanche_sdlora import SDLoRAStrategy, create_backbone, save_adapters
from avalanche_sdlora.metrics import stream_metrics


def main() -> None:
    """Train on one task after another, evaluate after each, and write what was learned."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--backbone", default="vit_base_patch16_224.augreg2_in21k_ft_in1k", help="a timm name")
    parser.add_argument("--tasks", type=int, default=5, help="must divide the number of classes")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--adapters", default="adapters.safetensors", help="the file to write")
    options = parser.parse_args()

    # Pixels must be scaled as the weights expect them: timm knows how.
    backbone = create_backbone(options.backbone)
    pixels = resolve_model_data_config(backbone)
    train = ImageFolder(f"{options.folder}/train", create_transform(**pixels, is_training=True))
    test = ImageFolder(f"{options.folder}/test", create_transform(**pixels))
    if train.classes != test.classes:
        parser.error("train and test must have folders of equal names")
    benchmark = nc_benchmark(train, test, n_experiences=options.tasks, task_labels=False, seed=0)

    strategy = SDLoRAStrategy(
        model=backbone,
        train_mb_size=32,
        train_epochs=options.epochs,
        eval_mb_size=128,
        device=options.device,
        evaluator=EvaluationPlugin(
            accuracy_metrics(epoch=True, experience=True), stream_metrics(), loggers=[InteractiveLogger()]
        ),
    )
    for i, experience in enumerate(benchmark.train_stream):
        strategy.train(experience)
        strategy.eval(benchmark.test_stream[: i + 1])
    save_adapters(strategy.model, options.adapters, class_names=train.classes)


if __name__ == "__main__":
    main()
