"""The cells of a comparison as jobs of a cluster, through submitit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Literal

from experiments.compare.grid import Cell

Launcher = Literal["processes", "slurm", "local"]
_LIVE = frozenset({"PENDING", "RUNNING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "CONFIGURING", "COMPLETING"})


@dataclasses.dataclass(frozen=True)
class CellJob:
    """One cell as what submitit sends to a machine of the cluster.

    Attributes:
        cell: The run.
        threads: Its threads.
    """

    cell: Cell
    threads: int

    def __call__(self) -> None:
        """Make the run, or go on with it from its last checkpoint."""
        self.cell.run(self.threads)

    def checkpoint(self) -> Any:
        """The job that goes on with the run: asked for when this one is preempted or its time is over."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def parse_settings(words: Iterable[str]) -> dict[str, Any]:
    """Parameters of submitit from words such as ``slurm_partition=gpu``, numbers as numbers.

    Raises:
        ValueError: A word has no name.
    """
    settings: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise ValueError(f"submit={word!r}: expected NAME=VALUE, such as slurm_partition=gpu or timeout_min=600")
        settings[name] = int(value) if value.isdigit() else value
    return settings


def run_as_jobs(
    cells: Sequence[Cell], folder: Path, launcher: Launcher, jobs: int, settings: Mapping[str, Any]
) -> Iterator[tuple[Cell, BaseException | None]]:
    """Each cell once it has ended, with the error by which it failed.

    A cell whose job is still in Slurm's queue, from a command that was stopped, is waited for and not sent again.

    Args:
        cells: The runs to make.
        folder: Gets submitit's files.
        launcher: "slurm", or "local": submitit's executor for this machine.
        jobs: So many at once.
        settings: Parameters of submitit's executor: ``slurm_partition``, ``timeout_min``, ``gpus_per_node``,
            ``cpus_per_task``, ...

    Raises:
        ValueError: submitit is not installed, knows no such cluster here, or refuses a parameter.
    """
    try:
        import submitit
    except ImportError:
        raise ValueError("launcher: needs submitit; pip install 'avalanche-sdlora[cluster]'") from None
    settings = {"timeout_min": 24 * 60, **settings}
    threads = int(settings.get("cpus_per_task", 1))
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=launcher)
        executor.update_parameters(name="compare", **settings)
        if launcher == "slurm":
            executor.update_parameters(slurm_array_parallelism=jobs)
    except (RuntimeError, NameError, TypeError) as error:
        raise ValueError(f"launcher={launcher!r}, submit={dict(settings)}: {error}") from error
    if launcher == "slurm":
        sent = [_queued(cell, folder) for cell in cells]
        with executor.batch():
            sent = [job or executor.submit(CellJob(cell, threads)) for cell, job in zip(cells, sent)]
        for cell, job in zip(cells, sent):
            cell.folder.mkdir(parents=True, exist_ok=True)
            _note(cell).write_text(job.job_id, encoding="utf-8")
        results: list[Callable[[], Any]] = [job.result for job in sent]
    else:
        results = [lambda job=CellJob(cell, threads): executor.submit(job).result() for cell in cells]  # type: ignore[misc]
    with ThreadPoolExecutor(len(cells) if launcher == "slurm" else jobs) as pool:
        running = {pool.submit(result): cell for cell, result in zip(cells, results)}
        try:
            for future in as_completed(running):
                yield running[future], future.exception()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _queued(cell: Cell, folder: Path) -> Any:
    """The job of a cell that Slurm still has, if there is one."""
    import submitit

    if not _note(cell).exists():
        return None
    job: Any = submitit.SlurmJob(folder, _note(cell).read_text(encoding="utf-8"))
    return job if job.state.upper() in _LIVE else None


def _note(cell: Cell) -> Path:
    return cell.folder / "job.txt"
