#!/usr/bin/env bash
# Makes a base image of Debian bookworm with Python 3.11 from Debian's archive, for builds that cannot pull one. Needs
# root, buildah and debootstrap.
# Usage: scripts/base_image.sh NAME
set -euo pipefail
name=$1

if buildah inspect --type image "$name" >/dev/null 2>&1; then
    exit 0
fi
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
echo "making the base image $name with debootstrap (about a minute)"
debootstrap --variant=minbase --include=ca-certificates,python3,python3-dev,python3-venv bookworm "$root" >"$root.log" 2>&1 || {
    tail -n 20 "$root.log" >&2
    exit 1
}
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root.log"
container=$(buildah from scratch)
buildah add --quiet "$container" "$root" / >/dev/null
buildah commit --quiet --rm "$container" "$name" >/dev/null
