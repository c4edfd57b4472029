"""SD-LoRA inside an Avalanche script that exists already: Naive with replay and early stopping.

``python examples/replay_and_early_stopping.py`` learns scikit-learn's handwritten digits; nothing is downloaded.
"""

import numpy as np
import torch
from avalanche.benchmarks import benchmark_with_validation_stream, nc_benchmark
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training import Naive
from avalanche.training.plugins import EarlyStoppingPlugin, EvaluationPlugin, ReplayPlugin
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn.functional import interpolate
from torch.utils.data import TensorDataset

from avalanche_sdlora import SDLoRAConfig, SDLoRAPlugin, create_backbone


def digits() -> tuple[TensorDataset, TensorDataset]:
    """Training and test images, ``(n, 3, 32, 32)`` within -1 and 1, as the bundled backbone expects them."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels.astype(np.float32)).view(-1, 1, 8, 8).expand(-1, 3, -1, -1) / 8 - 1
    images = interpolate(images, size=32, mode="bicubic")
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    return tuple(TensorDataset(images[part], torch.from_numpy(labels[part])) for part in (train, test))


def main() -> list[float]:
    """The accuracy after each task, among all classes seen."""
    benchmark = nc_benchmark(*digits(), n_experiences=5, task_labels=False, seed=0)
    benchmark = benchmark_with_validation_stream(benchmark, validation_size=0.1, shuffle=True)
    vit = create_backbone("vit_micro_patch4_32.formula")
    strategy = Naive(
        model=vit,
        optimizer=torch.optim.SGD(vit.parameters(), lr=0.05, momentum=0.9),
        train_mb_size=64,
        train_epochs=4,
        eval_mb_size=128,
        eval_every=1,  # early stopping looks at each epoch's evaluation
        plugins=[
            SDLoRAPlugin(SDLoRAConfig(expansion=500)),  # first; a small expansion is enough for ten digits
            ReplayPlugin(mem_size=100),
            EarlyStoppingPlugin(patience=1, val_stream_name="valid_stream", metric_name="Top1_Acc_Stream"),
        ],
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[]),
    )
    accuracies = []
    for i, experience in enumerate(benchmark.train_stream):
        strategy.train(experience, eval_streams=[benchmark.valid_stream[: i + 1]])
        metrics = strategy.eval(benchmark.test_stream[: i + 1])
        accuracies.append(metrics["Top1_Acc_Stream/eval_phase/test_stream/Task000"])
        print(f"after task {i + 1}: {100 * accuracies[-1]:.1f} % of the digits seen so far are recognised")
    return accuracies


if __name__ == "__main__":
    main()
