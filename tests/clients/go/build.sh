#!/bin/sh
# build.sh PROTOS OUT: makes OUT/client, and OUT/arping of examples/, with Debian's golang-go
# golang-google-grpc-dev protobuf-compiler protoc-gen-go-1-3 (the generator that goes with that gRPC).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$1"
files=$(echo machdev/v1/*.proto)
options=plugins=grpc
for file in $files; do # the files name no Go package: it is the user's choice
    options="$options,M$file=machdev/v1"
done
mkdir -p "$2/src"
# shellcheck disable=SC2086
protoc -I. --go_out="$options:$2/src" $files
export GO111MODULE=off GOPATH="$2:/usr/share/gocode" GOCACHE="$2/cache" GOFLAGS=
go build -o "$2/client" "$here/client.go"
go build -o "$2/arping" "$here/../../../examples/go/arping.go"
