#!/bin/sh
# build.sh PROTOS OUT: makes OUT/client, and OUT/arping of examples/, with Debian's g++ libgrpc++-dev
# pkg-config protobuf-compiler protobuf-compiler-grpc.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$1"
protoc -I. --cpp_out="$2" --grpc_out="$2" --plugin=protoc-gen-grpc="$(command -v grpc_cpp_plugin)" \
    machdev/v1/types.proto machdev/v1/device.proto machdev/v1/ports.proto machdev/v1/task.proto
cd "$2"
cp "$here/client.cc" "$here/../../../examples/cpp/arping.cc" .
flags="-std=c++17 -O0 -Wall -I. $(pkg-config --cflags grpc++ protobuf)"
# One source for all services: most of the time goes into gRPC's headers.
for generated in machdev/v1/*.grpc.pb.cc; do
    echo "#include \"$generated\""
done >services.cc
# shellcheck disable=SC2086
find . -name '*.cc' ! -name '*.grpc.pb.cc' | xargs -P 2 -I{} g++ $flags -c {} -o {}.o
libraries=$(pkg-config --libs grpc++ protobuf)
for program in client arping; do
    # shellcheck disable=SC2086
    g++ -o $program.made $program.cc.o services.cc.o machdev/v1/*.o $libraries
    mv $program.made $program
done
