"""Links: everything that touches a kernel and carries frames.

Each driver is one small file behind :class:`hypervisor.links.base.Link`; an in-memory one ships
with the package and passes the same conformance tests as the real ones; wrappers (faults,
capture) are links themselves, so they compose. A :class:`~hypervisor.links.sink.ThreadedSink` is
no link but a way to write into one whose receiver is not trusted.
"""
