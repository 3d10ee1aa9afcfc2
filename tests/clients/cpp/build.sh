#!/bin/sh
# build.sh PROTOS OUT: makes OUT/client, from this folder and Debian's g++ libgrpc++-dev
# protobuf-compiler protobuf-compiler-grpc pkg-config.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$1"
protoc -I. --cpp_out="$2" --grpc_out="$2" --plugin=protoc-gen-grpc="$(command -v grpc_cpp_plugin)" \
    machdev/v1/types.proto machdev/v1/device.proto machdev/v1/ports.proto machdev/v1/task.proto
cd "$2"
g++ -std=c++17 -O0 -Wall -I. -o client "$here/client.cc" machdev/v1/*.cc $(pkg-config --cflags --libs grpc++ protobuf)
