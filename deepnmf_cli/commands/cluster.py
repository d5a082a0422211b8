"""Tasks spread over the machines of a Ray cluster, as `workers.Workers` spreads them over processes."""

import os
import re
import socket
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any, Self

from deepnmf_cli import __version__, extras
from deepnmf_cli.commands import console
from deepnmf_cli.errors import ClusterError, DeepnmfError, shortened
from deepnmf_cli.signals import kept
from deepnmf_cli.workers import Progress, Work, lost, outcome

CONNECT_S = 5.0
"""Time within which a machine that listens answers."""

WAITING_S = 60.0
"""Time without any worker after which a warning is shown."""

GRACE_S = 10.0
"""Time that workers have to clean up after themselves before they are killed."""

STORE_BYTES = 100 << 20
"""Size of Ray's object store on a cluster of this machine alone: recordings do not pass through it."""

RETRIES = 1
"""How many times a task whose worker died is given to another one."""


class _Abandoned(BaseException):
    """Ends a task that its owner no longer wants, running all clean-up on the way."""


class Worker:
    """A process of the cluster: prepared once, it takes task after task. Ray calls `end` while a task runs."""

    _work: Work
    """Set by `prepare`, which is called before any task is given."""

    def __init__(self) -> None:
        self._ending = False

    def prepare(self, version: str, prepare: Callable[..., Work], arguments: tuple) -> DeepnmfError | None:
        """Return why this worker is unfit, or None if it is ready."""
        if version != __version__:
            remedy = "Install the same version on all machines."
            return ClusterError(socket.gethostname(), f"deepnmf {__version__}", f"deepnmf {version}, as here", remedy)
        work = outcome(prepare, *arguments)
        if isinstance(work, DeepnmfError):
            return work
        self._work = work
        return None

    def do(self, task: Any) -> tuple[Any, float]:
        """Return the result of a task, or its DeepnmfError, and the amount of progress."""
        total = 0.0

        def progress(amount: float) -> None:
            nonlocal total
            total += amount
            if self._ending:
                raise _Abandoned

        try:
            return outcome(self._work, task, progress), total
        except _Abandoned:
            return None, total

    def end(self) -> None:
        """Abandon the task in progress."""
        self._ending = True


class RayWorkers:
    """A context manager that holds `count` workers of the connected cluster, each with a CPU and `gpus` of its own.

    It has the interface of `workers.Workers`, and its behaviour with two exceptions: a task whose worker dies, with its
    machine or alone, is given to another one once, and progress is reported when a task is done. Each worker has one
    task at a time, and tasks are taken from their iterable one by one, so that memory does not grow with their number.
    """

    def __init__(self, count: int, gpus: int, prepare: Callable[..., Work], *arguments: Any) -> None:
        self.count, self._gpus = count, gpus
        self._prepare, self._arguments = prepare, arguments
        self._actors: list[Any] = []
        self._at_work: dict[Any, tuple[Any, Any]] = {}
        """Awaited result -> the worker and its task, which is NOTHING while the worker is being prepared."""
        self.died = False
        """Whether a worker was lost on the way."""

    def __enter__(self) -> Self:
        import ray

        # Ray's type does not know `max_concurrency`, an option of actors alone.
        make = ray.remote(num_cpus=1, num_gpus=self._gpus, max_concurrency=2)  # pyright: ignore[reportCallIssue]
        self._actor = make(Worker)
        self._shared = ray.put(self._arguments)
        for _ in range(self.count):
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        for _ in self._stop():
            pass
        for actor in self._actors:
            with suppress(Exception):
                ray.kill(actor)

    def run(
        self, tasks: Iterable[Any], progress: Progress, name: Callable[[Any], str] = str
    ) -> Iterator[tuple[Any, Any]]:
        """Yield (task, result) as tasks are done; the result of a failed task is its DeepnmfError.

        After Ctrl-C, tasks that are completed before their workers notice are yielded too, and then KeyboardInterrupt
        is raised. Raises DeepnmfError if a worker cannot be prepared.
        """
        try:
            yield from self._results(tasks, progress, name)
        except KeyboardInterrupt:
            yield from self._stop()
            raise

    def _stop(self) -> Iterator[tuple[Any, Any]]:
        """End the tasks in progress. Yields those that are done before: their outputs exist, and must be reported."""
        import ray

        under_way = {awaited: task for awaited, (_, task) in self._at_work.items() if task is not NOTHING}
        self._at_work.clear()
        done: list[Any] = []
        with suppress(Exception):  # of a cluster that is gone
            for actor in self._actors:
                actor.end.remote()
            if under_way:
                done, _ = ray.wait(list(under_way), num_returns=len(under_way), timeout=GRACE_S)
        for awaited in done:
            with suppress(Exception):
                result, _ = ray.get(awaited)
                if result is not None:
                    yield under_way[awaited], result

    def _results(
        self, tasks: Iterable[Any], progress: Progress, name: Callable[[Any], str]
    ) -> Iterator[tuple[Any, Any]]:
        """Yield what `run` yields."""
        import ray
        from ray.exceptions import RayActorError, RayError

        source, again, deaths = iter(tasks), deque(), Counter()
        idle: list[Any] = []
        begun = told = False
        while True:
            while idle and (task := again.popleft() if again else next(source, NOTHING)) is not NOTHING:
                actor = idle.pop()
                self._at_work[actor.do.remote(task)] = actor, task
            if idle and all(task is NOTHING for _, task in self._at_work.values()):
                return
            done, _ = ray.wait(list(self._at_work), timeout=WAITING_S)
            if not done and not told and all(task is NOTHING for _, task in self._at_work.values()):
                told = True
                console.warn(f"No worker has started within {WAITING_S:.0f} s. Is there a free CPU in the cluster?")
            for awaited in done:
                actor, task = self._at_work.pop(awaited)
                try:
                    result = ray.get(awaited)
                except RayActorError as error:
                    self._remove(actor)
                    if task is NOTHING:  # it died while it was prepared, and so may the next one, without end
                        if not begun or not (self._at_work or idle):
                            raise _unfit(error) from error
                        continue
                    self._start()
                    deaths[name(task)] += 1
                    if deaths[name(task)] > RETRIES:
                        yield task, lost(name(task))
                    else:
                        again.append(task)
                    continue
                except RayError as error:  # unexpected
                    if task is NOTHING:
                        raise _unfit(error) from error
                    found = f"an error of its worker ({_last_line(error)})"
                    result = ClusterError(name(task), found, "none", "Please report it."), 0.0
                begun = True
                idle.append(actor)
                if task is not NOTHING:
                    progress(result[1])
                    yield task, result[0]
                elif isinstance(result, DeepnmfError):
                    raise result

    def _start(self) -> None:
        actor = self._actor.remote()
        self._actors.append(actor)
        self._at_work[actor.prepare.remote(__version__, self._prepare, self._shared)] = actor, NOTHING

    def _remove(self, actor: Any) -> None:
        import ray

        self.died = True
        self._actors.remove(actor)
        with suppress(Exception):
            ray.kill(actor)  # it may only be out of reach


NOTHING = object()
"""Stands in for a task where there is none."""


@contextmanager
def connected(address: str | None) -> Iterator[tuple[int, int]]:
    """Join a cluster, or start one on this machine if `address` is None and RAY_ADDRESS is not set; yield the numbers
    of its CPUs and GPUs.

    Ray's usage reports are off unless RAY_USAGE_STATS_ENABLED says otherwise. Raises ClusterError.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray is imported
    extras.require("cluster", "--engine ray")
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    _require_listener(address)
    import ray

    own = {"include_dashboard": False, "object_store_memory": STORE_BYTES} if address == "local" else {}
    try:
        with kept():  # Ray sets handlers of its own
            ray.init(address, log_to_driver=False, configure_logging=False, **own)
    except Exception as error:  # of many types
        raise _unreachable(address, error) from error
    try:
        resources = ray.cluster_resources()
        with redirect_stdout(sys.stderr):  # Ray would print its messages among the results
            yield int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Raise ClusterError if nothing listens at the address; Ray itself would try for a quarter of an hour."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> ClusterError:
    text = str(error)
    if "ersion mismatch" in text:
        versions = re.findall(r"(?:Ray|Python): *([\w.]+)", text)
        if len(versions) == 4:
            found = f"Ray {versions[0]} on Python {versions[1]}"
            return ClusterError(address, found, f"Ray {versions[2]} on Python {versions[3]}, as here", SAME)
        return ClusterError(address, "a cluster of another version", "the same one", SAME)
    found = f"no cluster of Ray that answers ({shortened(error)})"
    return ClusterError(address, found, "the address of one, such as 10.0.0.1:6379", "See `ray status` on its head.")


SAME = "Install the same versions of Ray and Python here and in the cluster."


def _unfit(error: Exception) -> ClusterError:
    found = f"one that cannot start ({_last_line(error)})"
    remedy = "Install deepnmf in the same version, with its extra [cluster], on all machines."
    return ClusterError("workers", found, "workers that can import deepnmf_cli", remedy)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shortened(lines[-1]) if lines else type(error).__name__
