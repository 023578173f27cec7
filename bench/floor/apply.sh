#!/bin/bash
# The least that an apply has to do: clone (or copy) what stays, decode and write what changed, sync once.
#   apply.sh LAYER REST ARCHIVE NEW   REST lists the files of LAYER that stay, each ended by a zero byte
set -e -o pipefail
layer=$1 rest=$2 archive=$3 new=$4
mkdir "$new"
cd "$layer"
xargs --null --no-run-if-empty --arg-file "$rest" cp --archive --parents --target-directory "$new"
zstd -d -q -c "$archive" | tar --extract --xattrs --directory "$new"
sync --file-system "$new"
