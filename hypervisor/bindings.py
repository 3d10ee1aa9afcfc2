"""Leases from DHCP: who asked, what a server of this network answered, and what follows from it.

Theory of operation
    Addresses are not learned from what a device says, but a server that policy lets serve
    (``dhcp_server``: the network's gateway, for one) is believed in what it gives. What is to be
    seen of DHCP goes the long way (:mod:`hypervisor.guard.common` has neither a guarded device's
    messages nor any server's answers) and comes by here when the guard has passed it. A client's
    request is remembered with its transaction; an answer with that transaction, to the MAC that
    asked, binds the address to the device before the answer reaches it, so that the very next
    frame from the new address passes.

    An answer that cannot be believed is *discarded*, as ``dhcp_binding``: one nobody asked for,
    and one that gives an address which is somebody else's here, the gateway's, outside of the
    subnets or in use behind an uplink, or that is beyond a quota. A client that got it would
    configure an address that the guard lets nobody use; so it goes on asking, and the reason is
    counted and told.

    Devices that the guard does not look into (``guard = "mac"``, trunks) and what is behind uplinks
    are left alone, in both directions.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable
from typing import Final, Protocol

from hypervisor.engine.drops import DHCP_BINDING
from hypervisor.errors import DeviceError
from hypervisor.guard import Discard, Verdict
from hypervisor.mach.claims import AddressTable
from hypervisor.mach.devices import Device
from hypervisor.mach.leases import Address
from hypervisor.mach.transactions import Asked, Transactions
from hypervisor.requests import EventKind
from hypervisor.wire import dhcp, dhcpv6, ipv4, ipv6, protocols, udp
from hypervisor.wire.errors import WireError, need

_IPV4: Final = b"\x08\x00"
_IPV6: Final = b"\x86\xdd"
_HEADER: Final = 14
_IPV4_BYTES: Final = 20
_MORE_FRAGMENTS: Final = 0x20
_IPV6_BYTES: Final = 40
_SERVER4, _CLIENT4, _SERVER6, _CLIENT6 = (
    port.to_bytes(2, "big")
    for port in (dhcp.SERVER_PORT, dhcp.CLIENT_PORT, dhcp.SERVER_PORT_V6, dhcp.CLIENT_PORT_V6)
)
#: Requests that an answer with an address may follow: DISCOVER and SOLICIT with rapid commit.
_ASK4: Final = frozenset((dhcp.DISCOVER, dhcp.REQUEST))
_ASK6: Final = frozenset((dhcpv6.SOLICIT, dhcpv6.REQUEST, dhcpv6.RENEW, dhcpv6.REBIND))
_GIVE_BACK6: Final = frozenset((dhcpv6.RELEASE, dhcpv6.DECLINE))


class House(Protocol):
    """What this must know of the network around it, and tell it."""

    def judged(self, mac: bytes) -> Device | None:
        """Return the device with that MAC if the guard looks into its frames."""
        ...

    def expire_leases(self, now: float) -> None:
        """End what is over."""
        ...

    def addresses_changed(self, device: Device, kind: str, detail: str) -> None:
        """A device got or lost an address: say so, and judge it anew at once."""
        ...


class Bindings:
    """Binds what the DHCP servers of one network answer to the devices that asked."""

    def __init__(self, addresses: AddressTable, house: House) -> None:
        self._addresses = addresses
        self._house = house
        self._transactions = Transactions()

    def forget(self, device: Device) -> None:
        """The device is gone."""
        self._transactions.forget(device)

    def asker(self, sender: Device, vlan: int, now: float) -> Callable[[bytes, int], Verdict]:
        """Return what to ask about each frame of ``sender``, in a VLAN, that the guard passed.

        The frame comes without its tag. In one VLAN nobody hears what is asked in another.
        """
        return lambda frame, offset: self._look(sender, frame, offset, vlan, now)

    def _look(self, sender: Device, frame: bytes, offset: int, vlan: int, now: float) -> Verdict:
        """Learn from the frame at ``offset`` if it is of DHCP; an answer may be discarded."""
        at = offset + _HEADER
        kind = frame[at - 2 : at]
        if kind == _IPV4:
            if len(frame) < at + _IPV4_BYTES or frame[at + 9] != protocols.UDP:
                return None
            if frame[at + 6] & 0x1F or frame[at + 7]:
                return None  # a later fragment has no ports
            to = at + (frame[at] & 15) * 4 + 2
            server, client = _SERVER4, _CLIENT4
            answer, request = self._answer4, self._request4
        elif kind == _IPV6:
            if len(frame) < at + _IPV6_BYTES or frame[at + 6] != protocols.UDP:
                return None
            to = at + _IPV6_BYTES + 2
            server, client = _SERVER6, _CLIENT6
            answer, request = self._answer6, self._request6
        else:
            return None
        port = frame[to : to + 2]
        try:
            if port == client and sender.policy.dhcp_server:
                return answer(frame, offset, vlan, now)
            if port == server:
                request(sender, frame, offset, vlan, now)
        except WireError as error:
            # A request that cannot be read asks for nothing.
            if port == client:
                return _refused(f"{error.layer} {error.field}", error.found, error.expected)
        return None

    # --- IPv4 ---------------------------------------------------------------------------------

    def _request4(self, device: Device, frame: bytes, offset: int, vlan: int, now: float) -> None:
        """Read what a client asks for. The guard has seen that it speaks for itself."""
        message = _message4(frame, offset, dhcp.BOOT_REQUEST)
        if message is None or self._house.judged(message.client_mac) is not device:
            return
        own = message.client_address if any(message.client_address) else message.requested_address
        if message.message in _ASK4:
            self._transactions.note(device, (vlan, message.transaction), Asked(now, address=own))
        elif message.message in (dhcp.RELEASE, dhcp.DECLINE) and own is not None:
            self._unbind(device, own, "given back", now)

    def _answer4(self, frame: bytes, offset: int, vlan: int, now: float) -> Verdict:
        if frame[offset + _HEADER + 6] & _MORE_FRAGMENTS:
            return _refused("dhcp answer", "in fragments", "in one packet")
        message = _message4(frame, offset, dhcp.BOOT_REPLY)
        if message is None or message.message not in (dhcp.ACK, dhcp.NAK):
            return None
        device = self._house.judged(message.client_mac)
        if device is None:
            return None
        to = frame[offset : offset + 6]
        if not to[0] & 1 and to != device.mac:
            return _refused("destination of a dhcp answer", to.hex(":"), device.mac.hex(":"))
        asked = self._transactions.find(device, (vlan, message.transaction), now)
        if message.message == dhcp.NAK:
            if asked is not None and asked.address is not None:
                self._unbind(device, asked.address, "refused by the server", now)
            return None
        if not any(message.your_address):
            return None  # the answer to DHCPINFORM gives no address
        if asked is None:
            return _refused("dhcp transaction", message.transaction.hex(), "one that was asked for")
        if not message.lease_s:
            return _refused("dhcp lease time", message.lease_s, "some seconds")
        forever = message.lease_s == dhcp.FOREVER_S
        term_s = math.inf if forever else float(message.lease_s)
        return self._bind(device, [(message.your_address, term_s)], now)

    # --- IPv6 ---------------------------------------------------------------------------------

    def _request6(self, device: Device, frame: bytes, offset: int, vlan: int, now: float) -> None:
        if self._house.judged(frame[offset + 6 : offset + 12]) is not device:
            return
        message = _message6(frame, offset)
        if message.message in _ASK6 and message.client_identifier is not None:
            asked = Asked(now, message.client_identifier)
            self._transactions.note(device, (vlan, message.transaction), asked)
        elif message.message in _GIVE_BACK6:
            for each in message.addresses:
                self._unbind(device, each.address, "given back", now)

    def _answer6(self, frame: bytes, offset: int, vlan: int, now: float) -> Verdict:
        device = self._house.judged(frame[offset : offset + 6])
        if device is None:
            return None
        message = _message6(frame, offset)
        if message.message != dhcpv6.REPLY or not message.addresses:
            return None
        asked = self._transactions.find(device, (vlan, message.transaction), now)
        if asked is None or asked.client != message.client_identifier:
            found = message.transaction.hex()
            return _refused("dhcpv6 transaction", found, "one that this client asked for")
        given = [
            (each.address, math.inf if each.valid_s == dhcpv6.FOREVER_S else float(each.valid_s))
            for each in message.addresses
        ]
        verdict = self._bind(device, [each for each in given if each[1]], now)
        if verdict is None:
            for address, valid_s in given:
                if not valid_s:
                    self._unbind(device, address, "taken back by the server", now)
        return verdict

    # ------------------------------------------------------------------------------------------

    def _bind(self, device: Device, given: list[tuple[bytes, float]], now: float) -> Verdict:
        """Bind all addresses of an answer to the device, or none that it did not have."""
        self._house.expire_leases(now)
        new: list[tuple[Address, float]] = []
        for packed, term_s in given:
            address = ipaddress.ip_address(packed)
            try:
                if self._addresses.bind(device, address, term_s, now):
                    new.append((address, term_s))
            except DeviceError as error:
                for bound, _ in new:
                    self._addresses.unbind(device, bound)
                return _refused("dhcp address", address, f"one it can have: {error.message}")
        for address, term_s in new:
            how_long = "forever" if term_s == math.inf else f"for {term_s:.0f} s"
            detail = f"{address} by DHCP, {how_long}"
            self._house.addresses_changed(device, EventKind.LEASED, detail)
        return None

    def _unbind(self, device: Device, packed: bytes, why: str, now: float) -> None:
        address = ipaddress.ip_address(packed)
        if self._addresses.unbind(device, address):
            self._house.addresses_changed(device, EventKind.LEASE_ENDED, f"{address}: {why}")


def _message4(frame: bytes, offset: int, operation: int) -> dhcp.Dhcp | None:
    """Return the message of a packet; None if it is of another operation."""
    packet = ipv4.parse(frame, offset + _HEADER, verify_checksum=False)
    datagram = udp.parse(frame, packet.payload_offset, packet.payload_end)
    need("dhcp", dhcp.FIXED_BYTES, datagram.payload_offset, datagram.payload_end)
    if frame[datagram.payload_offset] != operation:
        return None
    # A server may put more into the fields for names; nothing of what is read here may be there.
    return dhcp.parse(frame, datagram.payload_offset, datagram.payload_end, overloaded=True)


def _message6(frame: bytes, offset: int) -> dhcpv6.Dhcpv6:
    packet = ipv6.parse(frame, offset + _HEADER)
    datagram = udp.parse(frame, packet.upper.offset, packet.payload_end)
    return dhcpv6.parse(frame, datagram.payload_offset, datagram.payload_end)


def _refused(field: str, found: object, expected: object) -> Discard:
    return Discard(DHCP_BINDING, field, str(found), str(expected))
