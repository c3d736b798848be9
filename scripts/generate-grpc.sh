#!/usr/bin/env bash
# Makes Sources/LaminaContainerd/Generated of the .proto files beside it. Its result is committed: only who changes a .proto
# file needs this. Takes protoc (Debian: protobuf-compiler, libprotobuf-dev), and builds the two plugins once (2 minutes).
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v protoc >/dev/null; then
    echo 'generate-grpc: protoc is missing: apt-get install protobuf-compiler libprotobuf-dev' >&2
    exit 1
fi
# Where the plugins are, if they are built already; else they are built in a package of their own.
plugins=${LAMINA_PROTOC_PLUGINS:-}
if [ -z "$plugins" ]; then
    package=$PWD/.build/protoc-plugins
    mkdir -p "$package/Sources/none"
    echo 'print("")' >"$package/Sources/none/main.swift"
    cat >"$package/Package.swift" <<'SWIFT'
// swift-tools-version: 6.1
import PackageDescription

let package = Package(
    name: "protoc-plugins",
    dependencies: [
        .package(url: "https://github.com/apple/swift-protobuf", exact: "1.39.0"),
        .package(url: "https://github.com/grpc/grpc-swift-protobuf", exact: "2.4.1"),
    ],
    targets: [
        .executableTarget(name: "none", dependencies: [.product(name: "GRPCProtobuf", package: "grpc-swift-protobuf")])
    ])
SWIFT
    for product in protoc-gen-swift protoc-gen-grpc-swift-2; do
        swift build --package-path "$package" --disable-index-store --product "$product"
    done
    plugins=$package/.build/debug
fi

output=Sources/LaminaContainerd/Generated
mkdir -p "$output"
for proto in Sources/LaminaContainerd/Protos/*.proto; do
    plugin_options=(
        --plugin="protoc-gen-swift=$plugins/protoc-gen-swift" --swift_out="$output"
        --swift_opt=UseAccessLevelOnImports=true
    )
    # What lamina asks of others are messages only.
    if grep -q '^service ' "$proto"; then
        plugin_options+=(
            --plugin="protoc-gen-grpc-swift-2=$plugins/protoc-gen-grpc-swift-2" --grpc-swift-2_out="$output"
            --grpc-swift-2_opt=Client=false,UseAccessLevelOnImports=true
        )
    fi
    protoc -I Sources/LaminaContainerd/Protos "${plugin_options[@]}" "${proto##*/}"
done
