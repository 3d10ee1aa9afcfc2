#!/bin/sh
# Two switches become one Ethernet by a cable. Here both ends are on this machine; with
# "ssh host pfinet-client plug" in the place of the second, they are on two.
# Usage: cable.sh
set -eu

folder=$(mktemp -d)
started=
trap 'kill $started 2>/dev/null || :; wait; rm -rf "$folder"' EXIT

# What stands behind a cable has many addresses, so the operator must make its device a trunk.
cat >"$folder/policy.toml" <<POLICY
[[device]]
owner = "$(id -u)"
name = "plug"
trunk = true
POLICY

for name in left right; do
    mkfifo "$folder/$name.up"
    hypervisor serve --config "$folder/policy.toml" --translator "$folder/$name" \
        --state "$folder/$name.state" --ready-fd 3 3>"$folder/$name.up" 2>/dev/null &
    started="$! $started"
    read -r _ <"$folder/$name.up"
done

mkfifo "$folder/there" "$folder/back"
pfinet-client plug --device "$folder/left" <"$folder/back" >"$folder/there" 2>/dev/null &
started="$! $started"
pfinet-client plug --device "$folder/right" >"$folder/back" <"$folder/there" 2>/dev/null &
started="$! $started"

pfinet-client respond --device "$folder/left" --address 10.0.0.1/24 >/dev/null &
started="$! $started"

# The cable listens for a loop before it carries: until then nobody answers.
until pfinet-client arp --device "$folder/right" --address 10.0.0.2/24 10.0.0.1 >/dev/null; do :; done
pfinet-client ping -c 2 -i 0.2 --device "$folder/right" --address 10.0.0.2/24 10.0.0.1
