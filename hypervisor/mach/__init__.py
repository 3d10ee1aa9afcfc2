"""What device.defs says: tasks and ports, devices and their status, addresses. Pure state.

- ``ports``: tasks hold port rights; a port names one open of a device
- ``receive_ports``: receive ports, port sets, send rights and notifications
- ``net_rcv_msg``: how a frame looks to who set a filter
- ``tickets``: promises that a descriptor will be lent, used once
- ``devices``: virtual NICs, keyed by (owner, name); their flags, their quotas
- ``mac``: stable addresses from a keyed hash, or as eth-multiplexer makes them
- ``status``: device_get_status and device_set_status, as GNU Mach answers them
- ``claims``: IP addresses: assigned by policy, claimed by owners or given by DHCP, leased to them
- ``leases``: what is known of such an address
- ``probes``: who is asked before one is given
- ``transactions``: what devices asked DHCP servers for
- ``neighbours``: addresses that somebody behind an uplink has
"""
