#!/usr/bin/env bash
# Gets programs that read images, in the versions that Debian's suites have, into a directory of their own. Nothing is installed.
#
#   scripts/readers.sh DIRECTORY [SUITE…]     bookworm, trixie and sid without a suite
#
# Each suite comes to DIRECTORY/SUITE by an apt root of its own and dpkg -x, some 300 MB each. Its programs are in DIRECTORY/SUITE/bin: they are
# copies that find the suite's own C library, so that they run on whatever is here. What is there already is left as it is.
set -euo pipefail

directory=$(mkdir -p "${1:?which directory?}" && realpath "$1")
shift
suites=("$@")
[ ${#suites[@]} -gt 0 ] || suites=(bookworm trixie sid)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
if ! command -v apt-get >/dev/null || [ ! -e "$keyring" ]; then
    echo "readers: this takes apt-get and $keyring (debian-archive-keyring)" >&2
    exit 69
fi
# The mirror of this machine, where it has one.
mirror=$(grep -rhE '^(URIs:|deb )' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | grep -oE 'https?://[^ ]+/debian/?( |$)' | head -1 || true)
mirror=${mirror:-http://deb.debian.org/debian}
architecture=$(dpkg --print-architecture)

# apt with a root of its own: ROOT SUITE ARGUMENT…
private_apt() {
    local root=$1 suite=$2
    shift 2
    mkdir -p "$root"/etc/apt/{apt.conf.d,preferences.d,trusted.gpg.d} "$root"/var/lib/{dpkg,apt/lists/partial} \
        "$root"/var/cache/apt/archives/partial "$root"/var/log/apt
    : >"$root/var/lib/dpkg/status"
    echo "deb [signed-by=$keyring] $mirror $suite main" >"$root/etc/apt/sources.list"
    # A mirror that was frozen, or a clock that was set, is no reason not to test.
    cat >"$root/apt.conf" <<END
Dir "$root/";
Dir::State::status "$root/var/lib/dpkg/status";
Dir::Etc::sourcelist "$root/etc/apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::parts "/dev/null";
APT::Architecture "$architecture";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
Debug::NoLocking "true";
END
    APT_CONFIG="$root/apt.conf" apt-get -qq "$@" >/dev/null
}

# Unpacks packages of a suite and all that they need: SUITE TARGET PACKAGE…
unpack() {
    local suite=$1 target=$2
    shift 2
    local root="$target.apt"
    private_apt "$root" "$suite" update
    private_apt "$root" "$suite" --download-only -y install "$@"
    mkdir -p "$target"
    for package in "$root"/var/cache/apt/archives/*.deb; do dpkg -x "$package" "$target"; done
    rm -rf "$root"
}

# The loader's name and its libraries' place in a suite's root: old ones stand outside of /usr.
first() { for name in "$@"; do [ -e "$name" ] && echo "$name" && return; done; }

for suite in "${suites[@]}"; do
    home="$directory/$suite"
    [ ! -e "$home/complete" ] || continue
    rm -rf "$home" "$home".*
    packages=(podman buildah conmon crun runc netavark uidmap)
    # Those of bookworm are what the other tests run with.
    [ "$suite" = bookworm ] || packages+=(skopeo umoci containerd stargz-snapshotter)
    [ "$suite" != sid ] || packages+=(docker.io docker-cli)
    echo "readers: getting ${packages[*]} of $suite"
    unpack "$suite" "$home/root" "${packages[@]}"
    [ -x "$directory/patchelf/usr/bin/patchelf" ] || unpack bookworm "$directory/patchelf" patchelf
    root=$home/root
    libraries=$(cd "$root" && echo usr/lib/*-linux-gnu*)
    loader=$(first "$root/$libraries"/ld-linux* "$root"/lib/*-linux-gnu*/ld-linux* "$root"/lib64/ld-linux*)
    mkdir "$home/bin"
    for program in "$root"/usr/{bin,sbin,lib/podman}/*; do
        name=${program##*/}
        case "$name" in
        podman | buildah | conmon | crun | runc | netavark | skopeo | umoci | containerd | containerd-shim-runc-v2 | ctr | ctr-remote | \
            dockerd | docker | docker-init | docker-proxy) ;;
        *) continue ;;
        esac
        cp --dereference "$program" "$home/bin/$name"
        # One without a loader is linked statically.
        if "$directory/patchelf/usr/bin/patchelf" --print-interpreter "$home/bin/$name" >/dev/null 2>&1; then
            "$directory/patchelf/usr/bin/patchelf" --set-interpreter "$loader" --force-rpath \
                --set-rpath "$root/$libraries:$root/${libraries#usr/}" "$home/bin/$name"
        fi
    done
    "$home/bin/podman" --version
    touch "$home/complete"
done
