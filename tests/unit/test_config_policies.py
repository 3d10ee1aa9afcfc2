"""[[policy]] tables: what they give, every mistake in them, and `hypervisor policy check`."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

import pytest

from hypervisor import cli
from hypervisor.config import ConfigError, FlagValues, PolicyConfig, ServerConfig, load_config
from hypervisor.mach.policy import Identity, PolicyBook
from hypervisor.serve.compose import rules

HEAD = """\
[[network]]
name = "lan"
[[network]]
name = "dmz"
[[translator]]
path = "/run/lan"
network = "lan"
[[translator]]
path = "/run/dmz"
network = "dmz"
"""
#: The line on which what comes after HEAD begins.
FIRST = HEAD.count("\n") + 1


def load(folder: Path, text: str) -> ServerConfig:
    file = folder / "policy.toml"
    file.write_text(HEAD + text)
    return load_config(file, FlagValues())


def mistakes(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    return [str(problem).removeprefix(f"{folder}/") for problem in caught.value.problems]


def test_selectors_and_settings_are_read(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        '[[policy]]\nnetwork = "lan"\nnode = "/run/lan"\nowner = 1000\ndevice = "eth*"\n'
        'guard = "mac"\nethertypes = ["0x88b5"]\n[[policy]]\ndevices = 4\n',
    )
    assert config.policies == (
        PolicyConfig(
            where=f"{tmp_path}/policy.toml:{FIRST}",
            owner="uid:1000",
            device="eth*",
            node="/run/lan",
            network="lan",
            settings={"guard": "mac", "ethertypes": (0x88B5,)},
        ),
        PolicyConfig(where=f"{tmp_path}/policy.toml:{FIRST + 7}", settings={"devices": 4}),
    )


def test_owners_are_users_groups_and_certificates(tmp_path: Path) -> None:
    user, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
    written = ["7", '"uid:8"', f'"{user}"', '"gid:9"', f'"gid:{group}"', '"cert:CN=a,O=b"']
    written.append('"tcp:loopback"')
    config = load(tmp_path, "".join(f"[[policy]]\nowner = {one}\nopens = 1\n" for one in written))
    assert [one.owner for one in config.policies] == [
        "uid:7",
        "uid:8",
        f"uid:{os.geteuid()}",
        "gid:9",
        f"gid:{os.getegid()}",
        "cert:CN=a,O=b",
        "tcp:loopback",
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('network = "lam"', 'there is no network "lam"; did you mean "lan"?'),
        ('node = "/run/lam"', 'there is no node "/run/lam"; did you mean "/run/lan"?'),
        ('node = "run/lan"', 'node: "run/lan" is not an absolute path'),
        ('owner = "nobody-here"', 'owner: there is no user "nobody-here" on this machine'),
        ('owner = "gid:no-such"', 'owner: there is no group "no-such" on this machine'),
        ('owner = "gid:65534"', "stands for all groups that the server cannot tell apart"),
        ("owner = 65534", "stands for strangers and owns nothing"),
        ('owner = "cert:"', 'names no certificate\'s subject; write for example "cert:CN=alice"'),
        ('owner = "cert: CN=a"', "names no certificate's subject"),
        ('owner = ["alice"]', "owner: an array is not a user's name or number"),
        ('device = "eth?"', 'device: "eth?" is not a device\'s name or pattern; use 1 to 127'),
        ("device = 7", "device: 7 is not a device's name or pattern"),
        ('mac = "52:54:00:00:00:01"', 'unknown key "mac"'),
        ('addresses = ["10.0.0.5"]', 'unknown key "addresses"'),
        ('name = "eth0"', 'unknown key "name"'),
        ("devices = -1", "devices: -1 is not between 0 and 4096"),
        ("opens = 8193", "opens: 8193 is not between 0 and 8192"),
        ('devices = "4"', 'devices: "4" is not a whole number from 0 to 4096; leave out'),
        ('guard = "half"', 'guard: "half" is not one of full, mac, off'),
        ('trunk = "yes"', 'trunk: "yes" is not true or false'),
        ("rooter = true", 'unknown key "rooter"; did you mean "router"?'),
    ],
)
def test_a_wrong_line_is_explained_where_it_is(tmp_path: Path, line: str, words: str) -> None:
    (found,) = mistakes(tmp_path, f"[[policy]]\n{line}\npromisc = true\n")
    assert found.startswith(f"policy.toml:{FIRST + 1}: ")
    assert words in found


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[[policy]]\n", 0, "this policy sets nothing; settings are"),
        ('[[policy]]\nowner = 7\ndevice = "e*"\n', 0, "this policy sets nothing"),
        (
            '[[policy]]\nowner = 7\nrouter = true\n[[policy]]\nowner = "uid:7"\ntrunk = true\n',
            3,
            f"selects the same as the one at DIR/policy.toml:{FIRST}; write its settings there",
        ),
        (
            '[[policy]]\nnode = "/run/dmz"\nnetwork = "lan"\ntrunk = true\n',
            1,
            'node "/run/dmz" leads to network "dmz": this policy is for nobody; leave one',
        ),
        (
            '[[policy]]\ndevice = "eth0"\nopens = 3\n',
            2,
            "opens is of an owner and all his devices, and this policy is for some of them",
        ),
        ("[policy]\ntrunk = true\n", 0, "[policy] is one table, not a list; write [[policy]]"),
        (
            '[[device]]\nowner = "gid:7"\nname = "eth0"\nnetwork = "lan"\n',
            1,
            "is a group, and a device has one owner; write a [[policy]]",
        ),
        (
            '[[device]]\nowner = 7\nname = "eth0"\nnetwork = "lan"\nopens = 4\n',
            4,
            'unknown key "opens"',
        ),
        (
            "".join(f"[[policy]]\nowner = {uid}\ntrunk = true\n" for uid in range(1_025)),
            3_072,
            "there are more than 1024 policies",
        ),
    ],
)
def test_a_policy_that_cannot_be_meant_is_explained(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    (found,) = mistakes(tmp_path, text)
    assert found.startswith(f"policy.toml:{FIRST + line}: ")
    assert words.replace("DIR", str(tmp_path)) in found


def test_policies_are_for_networks_nodes_guests_and_vde_folders(tmp_path: Path) -> None:
    text = (
        '[[stream]]\npath = "/run/vm.sock"\nnetwork = "lan"\n[[vde]]\npath = "/run/sw"\n'
        'network = "dmz"\nports = 1\n'
    )
    text += "".join(
        f'[[policy]]\nnode = "{node}"\ntrusted = true\n' for node in ("/run/vm.sock", "/run/sw")
    )
    assert [one.node for one in load(tmp_path, text).policies[1:]] == ["/run/vm.sock", "/run/sw"]


def test_policy_check_shows_tables_in_the_order_they_decide(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(
        tmp_path,
        '[[policy]]\nguard = "mac"\n[[policy]]\nowner = "gid:7"\nnetwork = "lan"\ndevices = 2\n'
        '[[device]]\nowner = 7\nname = "eth0"\nnetwork = "lan"\naddresses = ["10.0.0.5"]\n',
    )
    file = tmp_path / "policy.toml"
    assert cli.main(["policy", "check", str(file)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "lan:",
        f"   owner uid:7, device eth0: addresses = 10.0.0.5   {file}:{FIRST + 6}",
        f"   owner gid:7: devices = 2   {file}:{FIRST + 2}",
        f"   all: guard = mac   {file}:{FIRST}",
        "   all else: guard = full",
        "dmz:",
        f"   all: guard = mac   {file}:{FIRST}",
        "   all else: guard = full",
    ]


def test_policy_check_of_a_bad_file_is_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.toml"
    file.write_text("[[policy]]\ntrunk = 1\n")
    assert cli.main(["policy", "check", str(file)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        f"{file}:2: trunk: 1 is not true or false; write true or false, no quotes\n"
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("frames_per_s = 0", 'is not between 1 and 1000000000000; write "unlimited" for no limit'),
        ("bytes_per_s = -5", "bytes_per_s: -5 is not between 1 and"),
        ('broadcasts_per_s = "many"', 'broadcasts_per_s: "many" is not a number a second'),
        ('frames_per_s = "100"', 'leave out the quotes, or write "unlimited"'),
        ("owner_bytes_per_s = 1.5", "owner_bytes_per_s: 1.5 is not a number a second"),
        ("owner_frames_per_s = true", "owner_frames_per_s: true is not a number a second"),
        ("pool_percent = 0", "pool_percent: 0 is not between 1 and 100"),
        ("pool_percent = 101", "pool_percent: 101 is not between 1 and 100"),
    ],
)
def test_a_wrong_quota_is_explained(tmp_path: Path, line: str, words: str) -> None:
    (found,) = mistakes(tmp_path, f"[[policy]]\n{line}\n")
    assert found.startswith(f"policy.toml:{FIRST + 1}: ")
    assert words in found


@pytest.mark.parametrize(
    "key", ["devices", "opens", "pool_percent", "owner_frames_per_s", "owner_bytes_per_s"]
)
def test_an_owners_quota_cannot_depend_on_a_device(tmp_path: Path, key: str) -> None:
    (found,) = mistakes(tmp_path, f'[[policy]]\ndevice = "e*"\n{key} = 7\n')
    assert f"{key} is of an owner and all his devices" in found


def test_unlimited_is_a_rate_that_lifts_another(tmp_path: Path) -> None:
    config = load(tmp_path, '[[policy]]\nframes_per_s = "unlimited"\nbytes_per_s = 7\n')
    assert config.policies[0].settings == {"frames_per_s": 0, "bytes_per_s": 7}


EXAMPLE = Path(__file__).parents[2] / "examples" / "policy.toml"


@pytest.mark.parametrize(
    ("who", "device", "isolated", "devices"),
    [
        (Identity("uid:7"), "eth0", True, 4),
        (Identity("uid:7", frozenset({100})), "eth0", False, 16),
        (Identity("uid:7"), "vm-1", True, 4),
        (Identity("cert:CN=build.example.org,O=Lab"), "eth0", True, 4),
        (Identity("uid:0"), "router", True, 4),
    ],
)
def test_the_example_says_what_its_comments_say(
    who: Identity, device: str, isolated: bool, devices: int
) -> None:
    config = load_config(EXAMPLE, FlagValues())
    book = PolicyBook(rules=rules("lab", config.policies))
    policy = book.device(who, device)
    assert (policy.isolated, book.owner(who).devices) == (isolated, devices)
    assert policy.ethertypes == ((0x88B5,) if device == "vm-1" else ())
    assert policy.frames_per_s == (0 if who.owner.startswith("cert:") else 200_000)
    assert policy.router is (device == "router")
    assert (book.owner(who).pool_percent, policy.broadcasts_per_s) == (20, 100)
