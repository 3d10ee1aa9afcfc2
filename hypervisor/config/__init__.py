"""Configuration: command-line flags and a TOML file become frozen values, or a list of mistakes.

Theory of operation. Both sources are read into *drafts*: tables of settings that each remember
where they were written (file and line, or flag). Drafts are laid over each other, flags on top,
then over the defaults; only the whole is judged, so a mistake that needs two settings to be seen
(an address outside the subnets of another table) is found wherever its halves come from. Nothing
stops at the first mistake: every problem found is in the :class:`ConfigError`, each with its
place, what is wrong, and what to write instead.

    text of the file --tomllib--> values --tables--> Draft \\
    text of the file --lines----> line of each key -/      +--build--> ServerConfig
    flags ------------------------tables-----------> Draft /

The modules, from below: ``problems`` (places and mistakes), ``model`` (the frozen result),
``kinds``, ``rates`` and ``people`` (what a value may be), ``tables`` (which keys a table has),
``lines`` (where a key is), ``flags`` and ``files`` (the two sources), ``guests`` (their sockets),
``listening`` (TCP), ``policies`` (rules for devices and owners), ``build`` (the whole).
"""

from __future__ import annotations

from hypervisor.config.build import build_config, load_config
from hypervisor.config.files import read_file
from hypervisor.config.flags import FlagValues, read_flags
from hypervisor.config.model import (
    GatewayConfig,
    GuestConfig,
    ListenConfig,
    NetworkConfig,
    PolicyConfig,
    ServerConfig,
    TlsConfig,
    TranslatorConfig,
    UplinkConfig,
)
from hypervisor.config.problems import ConfigError, Origin, Problem
from hypervisor.kernel.places import default_node, default_state

__all__ = [
    "ConfigError",
    "FlagValues",
    "GatewayConfig",
    "GuestConfig",
    "ListenConfig",
    "NetworkConfig",
    "Origin",
    "PolicyConfig",
    "Problem",
    "ServerConfig",
    "TlsConfig",
    "TranslatorConfig",
    "UplinkConfig",
    "build_config",
    "default_node",
    "default_state",
    "load_config",
    "read_file",
    "read_flags",
]
