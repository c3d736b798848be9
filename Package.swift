// swift-tools-version: 6.1
// The map of lamina, in the order in which data flows: docs/ARCHITECTURE.md walks it.

import PackageDescription

let swift: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
]

/// Where gRPC brings Foundation along: its C module claims the members of Glibc's structures, so that the check of member
/// imports refuses `timespec` to whoever imports Glibc alone.
let besideFoundation: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
]

/// A room: one library target, the arrows to the rooms it may use, and its tests beside it.
func room(_ name: String, _ dependencies: [Target.Dependency], settings: [SwiftSetting] = swift) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: settings)
}

func tests(
    _ name: String, _ dependencies: [Target.Dependency], resources: [Resource] = [], settings: [SwiftSetting] = swift
) -> Target {
    .testTarget(
        name: name + "Tests", dependencies: dependencies, path: "Tests/" + name, resources: resources,
        swiftSettings: settings)
}

/// Of our C: a function that is made to write past its buffer ends the process (docs/security.md). glibc checks what it can of the
/// sizes of buffers where code is optimized, and warns where it is not.
let hardened: [CSetting] = [
    .unsafeFlags(["-fstack-protector-strong"]), .define("_FORTIFY_SOURCE", to: "2", .when(configuration: .release)),
]

/// Of the program: all that it takes from libraries is looked up at its start, and cannot be changed after (full RELRO).
let boundAtStart: [LinkerSetting] = [
    .unsafeFlags(["-Xlinker", "-z", "-Xlinker", "relro", "-Xlinker", "-z", "-Xlinker", "now"]),
    // Half of the size (docs/benchmarks.md): no symbol is there for others to find, so that what nothing calls is left out; functions that are
    // the same are there once; relocations take a bit each (glibc 2.36). lld is Swift's own, and takes a quarter of the time.
    .unsafeFlags(
        [
            "-use-ld=lld", "-Xlinker", "--no-export-dynamic", "-Xlinker", "--icf=safe", "-Xlinker", "-z", "-Xlinker",
            "pack-relative-relocs",
        ], .when(configuration: .release)),
]

let package = Package(
    name: "lamina",
    products: [
        .executable(name: "lamina", targets: ["lamina"]),
        // For the package in Tests/Fuzz.
        .library(name: "LaminaFuzzTargets", targets: ["LaminaFuzzTargets"]),
    ],
    traits: [
        // What speaks gRPC costs more than half of a clean build: `swift build --disable-default-traits` leaves it out.
        .trait(name: "Containerd", description: "The snapshotter for containerd: lamina serve --address."),
        // Twice as fast with gzip; where there is no ISA-L: `swift build --traits Containerd`.
        .trait(name: "ISAL", description: "Gzip streams by Intel's ISA-L instead of zlib."),
        .default(enabledTraits: ["Containerd", "ISAL"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.5.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.6.0"),
        .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.0", traits: []),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.6.0"),
        .package(url: "https://github.com/grpc/grpc-swift-2", from: "2.4.3"),
        .package(url: "https://github.com/grpc/grpc-swift-nio-transport", from: "2.9.2"),
        .package(url: "https://github.com/grpc/grpc-swift-protobuf", from: "2.4.1"),
        .package(url: "https://github.com/apple/swift-protobuf", from: "1.39.0"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
    ],
    targets: [
        // What Swift cannot say of the system's libraries; no policy.
        .target(name: "CCrypto", cSettings: hardened, linkerSettings: [.linkedLibrary("crypto")]),
        .target(name: "CCurl", cSettings: hardened, linkerSettings: [.linkedLibrary("curl")]),
        .target(name: "CFuse", cSettings: hardened, linkerSettings: [.linkedLibrary("fuse3")]),
        .target(name: "CLinux", cSettings: hardened),
        // No shim: it stands in for data that nothing reads.
        .target(name: "CNoICU"),
        .target(name: "CISAL", cSettings: hardened, linkerSettings: [.linkedLibrary("isal")]),
        .systemLibrary(name: "CSQLite", providers: [.apt(["libsqlite3-dev"])]),
        .systemLibrary(name: "CZlib", providers: [.apt(["zlib1g-dev"])]),
        .systemLibrary(name: "CDeflate", providers: [.apt(["libdeflate-dev"])]),
        .systemLibrary(name: "CZstd", providers: [.apt(["libzstd-dev"])]),

        // Ground: digests, the operating system, files that people write, the database.
        room("LaminaDigest", ["CCrypto"]),
        room("LaminaSystem", ["CLinux"]),
        room("LaminaTOML", []),
        room("LaminaSQLite", ["CSQLite"]),
        .target(
            name: "LaminaSchema", path: "schema", exclude: ["README.md"],
            resources: [
                .embedInCode("migrations/v001-index.sql"), .embedInCode("migrations/v002-session.sql"),
                .embedInCode("migrations/v003-space.sql"), .embedInCode("migrations/v004-check.sql"),
                .embedInCode("migrations/v005-snapshots.sql"), .embedInCode("migrations/v006-snapshot-image.sql"),
                .embedInCode("migrations/v007-durability.sql"),
                .embedInCode("migrations/v008-content-checks.sql"),
                .embedInCode("migrations/v009-stream-resume.sql"), .embedInCode("migrations/v010-platforms.sql"),
                .embedInCode("migrations/v011-totals.sql"), .embedInCode("migrations/v012-sealed.sql"),
                .embedInCode("migrations/v013-mount-rights.sql"),
                .embedInCode("migrations/v014-trust.sql"), .embedInCode("migrations/v015-podman.sql"),
                .embedInCode("migrations/v016-stream-origin.sql"),
                .embedInCode("views.sql"),
            ], swiftSettings: swift),

        // From a reference to bytes.
        room("LaminaOCI", ["LaminaDigest", "LaminaSystem", "LaminaTOML", "CCurl"]),
        room(
            "LaminaFormats",
            [
                "LaminaDigest", "LaminaSystem", "CZlib", "CDeflate", "CZstd",
                .target(name: "CISAL", condition: .when(traits: ["ISAL"])),
            ]),
        room("LaminaConvert", ["LaminaDigest", "LaminaSystem", "LaminaOCI", "LaminaFormats"]),

        // From bytes to the store, and from the store to the kernel.
        room("LaminaSeal", ["LaminaSystem"]),
        room("LaminaStore", ["LaminaDigest", "LaminaSystem", "LaminaSQLite", "LaminaSchema", "LaminaSeal"]),
        room("LaminaMerge", ["LaminaDigest", "LaminaSystem", "LaminaOCI", "LaminaFormats", "LaminaStore"]),
        room("LaminaFUSE", ["LaminaSystem", "CFuse"]),
        room("LaminaFilesystem", ["LaminaSystem", "LaminaSeal", "LaminaFUSE", "LaminaStore", "LaminaMerge"]),

        // What people and programs talk to.
        room(
            "LaminaSnapshotter",
            [
                "LaminaDigest", "LaminaSystem", "LaminaOCI", "LaminaStore", "LaminaMerge",
                .product(name: "Logging", package: "swift-log"),
            ]),
        room("LaminaPodman", ["LaminaDigest", "LaminaSystem", "LaminaTOML", "LaminaOCI", "LaminaStore"]),
        .target(
            name: "LaminaContainerd",
            dependencies: [
                "LaminaSystem", "LaminaOCI", "LaminaStore", "LaminaSnapshotter",
                .product(name: "GRPCCore", package: "grpc-swift-2", condition: .when(traits: ["Containerd"])),
                .product(
                    name: "GRPCNIOTransportHTTP2Posix", package: "grpc-swift-nio-transport",
                    condition: .when(traits: ["Containerd"])),
                .product(
                    name: "GRPCProtobuf", package: "grpc-swift-protobuf", condition: .when(traits: ["Containerd"])),
                .product(name: "SwiftProtobuf", package: "swift-protobuf", condition: .when(traits: ["Containerd"])),
                .product(name: "Yams", package: "Yams", condition: .when(traits: ["Containerd"])),
                .product(name: "Logging", package: "swift-log"),
            ], exclude: ["Protos"], swiftSettings: swift),
        room(
            "LaminaDaemon",
            [
                "LaminaDigest", "LaminaSystem", "LaminaTOML", "LaminaOCI", "LaminaFormats", "LaminaConvert",
                "LaminaSeal", "LaminaStore", "LaminaMerge", "LaminaFUSE", "LaminaFilesystem", "LaminaSnapshotter",
                "LaminaPodman",
                .target(name: "LaminaContainerd", condition: .when(traits: ["Containerd"])),
                .product(name: "Hummingbird", package: "hummingbird"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
                .product(name: "Logging", package: "swift-log"),
            ], settings: besideFoundation),
        .executableTarget(
            name: "lamina",
            dependencies: [
                "LaminaDaemon", "LaminaSystem", "CNoICU",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: swift, linkerSettings: boundAtStart),

        // Tests mirror the rooms; what needs mounts, registries and the executable is in Tests/Integration.
        .target(
            name: "LaminaTestSupport", dependencies: ["LaminaOCI", "LaminaDigest", "LaminaSystem", "CCurl"],
            path: "Tests/Support", swiftSettings: swift),
        .target(
            name: "LaminaFuzzTargets", dependencies: ["LaminaFormats", "LaminaOCI", "LaminaPodman", "LaminaDigest"],
            path: "Tests/Fuzz/Targets", swiftSettings: swift),
        tests("LaminaTOML", ["LaminaTOML"]),
        tests("LaminaSQLite", ["LaminaSQLite", "LaminaTestSupport"]),
        tests("LaminaSeal", ["LaminaSeal", "LaminaSystem", "CLinux"]),
        tests("LaminaOCI", ["LaminaOCI", "LaminaDigest", "LaminaSystem", "LaminaTestSupport"]),
        tests(
            "LaminaFormats",
            [
                "LaminaFormats", "LaminaDigest", "LaminaSystem", "LaminaTestSupport", "LaminaFuzzTargets", "CZlib",
                "CZstd",
            ]),
        tests(
            "LaminaConvert",
            ["LaminaConvert", "LaminaFormats", "LaminaOCI", "LaminaDigest", "LaminaSystem", "LaminaTestSupport"]),
        tests(
            "LaminaStore",
            ["LaminaStore", "LaminaSQLite", "LaminaSchema", "LaminaDigest", "LaminaSystem", "LaminaTestSupport"]),
        tests("LaminaFUSE", ["LaminaFUSE", "LaminaSystem"]),
        tests("LaminaContainerd", ["LaminaContainerd", "LaminaOCI", "LaminaSystem", "LaminaTestSupport"]),
        tests(
            "LaminaPodman",
            ["LaminaPodman", "LaminaOCI", "LaminaStore", "LaminaDigest", "LaminaSystem", "LaminaTestSupport"]),
        tests("LaminaSnapshotter", ["LaminaSnapshotter", "LaminaStore", "LaminaDigest"]),
        tests(
            "LaminaDaemon",
            [
                "LaminaDaemon", "lamina", "LaminaConvert", "LaminaStore", "LaminaMerge", "LaminaFUSE",
                "LaminaFilesystem", "LaminaFormats", "LaminaOCI", "LaminaSystem", "LaminaDigest", "LaminaTestSupport",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
            ], settings: besideFoundation),
        tests(
            "LaminaMerge",
            [
                "LaminaMerge", "LaminaStore", "LaminaSQLite", "LaminaFormats", "LaminaOCI", "LaminaSystem",
                "LaminaDigest", "LaminaTestSupport", "CZlib", "CZstd",
            ]),
        tests(
            "LaminaFilesystem",
            [
                "LaminaFilesystem", "LaminaFUSE", "LaminaMerge", "LaminaStore", "LaminaFormats", "LaminaOCI",
                "LaminaSystem", "LaminaDigest", "LaminaTestSupport", "CLinux",
            ]),
        tests("Architecture", []),
        tests("Integration", ["lamina", "LaminaOCI", "LaminaSystem", "LaminaDigest", "LaminaTestSupport"]),
    ],
    swiftLanguageModes: [.v6]
)

// `make sanitize` builds what its tests need alone: the rooms up to the file system, which have all of the C, and no package but this one.
// With what speaks to people and programs, a build under a sanitizer takes an hour.
if Context.environment["LAMINA_SANITIZE"] != nil {
    let above: Set = ["LaminaSnapshotter", "LaminaContainerd", "LaminaDaemon", "lamina"]
    let left = above.union(above.map { $0 + "Tests" }).union(["ArchitectureTests", "IntegrationTests"])
    package.targets.removeAll { left.contains($0.name) }
    package.products.removeAll { $0.name == "lamina" }
    package.dependencies = []
    // ISA-L reads bytes of images, by a shim of ours.
    package.traits = [.trait(name: "ISAL"), .default(enabledTraits: ["ISAL"])]
}
