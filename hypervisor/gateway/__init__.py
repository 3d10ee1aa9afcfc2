"""A way out of a network for ordinary users: a pfinet of the server's own, beside it.

Theory of operation. What a gateway does beyond switching (routing, address translation) is the
business of Linux, not of this program. So a gateway is one more network stack on the virtual
Ethernet: a user and network namespace of its own with a TAP lent to the server, in which Linux
forwards and nftables translates. Its other interface is made by pasta (Debian: passt), which turns
what leaves by it into ordinary sockets of an ordinary user. Nothing of it needs privilege, and the
server process is in the path only as it is for every other device.

- :mod:`~hypervisor.gateway.plan`: what a gateway is to be; the texts for nftables and pasta (pure).
- :mod:`~hypervisor.gateway.inside`: process 1 of a gateway, which makes all that.
- :mod:`~hypervisor.gateway.spawner`: the processes around it: nothing outlives the server.
- :mod:`~hypervisor.gateway.supervisor`: in the server's loop: starts it, plugs its TAP in, says in
  one line why it ended, starts it again.

Who may reach what: clients reach what the machine's own user could, but not the machine itself. Its
addresses are refused (as they change), loopback is not mapped to anything, link-local addresses
(cloud metadata!), groups and reserved ranges are refused, and so are other networks of the server,
each of which has a gateway with namespaces of its own. From outside comes nothing but answers.

When something ends (pasta, the namespace, the machine's default route) the whole gateway is made
anew: with the same MAC address, so that its clients' neighbour entries hold. Connections through
pasta are sockets of a process that is gone, and end.
"""
