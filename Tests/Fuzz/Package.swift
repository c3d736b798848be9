// swift-tools-version: 6.1
// The fuzzer's executable: a package of its own, so that its flags stay out of the product. `make fuzz` builds it.

import PackageDescription

let package = Package(
    name: "lamina-fuzz",
    dependencies: [.package(name: "lamina", path: "../..")],
    targets: [
        .executableTarget(
            name: "lamina-fuzz", dependencies: [.product(name: "LaminaFuzzTargets", package: "lamina")],
            path: "Driver", swiftSettings: [.unsafeFlags(["-parse-as-library"])])
    ],
    swiftLanguageModes: [.v6]
)
