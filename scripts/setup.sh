#!/usr/bin/env bash
# Installs the Debian packages that lamina takes, only those that are missing.
#
#   scripts/setup.sh build          what building takes
#   scripts/setup.sh build test     and what the tests take
#   scripts/setup.sh build bench    and what the benchmarks compare with
#
# Uses sudo where it is not run as root. Swift itself comes from https://www.swift.org/install/.
set -euo pipefail

packages=()
for part in "${@:-build}"; do
    case "$part" in
    build)
        packages+=(
            gcc g++ make git ca-certificates pkg-config
            libfuse3-dev libsqlite3-dev zlib1g-dev libdeflate-dev libisal-dev libzstd-dev libcurl4-openssl-dev libssl-dev
            fuse3 sqlite3
        )
        ;;
    # A registry and the tools that the tests compare with.
    test)
        packages+=(
            docker-registry skopeo umoci containerd stargz-snapshotter podman buildah conmon runc systemd openssl curl python3 attr tar gzip pigz
            tabix zstd erofs-utils e2fsprogs xfsprogs btrfs-progs mount util-linux python3-prometheus-client python3-yaml groff-base
            # What containerd's own tests are built with.
            golang-go golang-github-containerd-containerd-dev golang-google-grpc-dev
        )
        ;;
    bench) packages+=(docker-registry tar gzip pigz erofs-utils squashfs-tools mount util-linux) ;;
    *)
        echo "setup: '$part' is neither build, test nor bench" >&2
        exit 64
        ;;
    esac
done

if ! command -v swift >/dev/null; then
    echo 'setup: Swift 6.3 or newer is missing: see https://www.swift.org/install/linux/' >&2
    exit 1
fi

missing=()
for package in "${packages[@]}"; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "setup: this machine has no apt-get; install what corresponds to: ${missing[*]}" >&2
    exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "setup: packages are missing, and installing them takes root: ${missing[*]}" >&2
        exit 77
    fi
    as_root=(sudo)
fi

install_missing() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends -o Dpkg::Use-Pty=0 "${missing[@]}"
}
# The lists may be old or absent: they are fetched only when they do not do.
known=true
for package in "${missing[@]}"; do
    apt-cache show "$package" >/dev/null 2>&1 || known=false
done
echo "setup: installing ${missing[*]}"
if ! $known || ! install_missing; then
    "${as_root[@]}" apt-get update
    install_missing
fi
