"""``hypervisor demo``: two unprivileged network stacks on a virtual Ethernet, on real traffic.

Theory of operation
    One process directs (this package) and forks all others: a server, two stacks as
    ``pfinet-client run`` makes them, and a child for every question asked inside a namespace or
    over gRPC (``children``). The director itself stays small: one thread, no gRPC, no event loop.
    Started by root, server and stacks are three different ordinary users, who need not be able to
    read this installation, since nothing of it is imported after the fork.

    What is shown, is measured: every row of the table says what should happen and what did
    (``checks``), judged by somebody who would have seen the opposite. The rooms: ``stage`` (the
    folder, the users, the processes), ``traffic``, ``forgery``, ``counters``, ``userspace`` (the
    variant for machines that forbid namespaces), ``picture`` (what is printed), ``play`` (the
    order of things).
"""

from __future__ import annotations

from hypervisor.demo.play import main

__all__ = ["main"]
