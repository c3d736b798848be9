#!/usr/bin/env bash
# Fuzzes each parser of bytes from outside with libFuzzer, which comes with Swift.
#
#   scripts/fuzz.sh [SECONDS] [TARGET...]      60 seconds for each of all targets, where nothing is said
#
# Starts from Tests/Fuzz/Corpus/TARGET and leaves what it finds in Tests/Fuzz/.build/corpus/TARGET; a crash is written to
# Tests/Fuzz/.build/crashes and ends the script.
set -euo pipefail
cd "$(dirname "$0")/../Tests/Fuzz"

seconds=${1:-60}
[ $# -gt 0 ] && shift
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(
    footer toc toc-member manifest tar gzip zstd tar-split tar-part ztoc span podman storage documents registries auth
)

build=(-c release -Xswiftc -sanitize=fuzzer -Xcc -fsanitize=fuzzer-no-link)
swift build "${build[@]}" --product lamina-fuzz
binary=$(swift build "${build[@]}" --show-bin-path)/lamina-fuzz

mkdir -p .build/crashes
for target in "${targets[@]}"; do
    mkdir -p ".build/corpus/$target" "Corpus/$target"
    echo "== $target, $seconds s"
    # No input takes more than half a gigabyte, nor ten seconds.
    LAMINA_FUZZ_TARGET=$target "$binary" -max_total_time="$seconds" -rss_limit_mb=1024 -malloc_limit_mb=512 -timeout=10 \
        -max_len=65536 -print_final_stats=1 -verbosity=0 -artifact_prefix=".build/crashes/$target-" \
        ".build/corpus/$target" "Corpus/$target"
done
