"""A run that may be killed, in one process or in several: start it again and it goes on.

``python examples/resumed_and_distributed.py FOLDER``, or, with N processes on one machine,
``torchrun --nproc_per_node N examples/resumed_and_distributed.py FOLDER``.
"""

import argparse

import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin
from replay_and_early_stopping import digits

from avalanche_sdlora import Checkpoint, SDLoRAConfig, SDLoRAStrategy, processes, save_adapters


def main() -> None:
    """Train, with a checkpoint after every epoch that costs little enough of the time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="keeps the checkpoint, and gets adapters.safetensors at the end")
    options = parser.parse_args()

    processes.start()  # of torchrun; nothing in a single process
    torch.manual_seed(0)  # in all of them: they must make one stream
    benchmark = nc_benchmark(*digits(), n_experiences=5, task_labels=False, seed=0)
    strategy = SDLoRAStrategy(
        model="vit_micro_patch4_32.formula",
        config=SDLoRAConfig(expansion=500),  # a small one is enough for ten digits
        train_mb_size=64,  # of all processes together
        train_epochs=2,
        eval_mb_size=128,
        device="cuda" if torch.cuda.is_available() else "cpu",
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[]),
    )
    checkpoint = Checkpoint(options.folder, {"epochs": 2})  # settings that a run must share to be continued
    accuracies = checkpoint.notes.setdefault("accuracies", [])
    for experience in checkpoint.resume(strategy, benchmark.train_stream):
        strategy.train(experience, eval_streams=[])
        metrics = strategy.eval(benchmark.test_stream[: len(accuracies) + 1])
        accuracies.append(metrics["Top1_Acc_Stream/eval_phase/test_stream/Task000"])
        if processes.is_first():
            print(f"after task {len(accuracies)}: {100 * accuracies[-1]:.1f} %", flush=True)
    if processes.is_first():
        save_adapters(strategy.model, f"{options.folder}/adapters.safetensors", class_names=list("0123456789"))
    checkpoint.remove()


if __name__ == "__main__":
    main()
