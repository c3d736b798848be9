import Glibc

/// lamina's own version.
public let laminaVersion = Engine.version

/// `lamina version`: what works here, as the loaded libraries report it.
public struct VersionCommand: Sendable {
    public struct Report: Sendable, Codable, Equatable {
        public var lamina: String
        public var swift: String
        public var libfuse: String
        public var sqlite: String
        public var kernel: String
    }

    public init() {}

    public func run(_ output: Output) throws {
        let report = Self.report
        try output.show(report) {
            TextTable(
                [],
                [
                    ["lamina", report.lamina], ["swift", report.swift], ["libfuse", report.libfuse],
                    ["sqlite", report.sqlite], ["kernel", report.kernel],
                ]
            ).text
        }
    }

    static var report: Report {
        Report(
            lamina: laminaVersion, swift: swiftVersion, libfuse: loadedVersion("fuse_pkgversion"),
            sqlite: loadedVersion("sqlite3_libversion"), kernel: KernelVersion.current?.description ?? "unknown")
    }

    /// The compiler's; the language has no other way to get it.
    private static var swiftVersion: String {
        #if compiler(>=6.5)
            "6.5 or newer"
        #elseif compiler(>=6.4)
            "6.4"
        #elseif compiler(>=6.3)
            "6.3"
        #else
            "6.2 or older"
        #endif
    }

    /// Calls a function without arguments that returns a constant string; both libraries have one for their version.
    static func loadedVersion(_ symbol: String) -> String {
        guard let address = dlsym(nil, symbol) else { return "unknown" }
        typealias Version = @convention(c) () -> UnsafePointer<CChar>?
        // Both are declared `const char *f(void)`: sqlite3.h, fuse_common.h.
        let function = unsafeBitCast(address, to: Version.self)
        return function().map { String(cString: $0) } ?? "unknown"
    }
}
