#!/bin/sh
# A switch of your own, and two commands with network stacks of their own on it: no root anywhere.
# Usage: two_stacks.sh
set -eu

folder=$(mktemp -d)
trap 'kill $started 2>/dev/null || :; wait; rm -rf "$folder"' EXIT
started=
export MACHDEV_DEVICE="$folder/veth0"

# The server says on a descriptor when clients can connect.
mkfifo "$folder/up"
hypervisor serve --translator "$MACHDEV_DEVICE" --state "$folder/state" \
    --ready-fd 3 3>"$folder/up" &
started=$!
read -r _ <"$folder/up"

# One stack serves a page ...
echo "hello from the other stack" >"$folder/index.html"
pfinet-client run --address 10.0.0.1/24 -- \
    python3 -m http.server --directory "$folder" --bind 10.0.0.1 80 2>/dev/null &
started="$! $started"

# ... which the other fetches, as soon as somebody is there to answer.
until pfinet-client ping -c 1 --address 10.0.0.9/24 10.0.0.1 >/dev/null; do :; done
pfinet-client run --address 10.0.0.2/24 -- \
    curl --silent --retry 10 --retry-connrefused --retry-delay 1 http://10.0.0.1/
