import Foundation
import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

/// What the program and its unit are made like. Nothing here needs a mount.
@Suite("the hardening of what is installed", .serialized)
struct Hardening {
    private static let package: String = {
        // …/Tests/Integration/HardeningTests.swift
        let parts = #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3)
        return parts.joined(separator: "/")
    }()

    private static func isThere(_ program: String) -> Bool {
        ["/usr/bin", "/bin", "/usr/sbin"].contains { access("\($0)/\(program)", X_OK) == 0 }
    }

    /// The release binary that LAMINA_BINARY names, else what was built beside the tests.
    private static let binary: (path: String, isRelease: Bool) = {
        if let path = getenv("LAMINA_BINARY") { return (String(cString: path), true) }
        return (Requirements.lamina, false)
    }()

    @Test(
        "the binary has full RELRO, binds at its start, has no executable stack, checks its stack, and is at no fixed address",
        .enabled(if: isThere("readelf"), "readelf is missing (apt install binutils)"))
    func binary() throws {
        let headers = try run(["readelf", "--wide", "--program-headers", "--dynamic", Self.binary.path]).orThrow()
            .output
        let lines = headers.split(separator: "\n")
        #expect(lines.contains { $0.contains("GNU_RELRO") })
        #expect(
            lines.contains { $0.contains("BIND_NOW") || $0.contains("(FLAGS_1)") && $0.contains("NOW") }, "\(headers)")
        #expect(lines.contains { $0.contains("(FLAGS_1)") && $0.contains("PIE") })
        let stack = try #require(lines.first { $0.contains("GNU_STACK") })
        #expect(stack.contains(" RW ") && !stack.contains("RWE"), "\(stack)")
        let writable = lines.filter { $0.contains("LOAD") && $0.contains("RWE") }
        #expect(writable.isEmpty, "\(writable)")
        let symbols = try run(["readelf", "--wide", "--dyn-syms", Self.binary.path]).orThrow().output
        #expect(symbols.contains("__stack_chk_fail"))
        if Self.binary.isRelease {
            // Of glibc's checked variants those that our C uses.
            #expect(
                symbols.matches(of: #/__(?:snprintf|memcpy|memmove|memset|read|strcpy|strncpy|vsnprintf)_chk/#).count
                    > 0)
            #expect(!headers.contains("(RUNPATH)") && !headers.contains("(RPATH)"), "\(headers)")
        }
    }

    @Test(
        "the release binary is below 55 MB without its symbols: no data of ICU, and nothing that nobody calls",
        .enabled(if: getenv("LAMINA_BINARY") != nil, "LAMINA_BINARY names no release binary"))
    func size() throws {
        let scratch = Scratch()
        let stripped = scratch.path + "/stripped"
        try run(["strip", "-o", stripped, Self.binary.path]).orThrow()
        let size = try FileManager.default.attributesOfItem(atPath: stripped)[.size] as? Int
        #expect(try #require(size) < 55_000_000)
    }

    @Test("the recipe of the release says all of that: no path of a library beside the program")
    func recipe() throws {
        let text = String(decoding: try readFile(Self.package + "/Makefile"), as: UTF8.self)
        let recipe = try #require(text.split(separator: "\n").first { $0.hasPrefix("RELEASE :=") })
        #expect(recipe.contains("--disable-local-rpath"))
    }

    /// What systemd-analyze says of what is not set in the unit and costs most, and of the whole.
    private static func exposure(_ unit: String) throws -> Double {
        let outcome = try run(["systemd-analyze", "security", "--offline=true", unit])
        let line = outcome.output.split(separator: "\n").last { $0.contains("Overall exposure level") }
        let number = line.flatMap { $0.firstMatch(of: #/: ([0-9.]+)/#) }.flatMap { Double($0.1) }
        return try #require(number, "\(outcome)")
    }

    @Test(
        "systemd finds the unit exposed to no more than its work takes",
        .enabled(if: isThere("systemd-analyze"), "systemd-analyze is missing (apt install systemd)"))
    func unit() throws {
        let source = String(decoding: try readFile(Self.package + "/config/systemd/lamina.service"), as: UTF8.self)
        var template = Array("/tmp/lamina-unit-XXXXXX".utf8CString)
        #expect(mkdtemp(&template) != nil)
        let directory = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        defer { _ = try? run(["rm", "-rf", directory]) }
        let unit = directory + "/lamina.service"
        try write(source.replacing("@PREFIX@", with: "/usr").replacing("@SYSCONFDIR@", with: "/etc").utf8, to: unit)
        let exposure = try Self.exposure(unit)
        print("systemd-analyze security: \(exposure)")
        // docs/security.md says what of it is left, and why it is no less: everything else would make a mount namespace.
        #expect(exposure <= 4.5)
    }

    @Test("no directive of the unit makes a mount namespace, in which its mounts would be hidden")
    func namespace() throws {
        let source = String(decoding: try readFile(Self.package + "/config/systemd/lamina.service"), as: UTF8.self)
        let names = source.split(separator: "\n").filter { !$0.hasPrefix("#") }.compactMap { line in
            line.firstIndex(of: "=").map { String(line[..<$0]) }
        }
        // exec_needs_mount_namespace of systemd's src/core/execute.c.
        for name in [
            "PrivateTmp", "PrivateDevices", "PrivateMounts", "PrivateIPC", "ProtectSystem", "ProtectHome",
            "ProtectKernelTunables",
            "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "ProtectProc", "ProcSubset",
            "ReadWritePaths",
            "ReadOnlyPaths", "InaccessiblePaths", "ExecPaths", "NoExecPaths", "BindPaths", "BindReadOnlyPaths",
            "TemporaryFileSystem",
            "RootDirectory", "RootImage", "MountFlags", "MountImages", "ExtensionImages", "DynamicUser", "LogNamespace",
            "MountAPIVFS",
        ] {
            #expect(!names.contains(name), "\(name)")
        }
        for line in [
            "UMask=0077", "StateDirectoryMode=0700", "NoNewPrivileges=yes", "LimitCORE=0",
            "SystemCallArchitectures=native",
        ] {
            #expect(source.split(separator: "\n").contains { $0 == line }, "\(line)")
        }
    }
}
