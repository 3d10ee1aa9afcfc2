"""``hypervisor gateway``: a gateway for the network of a server that knows nothing of gateways.

Theory of operation. The gateway is the one of :mod:`hypervisor.gateway`, processes, rules and all;
it only lives elsewhere. Its TAP is lent to the server behind a device port, as ``pfinet-client
run`` lends one, and the port opens itself again when the server has gone: the namespace, pasta and
all connections through it know nothing of an upgrade. Whom it may give addresses and names the
server tells it (WatchMembers), and the server's guard judges whatever it says: what DHCP gives is
bound only if policy calls the device a DHCP server.

- :mod:`~hypervisor.apart.home`: the place behind a port.
- :mod:`~hypervisor.apart.grants`: what policy must allow, and how to say so.
- :mod:`~hypervisor.apart.command`: the program, from its flags to its exit status.
"""
