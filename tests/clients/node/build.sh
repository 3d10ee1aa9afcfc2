#!/bin/sh
# build.sh PROTOS OUT: makes OUT/client, from this folder and the npm registry.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cp "$here/package.json" "$here/package-lock.json" "$here/client.js" "$2"
cd "$2"
npm ci --no-audit --no-fund --silent
printf '#!/bin/sh\nPROTOS="%s" exec node "%s/client.js" "$@"\n' "$1" "$2" >client
chmod +x client
