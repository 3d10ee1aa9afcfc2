"""wire: bytes <-> fields, and nothing else.

Every protocol module has two tiers, as smoltcp has:

* ``parse(buffer, offset, end)`` is the only door for bytes that somebody else wrote. It returns a
  frozen *checked view*: every offset in it lies inside ``buffer[offset:end]``, every length is
  consistent with every other, so who holds a view need not check again. Otherwise it raises
  :class:`~hypervisor.wire.errors.WireError`, which names layer, field, what was found and what was
  expected. Nothing else is ever raised, whatever the bytes.
* ``build(...)`` writes the same fields, with lengths and checksums computed. Arguments are the
  program's own, so a wrong one is a bug and raises ValueError.

Addresses are ``bytes`` in network order (6, 4 or 16 of them), ports and lengths plain ints, offsets
count from the start of the buffer. A frame is an Ethernet frame from destination MAC to the last
payload byte: no preamble, no FCS. Padding behind an IP packet is legal and outlives parsing as the
difference between the view's end and the buffer's.

Modules, lowest first::

    errors protocols checksum          what all others use
    ethernet                           MACs, EtherTypes, VLAN tags
    arp ipv4 ipv6 icmp icmpv6 udp tcp  one protocol each
    dhcp dhcpv6                        the same for DHCP, read only
    virtio_net                         the 12-byte offload header of TAPs and guests
    framing                            frames on a byte stream, as QEMU and passt send them
    vde                                how a VDE client plugs in
    x509                               how long a certificate is good
    segmentation                       checksums completed, TCP and UDP cut up, in software
    transport                          where the TCP or UDP header of a frame is
    offload                            judge such a header; finish what it leaves undone
    summary                            one line about a frame, for people

``offload`` runs once for every frame that passes the switch: it is written flat, and its fast path
takes one or two microseconds. ``parse`` is for the guard, the responder and people.
"""
