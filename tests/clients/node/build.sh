#!/bin/sh
# build.sh PROTOS OUT: makes OUT/client, and OUT/arping of examples/, with what the npm registry has.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cp "$here/package.json" "$here/package-lock.json" "$here/client.js" "$2"
cp "$here/../../../examples/node/arping.js" "$2"
cd "$2"
npm ci --no-audit --no-fund --silent
printf '#!/bin/sh\nPROTOS="%s" exec node "%s/client.js" "$@"\n' "$1" "$2" >client
printf '#!/bin/sh\nexec node "%s/arping.js" "%s" "$@"\n' "$2" "$1" >arping
chmod +x client arping
