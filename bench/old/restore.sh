#!/bin/bash
# The old procedure's way back, written again from its description, mistakes included.
#   restore.sh OVERLAY_DIRECTORY VERSION
overlay=$1 version=$2
properties=$overlay/tmp/baseimg.properties
directory=$(sed -n 's/^base\.dir=//p' "$properties")
begin=$(date +%s%N)
cp -af "$overlay/backup/$version"/* "$directory/"
end=$(date +%s%N)
sed -i "s/^base\.ver=.*/base.ver=$version/" "$properties"
echo "{\"exchange_seconds\": $(((end - begin) / 1000))e-6}"
