"""The gRPC shell: who is calling, what they ask, how it is answered.

A client connects to a translator node. The *front door* accepts there, learns from the kernel who
connected, and reads the first message: a lending message hands a descriptor over (``lending``),
an HTTP/2 preface starts a gRPC connection, anything else is turned away. A gRPC connection is
*relayed*: the door dials the private socket of the gRPC server from a socket bound to a random
name in the abstract namespace. gRPC shows that name as the peer of each call, so a servicer can
look up who is behind it (``identity``); a call whose peer has no such name is refused. The end of
either side is the end of the connection, and of the tasks that lived on it (``task``).

::

    node ── FrontDoor ── Relay ── private socket ── grpc.aio ── servicers ── Waiters ── Runtime
                └─ lending ─────────────────────────────────────────────────────────────┘

What comes over TCP is relayed unread to a second private socket, where gRPC ends TLS; whose such a
connection is, its first call shows (``visitor``, ``strangers``, ``certificates``).

Servicers are thin. They check what the wire allows and the core does not (``routines``), build one
of the requests of :mod:`hypervisor.requests`, and wait for the completion: ``device`` one a call,
``stream`` a batch at a time, ``ports`` for receive ports. Futures exist only in ``waiters``; when
an RPC is cancelled, its request is. ``status`` is the one place that knows how a Mach return code
looks in gRPC, ``convert`` the one that builds answers from values.

This package and the client are the only importers of grpc.
"""
