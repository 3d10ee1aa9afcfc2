#!/bin/sh
# Two namespaces that others have made, here by unshare(1), get interfaces on a switch and ping.
# When this script ends, however it ends, the pipe "alive" hangs up and the interfaces go.
# Usage: attach.sh NODE
set -eu
export MACHDEV_DEVICE="$1"

folder=$(mktemp -d)
mkfifo "$folder/alive"
exec 5<>"$folder/alive"
started=
trap 'exec 5>&-; kill $started 2>/dev/null || :; wait; rm -rf "$folder"' EXIT

# container NAME ADDRESS: start one, plug it in, and return when its network works.
container() {
    mkfifo "$folder/$1.up" "$folder/$1.ready"
    unshare --map-root-user --net sh -c 'echo up; exec sleep 1000' >"$folder/$1.up" 5>&- &
    pid=$!
    started="$pid $started"
    read -r _ <"$folder/$1.up"
    pfinet-client attach --pid "$pid" --address "$2" --ready-fd 3 --exit-fd 4 \
        4<"$folder/alive" 3>"$folder/$1.ready" 5>&- &
    read -r said <"$folder/$1.ready"
    echo "$1 is $said"
}

container one 10.0.0.1/24
container two 10.0.0.2/24
nsenter --target "$pid" --user --net ping -c 2 -i 0.2 10.0.0.1
