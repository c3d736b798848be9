#!/usr/bin/env bash
# Shows what lamina does, on real files, in a directory of its own of which nothing stays.
#
#   scripts/demo.sh PATH-OF-LAMINA
set -euo pipefail

lamina=${1:?the path of lamina is missing}
if [ "$(id -u)" -ne 0 ]; then
    echo 'demo: mounting needs root, so the rest runs by sudo'
    exec sudo -- "$(readlink -f "$0")" "$(readlink -f "$lamina")"
fi

scratch=$(mktemp -d "${LAMINA_DEMO_DIR:-/var/tmp}/lamina-demo-XXXXXX")
export LAMINA_ROOT=$scratch/store
mounted=$scratch/mnt
images=$scratch/images
mkdir "$mounted"

cleanup() {
    status=$?
    trap - EXIT INT TERM
    if mountpoint -q "$mounted"; then "$lamina" umount "$mounted" >/dev/null 2>&1 || umount -l "$mounted" || true; fi
    # The server that `mount` left behind ends by itself after the last umount.
    for _ in $(seq 100); do
        mountpoint -q "$LAMINA_ROOT/fs" || break
        sleep 0.1
    done
    if mountpoint -q "$LAMINA_ROOT/fs"; then umount -l "$LAMINA_ROOT/fs" || true; fi
    rm -rf --one-file-system "$scratch"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

number=0
step() {
    number=$((number + 1))
    printf '\n%s\n' "[$number] $*"
}
# Shows a command as one would type it, and runs it.
run() {
    local shown=("$@")
    [ "${shown[0]}" = "$lamina" ] && shown[0]=lamina
    printf '    $ %s\n' "${shown[*]}"
    "$@" 2>&1 | sed 's/^/      /'
}
# Asks the index, as any program can.
query() {
    printf '    $ sqlite3 -readonly index.db "%s"\n' "$1"
    sqlite3 -readonly -header -column "$LAMINA_ROOT/index.db" "$1" | sed 's/^/      /'
}

# Something of 20 to 400 MiB that every machine has; LAMINA_DEMO_SOURCE names another directory.
source=${LAMINA_DEMO_SOURCE:-}
for candidate in /usr/share/doc /usr/share /usr/lib/python3 /usr/include /etc; do
    [ -z "$source" ] && [ -d "$candidate" ] || continue
    size=$(du -sxm "$candidate" 2>/dev/null | cut -f1)
    if [ "$size" -ge 20 ] && [ "$size" -le 400 ]; then
        source=$candidate
        break
    fi
done
if [ -z "$source" ]; then
    # On a machine as bare as a container image.
    source=/usr/bin
fi

# Of a copy of its own: the machine's may change meanwhile, when packages are installed. What vanishes while it is copied is not in it.
original=$source
source=$scratch/files
mkdir "$source"
cp -ax --reflink=auto "$original/." "$source" 2>/dev/null || true

echo "lamina, from files to a mount. Everything happens below $scratch and is removed at the end."

step 'What this machine can do:'
run "$lamina" doctor || true

step "Real files become an image: a copy of $original, $(du -sxm "$source" 2>/dev/null | cut -f1) MiB, as eStargz in an OCI layout."
run "$lamina" convert "dir:$source" "oci:$images:demo"

step 'Its index is pulled, and nothing else: a moment, whatever the size of the image.'
run "$lamina" pull --lazy "oci:$images:demo"
run "$lamina" ls

step 'The image is mounted before it is downloaded. A server is left behind, and ends after the last umount.'
run "$lamina" mount "oci:$images:demo" "$mounted"

# A part of the tree: the first directories with files, up to some hundred files.
part=
for directory in "$source"/*/; do
    count=$(find "$directory" -type f | head -n 200 | wc -l)
    if [ "$count" -ge 5 ] && [ "$count" -lt 200 ]; then
        part=$(basename "$directory")
        break
    fi
done
part=${part:-.}
step "A part of it is read and compared with the files it was made of: only what is opened is fetched."
run diff -r --no-dereference "$source/$part" "$mounted/$part"
echo "      no difference in $(find "$source/$part" -type f | wc -l) files of $original/$part"

step 'What the index says of that: a database that any program can read while lamina runs.'
# What landed is recorded in batches, at least every few seconds.
for _ in $(seq 50); do
    merged=$(sqlite3 -readonly "$LAMINA_ROOT/index.db" 'SELECT merged_contents FROM image_status')
    [ "$merged" -gt 0 ] && break
    sleep 0.2
done
query "SELECT reference, merged_contents, contents, landed_bytes, bytes, state FROM image_status"

step 'The rest is pulled. What is there already is not fetched again.'
run "$lamina" pull "oci:$images:demo"

step 'All files are compared. Now the kernel reads them itself: these opens are passthrough.'
run diff -r --no-dereference "$source" "$mounted"
echo "      no difference in $(find "$source" -xdev -type f | wc -l) files"
run "$lamina" status

step 'The index again: what the store takes on disk, and what files of the same content save.'
query "SELECT images, layers, contents, logical_bytes, allocated_bytes, shared_bytes FROM cache_usage"
query "SELECT substr(digest, 1, 19) AS content, bytes, files, saved_bytes FROM duplicate_content ORDER BY saved_bytes DESC LIMIT 3"
query "SELECT path, bytes, state FROM file WHERE type = 'file' ORDER BY bytes DESC LIMIT 3"

step 'The mount ends, and the server with it.'
run "$lamina" umount "$mounted"

printf '\n%s\n' 'That was all. lamina --help tells more.'
