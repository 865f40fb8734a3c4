"""How many threads compute: as many as the machine gives this process cores, unless the caller says otherwise.

It does not know what is computed. Torch's number of threads is the one that every product takes, the library's too.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import torch

from cutaway.ground.errors import BadArgument
from cutaway.ground.whole import require_whole
from cutaway.quant.native.library import LIBRARY

MOST = 1024
SMALL = 1 << 21  # numbers up to which one thread is as fast as several, which wait for each other
GROUPS = Path("/sys/fs/cgroup")
CORES = Path("/sys/devices/system/cpu")
given: list[int] = []  # the numbers that callers of use_threads gave


def use_threads(count: int | None) -> None:
    """So many threads in this process from now on (torch.set_num_threads): torch's own products use them as well.

    None: at most `default_threads()`, unless the number was chosen before, here, by torch.set_num_threads, or by
    OMP_NUM_THREADS or MKL_NUM_THREADS: then it stays. Raises BadArgument for less than one, or more than MOST.
    """
    if count is not None:
        count = require_whole("threads", count, 1, "leave it out for one thread a core, or pass for example threads=2")
        if count > MOST:
            raise BadArgument(f"threads={count}", f"at most {MOST}", "leave it out for one thread a core")
        given.append(count)
        torch.set_num_threads(count)
    elif not given and not _chosen_elsewhere():
        torch.set_num_threads(min(torch.get_num_threads(), default_threads()))


@contextmanager
def one_thread(numbers: int) -> Iterator[None]:
    """Torch's ops on so many numbers stay on the calling thread within the context, if they are few.

    Torch's other threads would spin for milliseconds after each op, and keep processors from those of the library.
    """
    if LIBRARY is None or numbers > SMALL:
        yield
        return
    before = LIBRARY.cutaway_openmp_threads(1)
    try:
        yield
    finally:
        LIBRARY.cutaway_openmp_threads(before)


def _chosen_elsewhere() -> bool:
    """Whether the environment says a number (torch tells), or torch's is not one that it takes by itself."""
    if re.search(r"\b(?:OMP|MKL)_NUM_THREADS : (?!\[not set])", torch.__config__.parallel_info()):
        return True
    processors = allowed_processors()
    return torch.get_num_threads() not in (len(processors), physical_cores(processors))


def default_threads() -> int:
    """Physical cores that this process may run on, and no more than its control groups let it use at a time."""
    cores = physical_cores(allowed_processors())
    quota = cpu_quota(_text(Path("/proc/self/cgroup")))
    return cores if quota is None else max(1, min(cores, int(quota)))


def allowed_processors() -> set[int]:
    """The processors of the affinity mask; where the system has none, all."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def physical_cores(processors: Iterable[int], folder: Path = CORES) -> int:
    """On how many cores these processors lie: hyperthreads of one core share its arithmetic units."""
    files = ((number, folder / f"cpu{number}" / "topology" / "thread_siblings_list") for number in processors)
    return max(1, len({_text(file) or number for number, file in files}))


def cpu_quota(groups: str, folder: Path = GROUPS) -> float | None:
    """Processors' time that the control groups allow, 1.5 for one and a half; None where they do not limit it.

    groups: /proc/self/cgroup. A group is limited by those above it too, and may be the root of what is mounted in a
    container, under a path that the container does not see.
    """
    quotas = []
    for line in groups.splitlines():
        number, controllers, path = line.split(":", 2)
        version_2 = number == "0" and not controllers
        if not version_2 and "cpu" not in controllers.split(","):
            continue
        quota: Callable[[Path], float | None] = _quota_2 if version_2 else _quota_1
        inside = PurePosixPath(path.lstrip("/"))
        for mount in ("", "unified") if version_2 else ("cpu", "cpu,cpuacct"):
            quotas += [quota(folder / mount / group) for group in (inside, *inside.parents)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_2(group: Path) -> float | None:
    return _ratio(*_text(group / "cpu.max").split())


def _quota_1(group: Path) -> float | None:
    return _ratio(_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us"))


def _ratio(quota: str = "", period: str = "") -> float | None:
    """None where a part is missing, or the quota says that there is none: "max", or -1."""
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _text(file: Path) -> str:
    """Its text, without the last newline; empty where it cannot be read."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
