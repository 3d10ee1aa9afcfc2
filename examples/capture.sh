#!/bin/sh
# Look at somebody's packets with tshark while they travel: nobody here needs a namespace or root.
# Usage: capture.sh NODE
set -eu
export MACHDEV_DEVICE="$1"

folder=$(mktemp -d)
responder=
trap 'kill $responder 2>/dev/null || :; wait; rm -rf "$folder"' EXIT

# A stack of a hundred lines answers for 10.0.0.9; it says so when it is there.
mkfifo "$folder/responder"
pfinet-client respond --address 10.0.0.9/24 >"$folder/responder" &
responder=$!
exec 3<"$folder/responder"
read -r _ <&3

# Whoever listens at the responder's device sees what arrives there: here, a question and two echoes.
pfinet-client listen --device-name respond -c 3 -w "$folder/capture.pcapng" &
listener=$!
until pfinet-client status --json | grep -q '"opens": 2'; do :; done

pfinet-client ping -c 2 -i 0.2 --address 10.0.0.8/24 10.0.0.9 >/dev/null
wait "$listener"
tshark -r "$folder/capture.pcapng" 2>/dev/null
