"""hypervisor: a rootless Ethernet switch with a guard, speaking the Hurd's device interface."""

__version__ = "0.1.0"
