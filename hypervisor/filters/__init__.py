"""Packet filters of Mach: which frames of a device go to which receive port, and how much of each.

Theory of operation
    ``device_set_filter`` brings a program of 16-bit words. Word 0 says the language (0 is NETF,
    the CMU/Stanford packet filter; 1 is BPF) and the directions (NETF_IN, NETF_OUT).
    :func:`compile_filter` refuses what is not safe, once, and turns the rest into one Python
    function of a frame: there are only forward jumps and a known stack, so a program becomes
    straight code with ifs, and ends after at most as many steps as it has instructions. The words
    are never looked at again.

    A :class:`FilterTable` belongs to a device and keeps its filters by receive port. Per frame it
    runs the functions of one direction in order of priority; those that share a program share
    its run, and filters that differ only in keys (RET_MATCH_IMM) are one run and one look-up.

The interface
    ``table.install(port, priority, compile_filter(words))`` installs or replaces;
    ``table.remove(port)`` takes a dead port's filters out.
    ``table.incoming`` and ``table.outgoing`` are functions of a run of frames that return a list
    of ``(place in the run, port, payload_bytes)``, in the order of the run, or None where no filter
    looks that way: test for None, pay nothing. Frames are whole and plain, an Ethernet header
    first, without offload header. The port gets a net_rcv_msg (:mod:`hypervisor.mach.net_rcv_msg`)
    with so many bytes of payload. It is whatever the caller says: here it is only told from others.

Where GNU Mach's own answer is an accident of memory (stale bytes beyond the frame, cells never
written, shifts of 32 and more, signed byte loads), the answer here is that of every other BPF.
"""

from __future__ import annotations

from hypervisor.filters.program import Program, compile_filter
from hypervisor.filters.table import FilterTable

__all__ = ["FilterTable", "Program", "compile_filter"]
