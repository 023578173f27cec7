#!/bin/bash
# The old procedure on the build machine, written again from its description, mistakes included.
#   build.sh SOURCE TARGET DIRECTORY   writes DIRECTORY/BASE-<tag>-diff.tar.gz
source=$1 target=$2 directory=$3
upper() { docker inspect --format '{{.GraphDriver.Data.UpperDir}}' "$1"; }
lower() { docker inspect --format '{{index .GraphDriver.Data "LowerDir"}}' "$1" | sed 's/<no value>//'; }

start=$(upper "$source")
layers="$(upper "$target"):$(lower "$target")"
case ":$layers:" in
    *":$start:"*) layers=${layers%%:"$start"*} ;;
esac
work=$directory/work
mkdir -p "$work"
IFS=:
for layer in $layers; do
    [ -z "$layer" ] || cp -af "$layer"/* "$work"
done
tar -czf "$directory/BASE-${target##*:}-diff.tar.gz" -C "$work" .
rm -rf "$work"
