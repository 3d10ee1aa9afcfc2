"""Any text is a configuration or a ConfigError with places, never another exception."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hypervisor.config import ConfigError, FlagValues, Problem, ServerConfig, load_config
from hypervisor.config.tables import (
    DEVICE_KEYS,
    NETWORK_KEYS,
    SERVER_KEYS,
    TRANSLATOR_KEYS,
    UPLINK_KEYS,
)

_KEYS = [
    *NETWORK_KEYS,
    *TRANSLATOR_KEYS,
    *DEVICE_KEYS,
    *UPLINK_KEYS,
    *SERVER_KEYS,
    "listen",
    "x",
    '"a b"',
    '"a\\nb"',
]
_VALUES = [
    *("0", "1", "-1", "1500", "660", "9" * 40, "0x" + "f" * 5000, "1e400", "nan", "-inf", "true"),
    *('""', '"root"', '"²"', '"٣"', '"/"', '"/x"', '"//"', '"~"', '"lan"', '"0660"', '"\\u0000"'),
    *('"10.0.0.0/24"', '["10.0.0.0/24"]', '["10.0.0.1", "::1"]', '"52:54:00:00:00:01"', '"%s"'),
    *(
        "[]",
        "[[]]",
        "{}",
        "{a = 1}",
        "1979-05-27",
        "07:32:00",
        '"127.0.0.1:1,network=x"',
        "'''\n'''",
    ),
]
_LINES = st.one_of(
    st.sampled_from(
        ["[[network]]", "[[device]]", "[[uplink]]", "[[translator]]", "[network]", "[x.y]", "# c"]
    ),
    st.builds("{} = {}".format, st.sampled_from(_KEYS), st.sampled_from(_VALUES)),
)
_DOCUMENTS = st.lists(_LINES, max_size=10).map("\n".join) | st.text(max_size=40)
_WORDS = st.lists(
    st.sampled_from(
        ["lan", "/x", "/", "mtu=", "=", "mode=hub", "subnet=::/0", "owner=²", "\udcff", "\n"]
    )
    | st.text(max_size=6),
    max_size=4,
).map(",".join)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "server.toml"


def judge(path: Path | None, flags: FlagValues) -> None:
    config, problems = outcome(path, flags)
    if config is not None:
        hash(config)  # frozen to the last value
        return
    assert problems
    for problem in problems:
        assert problem.message
        assert problem.origin.source
        assert str(problem).isprintable()


def outcome(
    path: Path | None, flags: FlagValues
) -> tuple[ServerConfig | None, tuple[Problem, ...]]:
    try:
        return load_config(path, flags), ()
    except ConfigError as error:
        return None, error.problems


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@example(text="mtu = " + "9" * 5000)
@example(text='[[network]]\nname="lan"\nmtu = 0x' + "f" * 5000)
@example(text='[[translator]]\npath = "/"')
@given(text=_DOCUMENTS)
def test_any_file_is_a_configuration_or_a_list_of_mistakes(file: Path, text: str) -> None:
    file.write_text(text, errors="replace")
    judge(file, FlagValues())


@given(networks=st.lists(_WORDS, max_size=3), translators=st.lists(_WORDS, max_size=3), word=_WORDS)
def test_any_flags_are_a_configuration_or_a_list_of_mistakes(
    networks: list[str], translators: list[str], word: str
) -> None:
    judge(None, FlagValues(networks=networks, translators=translators))
    judge(None, FlagValues(listen=word, insecure_loopback=True, guard=word, state=word))
    judge(None, FlagValues(ready_fd=word, log_format=word, mac_scheme=word))
