// swift-tools-version: 6.1
// The benchmarks are a package of their own, so that nothing of them is in the product's graph. They measure the release
// binary from outside: no room of lamina is linked here.

import PackageDescription

let package = Package(
    name: "lamina-bench",
    products: [.executable(name: "lamina-bench", targets: ["lamina-bench"])],
    targets: [
        // System calls that Swift cannot make.
        .target(name: "CBench"),
        // From samples to a table: pure, and tested.
        .target(name: "BenchReport"),
        .executableTarget(name: "lamina-bench", dependencies: ["BenchReport", "CBench"]),
        .testTarget(name: "BenchReportTests", dependencies: ["BenchReport"]),
    ],
    swiftLanguageModes: [.v6]
)
