"""A forked child computes on one thread: of the OpenMP threads that torch and the library share, a fork copies none.

A child that waits for them hangs, in torch's own products too; the library's own team begins again (team.cpp). It does
not know what is computed.
"""

import os

import torch


def compute_alone_after_fork() -> None:
    """From now on every child that this process forks begins with one thread; `spawn` gives it as many as usual."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_alone)


def _alone() -> None:
    torch.set_num_threads(1)
