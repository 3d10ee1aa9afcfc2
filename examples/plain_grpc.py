"""The protocol itself, as any language speaks it: generated code and gRPC, nothing of this package.

What another language does: generate code from protos/machdev/v1/*.proto, connect to unix:NODE,
attach a task and keep that stream open, send its token with each call, and read the Mach return
code from the trailing metadata of a call that fails.

Usage: plain_grpc.py NODE
"""

from __future__ import annotations

import sys
from typing import Any

import grpc
from machdev.v1 import device_pb2, device_pb2_grpc, task_pb2, task_pb2_grpc

D_READ, D_WRITE, D_NOWAIT = 0x1, 0x2, 0x8


def main(node: str) -> None:
    with grpc.insecure_channel(f"unix:{node}") as channel:
        tasks: Any = task_pb2_grpc.TaskServiceStub(channel)  # type: ignore[no-untyped-call]
        devices: Any = device_pb2_grpc.DeviceServiceStub(channel)  # type: ignore[no-untyped-call]

        # The task lives as long as this stream; every port opened in it dies with it.
        stream = tasks.Attach(task_pb2.AttachRequest())
        task = next(stream)
        token = (("machdev-task", task.token),)
        print(f"I am {task.owner} on network {task.network}")

        opened = devices.DeviceOpen(
            device_pb2.DeviceOpenRequest(name="eth", mode=D_READ | D_WRITE), metadata=token
        )
        print(f"device {opened.name} is {opened.mac_address.hex(':')}")

        hello = b"\xff" * 6 + opened.mac_address + b"\x88\xb5" + b"hello, everybody"
        answer = devices.DeviceWrite(
            device_pb2.DeviceWriteRequest(port=opened.port, data=hello), metadata=token
        )
        print(f"{answer.bytes_written} bytes written")

        request = device_pb2.DeviceReadRequest(port=opened.port, mode=D_NOWAIT, bytes_wanted=1514)
        try:
            devices.DeviceRead(request, metadata=token)
        except grpc.RpcError as failure:
            error: Any = failure
            code = dict(error.trailing_metadata())["mach-return-code"]
            print(f"nothing to read: {error.code().name}, Mach return code {code}")
        stream.cancel()


if __name__ == "__main__":
    main(sys.argv[1])
