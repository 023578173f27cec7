#!/bin/bash
# The old procedure on a node, written again from its description, mistakes included.
#   apply.sh OVERLAY_DIRECTORY BASE ARCHIVE
# Prints the seconds in which the base was half the old and half the new one.
overlay=$1 base=$2 archive=$3
properties=$overlay/tmp/baseimg.properties
if [ ! -f "$properties" ]; then
    mkdir -p "$overlay/tmp"
    {
        echo "base.dir=$(docker inspect --format '{{.GraphDriver.Data.UpperDir}}' "$base")"
        echo "base.ver=${base##*:}"
    } >"$properties"
fi
directory=$(sed -n 's/^base\.dir=//p' "$properties")
version=$(sed -n 's/^base\.ver=//p' "$properties")
mkdir -p "$overlay/backup/$version" "$overlay/tmp/new"
cp -af "$directory"/* "$overlay/backup/$version/"
tar -xzf "$archive" -C "$overlay/tmp/new"
begin=$(date +%s%N)
cp -af "$overlay/tmp/new"/* "$directory/"
end=$(date +%s%N)
rm -rf "$overlay/tmp/new"
new=$(basename "$archive" -diff.tar.gz)
sed -i "s/^base\.ver=.*/base.ver=${new#BASE-}/" "$properties"
echo "{\"exchange_seconds\": $(((end - begin) / 1000))e-6}"
