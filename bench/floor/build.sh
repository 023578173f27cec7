#!/bin/bash
# The least that a build has to do: walk the layers above, pack the changed files, make them durable.
#   build.sh SHOWN CHANGED ARCHIVE LAYER…   SHOWN shows the target, CHANGED lists paths in it, each ended by a zero byte
set -e -o pipefail
shown=$1 changed=$2 archive=$3
shift 3
find "$@" >/dev/null
tar --create --null --no-recursion --xattrs --directory "$shown" --files-from "$changed" | zstd -3 -T0 -q -f -o "$archive"
sync "$archive"
