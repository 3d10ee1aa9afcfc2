"""The manual page says what the program does: options, keys, and a file that really loads."""

from __future__ import annotations

import argparse
import re
import textwrap
from pathlib import Path

import pytest

from hypervisor import cli
from hypervisor.config import FlagValues, load_config, tables

MANUAL = Path(__file__).parents[2] / "docs" / "hypervisor.1.md"


@pytest.fixture(scope="module")
def manual() -> str:
    return MANUAL.read_text()


def section(manual: str, name: str) -> str:
    return manual.partition(f"## {name}\n")[2].partition("\n## ")[0]


def options() -> set[str]:
    """Return every long option of every command."""
    parser = cli.build_parser()
    (commands,) = (
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    )
    return {
        option
        for command in commands.choices.values()
        for action in command._actions
        for option in action.option_strings
        if option.startswith("--") and option != "--help"
    }


def test_every_option_is_explained_and_no_other(manual: str) -> None:
    explained = section(manual, "OPTIONS OF SERVE")
    explained += section(manual, "OPTIONS OF THE LOOKING COMMANDS")
    named = set(re.findall(r"\*\*(--[a-z-]+)\*\*", explained))
    assert named - {"--insecure-loopback"} == options() - {"--insecure-loopback"}
    assert "--insecure-loopback" in named


def test_the_files_example_loads_and_has_every_key(manual: str, tmp_path: Path) -> None:
    text = section(manual, "CONFIGURATION FILE")
    toml = "\n".join(
        textwrap.dedent(block) for block in re.findall(r"(?:^ {4}.*\n|^\n)+", text, re.MULTILINE)
    )
    # The example's people need not exist here.
    toml = toml.replace('"alice"', '"root"').replace('"net"', '"root"')
    toml = toml.replace('"alice/', '"root/')
    file = tmp_path / "server.toml"
    file.write_text(toml)
    config = load_config(file, FlagValues())
    assert config.networks[0].name == "lan"
    assert config.policies[0].owner == "uid:0"
    keys = {*tables.NETWORK_KEYS, *tables.TRANSLATOR_KEYS, *tables.DEVICE_KEYS}
    keys |= {*tables.POLICY_KEYS}
    keys |= {*tables.GUEST_KEYS, *tables.VDE_KEYS}
    keys |= {*tables.GATEWAY_KEYS, *tables.UPLINK_KEYS, *tables.ROUTE_KEYS}
    keys |= {*tables.SERVER_KEYS, "listen"} - {"ready_fd"}
    written = set(re.findall(r"^(\w+) =", toml, re.MULTILINE))
    assert written == keys


def test_defaults_in_the_example_are_the_defaults(manual: str, tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('[[network]]\nname = "lan"\n')
    default = load_config(file, FlagValues()).networks[0]
    text = section(manual, "CONFIGURATION FILE")
    for key in ("mtu", "pool_frames", "pool_bytes", "tx_slots", "rx_slots", "rx_bytes"):
        assert re.search(rf"^    {key} = {getattr(default, key)} ", text, re.MULTILINE) or (
            f"{key} = {getattr(default, key)}\n" in text
        )
    assert f"hold_timeout_s = {default.hold_timeout_s} " in text
