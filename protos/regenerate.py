"""Regenerate the Python code of the protocol: ``python protos/regenerate.py [DIRECTORY]``.

Writes ``*_pb2.py``, ``*_pb2.pyi`` and ``*_pb2_grpc.py`` beside the .proto files (or below
DIRECTORY, which the drift test uses) with the grpcio-tools pinned in pyproject.toml.
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent


def regenerate(target: Path) -> None:
    """Generate the code of every .proto below this folder into ``target``.

    Raises ``SystemExit`` with protoc's status if it refuses a file.
    """
    well_known = resources.files("grpc_tools") / "_proto"
    protos = sorted(ROOT.glob("machdev/**/*.proto"))
    services = [path for path in protos if "\nservice " in path.read_text()]
    common = ["protoc", f"-I{ROOT}", f"-I{well_known}"]
    runs = (
        [f"--python_out={target}", f"--pyi_out={target}", *map(str, protos)],
        [f"--grpc_python_out={target}", *map(str, services)],
    )
    for arguments in runs:
        status = protoc.main([*common, *arguments])
        if status:
            raise SystemExit(status)


if __name__ == "__main__":
    regenerate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
