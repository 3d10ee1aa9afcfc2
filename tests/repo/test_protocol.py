"""The protocol's sources are clean, say what they are, and match the committed code."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from grpc_tools import protoc

from hypervisor.errors import all_errors

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"
SERVICE_FIELD, METHOD_FIELD = 6, 2  # of FileDescriptorProto and ServiceDescriptorProto

#: The routines of device.defs that the service mirrors, and their message ids.
ROUTINES = {
    "DeviceOpen": ("device_open", 2800),
    "DeviceClose": ("device_close", 2801),
    "DeviceWrite": ("device_write", 2802),
    "DeviceWriteInband": ("device_write_inband", 2803),
    "DeviceRead": ("device_read", 2804),
    "DeviceReadInband": ("device_read_inband", 2805),
    "DeviceOpenNew": ("device_open_new", 2806),
    "DeviceMap": ("device_map", 2809),
    "DeviceSetStatus": ("device_set_status", 2810),
    "DeviceGetStatus": ("device_get_status", 2811),
    "DeviceSetFilter": ("device_set_filter", 2812),
    "DeviceIntrRegister": ("device_intr_register", 2813),
    "DeviceIntrAck": ("device_intr_ack", 2814),
}


def buf(*arguments: str, cwd: Path = PROTOS) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "buf"
    return subprocess.run(
        [program, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[FileDescriptorProto]:
    """Return the descriptors of all .proto files, with comments, straight from the sources."""
    output = tmp_path_factory.mktemp("descriptors") / "all.binpb"
    well_known = resources.files("grpc_tools") / "_proto"
    sources = map(str, sorted(PROTOS.glob("machdev/**/*.proto")))
    arguments = [f"-I{PROTOS}", f"-I{well_known}", "--include_source_info"]
    assert protoc.main(["protoc", *arguments, f"--descriptor_set_out={output}", *sources]) == 0
    return list(FileDescriptorSet.FromString(output.read_bytes()).file)


def rpc_comments(files: list[FileDescriptorProto]) -> dict[str, dict[str, str]]:
    """Return the comment of each rpc, by service and by name."""
    found: dict[str, dict[str, str]] = {}
    for file in files:
        comments = {
            tuple(item.path): " ".join(item.leading_comments.split())
            for item in file.source_code_info.location
        }
        for i, service in enumerate(file.service):
            found[service.name] = {
                rpc.name: comments[SERVICE_FIELD, i, METHOD_FIELD, j]
                for j, rpc in enumerate(service.method)
            }
    return found


def all_messages(files: list[FileDescriptorProto]) -> Iterator[DescriptorProto]:
    queue = [message for file in files for message in file.message_type]
    while queue:
        message = queue.pop()
        queue.extend(message.nested_type)
        yield message


def all_enums(files: list[FileDescriptorProto]) -> Iterator[EnumDescriptorProto]:
    for file in files:
        yield from file.enum_type
    for message in all_messages(files):
        yield from message.enum_type


def test_the_committed_code_is_what_the_generator_writes(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, PROTOS / "regenerate.py", tmp_path],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    fresh = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*_pb2*")}
    committed = {path.relative_to(PROTOS): path.read_bytes() for path in PROTOS.rglob("*_pb2*.py*")}
    stale = sorted(
        str(path)
        for path in fresh.keys() | committed.keys()
        if "__pycache__" not in path.parts and fresh.get(path) != committed.get(path)
    )
    assert not stale, f"run python protos/regenerate.py and commit: {stale}"


def test_buf_finds_no_fault() -> None:
    run = buf("lint")
    assert run.returncode == 0, run.stdout + run.stderr


def test_buf_would_find_a_missing_comment(tmp_path: Path) -> None:
    package = tmp_path / "machdev" / "v1"
    package.mkdir(parents=True)
    (tmp_path / "buf.yaml").write_text((PROTOS / "buf.yaml").read_text())
    source = (PROTOS / "machdev/v1/task.proto").read_text()
    bare = re.sub(r"(?m)^ +// Is the secret.*\n", "", source)
    assert bare != source
    (package / "task.proto").write_text(bare)
    run = buf("lint", cwd=tmp_path)
    assert run.returncode != 0
    assert '"token"' in run.stdout


def test_the_sources_are_formatted() -> None:
    run = buf("format", "--diff", "--exit-code")
    assert run.returncode == 0, run.stdout + run.stderr


def test_an_rpc_that_mirrors_a_routine_names_it_and_its_number(
    files: list[FileDescriptorProto],
) -> None:
    comments = rpc_comments(files)["DeviceService"]
    for rpc, (routine, number) in ROUTINES.items():
        assert f"{routine}, routine {number}" in comments[rpc], rpc


def test_every_other_rpc_says_that_it_is_an_extension(files: list[FileDescriptorProto]) -> None:
    for service, comments in rpc_comments(files).items():
        for rpc, comment in comments.items():
            assert rpc in ROUTINES or "Extension" in comment, f"{service}.{rpc}"


def test_every_rpc_says_whether_it_is_idempotent_and_how_it_fails(
    files: list[FileDescriptorProto],
) -> None:
    for service, comments in rpc_comments(files).items():
        for rpc, comment in comments.items():
            where = f"{service}.{rpc}"
            assert re.search(r"\b[Ii]dempotent\b", comment), where
            assert "Errors: " in comment or where == "DeviceService.DeviceClose", where


def test_errors_named_in_comments_exist() -> None:
    known = {error.reason for error in all_errors()} | {"D_READ", "D_WRITE", "D_NODELAY"}
    known |= {"D_NOWAIT", "D_SUCCESS"}
    known |= {"MACH_RCV_MSG", "MACH_NOTIFY_DEAD_NAME", "MACH_NOTIFY_NO_SENDERS"}
    for path in PROTOS.glob("machdev/**/*.proto"):
        named = set(re.findall(r"\b(?:D|MIG|KERN|MACH)_[A-Z_]+\b", path.read_text()))
        assert named <= known, (path.name, named - known)


def test_the_table_of_errors_is_whole_and_has_the_right_numbers() -> None:
    source = (PROTOS / "machdev/v1/types.proto").read_text()
    listed = dict(re.findall(r"\b([A-Z_]+) \((-?\d+|0x[0-9a-f]+)\)", source))
    numbers = {reason: int(number, 0) for reason, number in listed.items()}
    assert numbers == {error.reason: error.code for error in all_errors()}


def test_no_field_is_proto3_optional(files: list[FileDescriptorProto]) -> None:
    optional = [
        f"{message.name}.{field.name}"
        for message in all_messages(files)
        for field in message.field
        if field.proto3_optional
    ]
    assert not optional, "old generators refuse proto3 optional; use a wrapper message"


def test_no_enum_carries_mach_return_codes(files: list[FileDescriptorProto]) -> None:
    codes = {error.code for error in all_errors()} - set(range(16))
    for enum in all_enums(files):
        assert not codes & {value.number for value in enum.value}, enum.name
        assert not any(re.search(r"_(D|MIG|KERN)_", value.name) for value in enum.value), enum.name


def test_the_floors_of_the_runtime_are_those_of_the_generator() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = " ".join(project["dependencies"])
    code = (PROTOS / "machdev/v1/device_pb2.py").read_text()
    stub = (PROTOS / "machdev/v1/device_pb2_grpc.py").read_text()
    protobuf = re.search(r"Protobuf Python Version: (\S+)", code)
    grpcio = re.search(r"GRPC_GENERATED_VERSION = '(\S+)'", stub)
    assert protobuf
    assert grpcio
    assert f"protobuf>={protobuf[1]}," in requirements
    assert f"grpcio>={grpcio[1]}" in requirements
    pinned = project["optional-dependencies"]["dev"]
    assert f"grpcio-tools=={grpcio[1]}" in pinned
