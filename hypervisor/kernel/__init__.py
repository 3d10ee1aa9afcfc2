"""Leaves that both programs use: one small file a kernel interface, no state of their own.

- :mod:`~hypervisor.kernel.tap`: what ``ioctl`` says and does to a TAP's descriptor.
- :mod:`~hypervisor.kernel.netlink`: interfaces, addresses and routes of the *current* network
  namespace; the only importer of pyroute2 (a quarter of a second, so import it where it is used).
- :mod:`~hypervisor.kernel.namespaces`: user and network namespaces without privilege, and why
  they may be forbidden on this machine.
- :mod:`~hypervisor.kernel.process`: giving up: parent death, privileges, capabilities.
- :mod:`~hypervisor.kernel.scm`: descriptors and credentials over Unix sockets.
- :mod:`~hypervisor.kernel.messages`: JSON messages with descriptors between our own processes.
- :mod:`~hypervisor.kernel.pcapng`: capture files as pure bytes.

Order matters to whoever uses these. ``unshare`` of a user namespace fails in a process that has
threads, and gRPC, uvloop's resolver and ``asyncio.to_thread`` all start some: namespaces come
first, in a forked child if need be. Capabilities are an attribute of the *thread*: drop them before
there is a second one.
"""
