"""libpcap's own verdict on a frame, by ctypes: what tcpdump would say."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from pfinet_client.expression import BpfProgram, Insn, load_libpcap


class _PacketHeader(ctypes.Structure):
    """struct pcap_pkthdr."""

    _fields_ = (
        ("seconds", ctypes.c_long),
        ("microseconds", ctypes.c_long),
        ("caplen", ctypes.c_uint32),
        ("len", ctypes.c_uint32),
    )


class Judge:
    """Runs classic BPF in libpcap."""

    def __init__(self) -> None:
        library = load_libpcap()
        self._offline: Any = library.pcap_offline_filter
        self._offline.restype = ctypes.c_uint
        self._offline.argtypes = (
            ctypes.POINTER(BpfProgram),
            ctypes.POINTER(_PacketHeader),
            ctypes.c_char_p,
        )

    def verdict(self, program: Sequence[Sequence[int]], frame: bytes) -> int:
        """Return how many bytes of ``frame`` the program takes, as an unsigned number."""
        instructions = (Insn * len(program))(*[Insn(*each) for each in program])
        whole = BpfProgram(len(program), instructions)
        header = _PacketHeader(0, 0, len(frame), len(frame))
        taken: int = self._offline(ctypes.byref(whole), ctypes.byref(header), frame)
        return taken
