"""Errors of the device interface: one class a code, each carrying its Mach number.

The tree (whose fault it is decides the branch)::

    DeviceError                     base: .code, .reason, .message
    ├── IOFailure                   D_IO_ERROR            2500
    ├── WouldBlock                  D_WOULD_BLOCK         2501
    ├── NoSuchDevice                D_NO_SUCH_DEVICE      2502
    ├── AlreadyOpen                 D_ALREADY_OPEN        2503
    ├── DeviceDown                  D_DEVICE_DOWN         2504
    ├── InvalidOperation            D_INVALID_OPERATION   2505
    ├── InvalidRecnum               D_INVALID_RECNUM      2506
    ├── InvalidSize                 D_INVALID_SIZE        2507
    ├── NoMemory                    D_NO_MEMORY           2508
    ├── ReadOnly                    D_READ_ONLY           2509
    ├── BadId                       MIG_BAD_ID            -303
    ├── BadArguments                MIG_BAD_ARGUMENTS     -304
    ├── ArrayTooLarge               MIG_ARRAY_TOO_LARGE   -307
    ├── ServerDied                  MIG_SERVER_DIED       -308   (shutdown)
    ├── InvalidArgument             KERN_INVALID_ARGUMENT    4
    ├── InvalidValue                KERN_INVALID_VALUE      18
    └── InvalidDest                 MACH_SEND_INVALID_DEST  0x10000003

The numbers are those of ``device/device_types.h``, ``mach/mig_errors.h``, ``mach/kern_return.h``
and ``mach/message.h`` of GNU Mach. This module imports nothing: every floor may raise from it.
"""

from __future__ import annotations

from typing import ClassVar

D_SUCCESS = 0

# Mode bits of device_open, device_read and device_write (device/device_types.h).
D_READ = 0x1
D_WRITE = 0x2
D_NODELAY = 0x4
D_NOWAIT = 0x8

#: Largest transfer of the inband routines, in bytes (IO_INBAND_MAX).
IO_INBAND_MAX = 128


class DeviceError(Exception):
    """A device.defs routine failed with a Mach return code.

    ``message`` says what was wrong, where, and what to do; it is safe to show to the caller.
    Never raised itself: only its subclasses are, one for each code.
    """

    code: ClassVar[int] = 0
    reason: ClassVar[str] = ""

    def __init__(self, message: str) -> None:
        if not self.reason:
            raise TypeError("DeviceError is abstract: raise the subclass of the code you mean")
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason} ({self.code}): {self.message}"


class IOFailure(DeviceError):
    """The server could not do what it should have done (D_IO_ERROR)."""

    code, reason = 2500, "D_IO_ERROR"


class WouldBlock(DeviceError):
    """D_NOWAIT was asked for and nothing is there (D_WOULD_BLOCK)."""

    code, reason = 2501, "D_WOULD_BLOCK"


class NoSuchDevice(DeviceError):
    """No device of that name can be opened here (D_NO_SUCH_DEVICE)."""

    code, reason = 2502, "D_NO_SUCH_DEVICE"


class AlreadyOpen(DeviceError):
    """The device is open exclusively, or has its stack already (D_ALREADY_OPEN)."""

    code, reason = 2503, "D_ALREADY_OPEN"


class DeviceDown(DeviceError):
    """The device's UP flag is clear (D_DEVICE_DOWN)."""

    code, reason = 2504, "D_DEVICE_DOWN"


class InvalidOperation(DeviceError):
    """The device does not do that, or not to this caller (D_INVALID_OPERATION)."""

    code, reason = 2505, "D_INVALID_OPERATION"


class InvalidRecnum(DeviceError):
    """A record number that the device has not (D_INVALID_RECNUM)."""

    code, reason = 2506, "D_INVALID_RECNUM"


class InvalidSize(DeviceError):
    """A frame, vector or status array of a size the device refuses (D_INVALID_SIZE)."""

    code, reason = 2507, "D_INVALID_SIZE"


class NoMemory(DeviceError):
    """A bound of the server or a quota of the caller is reached (D_NO_MEMORY)."""

    code, reason = 2508, "D_NO_MEMORY"


class ReadOnly(DeviceError):
    """Writing through a port opened without D_WRITE (D_READ_ONLY)."""

    code, reason = 2509, "D_READ_ONLY"


class BadId(DeviceError):
    """No routine has that number (MIG_BAD_ID)."""

    code, reason = -303, "MIG_BAD_ID"


class BadArguments(DeviceError):
    """The message is malformed (MIG_BAD_ARGUMENTS)."""

    code, reason = -304, "MIG_BAD_ARGUMENTS"


class ArrayTooLarge(DeviceError):
    """An inline array longer than the interface allows (MIG_ARRAY_TOO_LARGE)."""

    code, reason = -307, "MIG_ARRAY_TOO_LARGE"


class ServerDied(DeviceError):
    """The server is stopping; held requests end with this (MIG_SERVER_DIED)."""

    code, reason = -308, "MIG_SERVER_DIED"


class InvalidArgument(DeviceError):
    """An argument outside its range (KERN_INVALID_ARGUMENT)."""

    code, reason = 4, "KERN_INVALID_ARGUMENT"


class InvalidValue(DeviceError):
    """A limit that a receive port cannot have (KERN_INVALID_VALUE)."""

    code, reason = 18, "KERN_INVALID_VALUE"


class InvalidDest(DeviceError):
    """A port or task that is dead, unknown or another's (MACH_SEND_INVALID_DEST)."""

    code, reason = 0x10000003, "MACH_SEND_INVALID_DEST"


def all_errors() -> tuple[type[DeviceError], ...]:
    """Return every error class, one a code, in the order of the tree above."""
    return tuple(DeviceError.__subclasses__())
