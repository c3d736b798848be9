import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

@testable import LaminaDaemon

@Suite("doctor")
struct DoctorTests {
    @Test(
        "kernel releases",
        arguments: [
            ("6.18.44-fc", 6, 18), ("6.9.0", 6, 9), ("6.9-rc1", 6, 9), ("5.10.0-30-amd64", 5, 10), ("7.0", 7, 0),
        ])
    func release(text: String, major: Int, minor: Int) {
        let version = KernelVersion(parsing: text)
        #expect(version?.major == major && version?.minor == minor)
        #expect(Doctor.kernel(version).state == ((major, minor) >= (6, 9) ? .ok : .warn))
    }

    @Test("what is no release is unknown", arguments: ["", "6", "x.y", "6.", ".9"])
    func noRelease(text: String) { #expect(KernelVersion(parsing: text) == nil) }

    @Test("options of a kernel's configuration")
    func option() {
        let text = Array("# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=m\nCONFIG_D=\"y\"\nCONFIG_BB=n\nCONFIG_E=".utf8)
        for (name, setting) in [
            ("CONFIG_A", .off), ("CONFIG_B", .builtIn), ("CONFIG_C", .module), ("CONFIG_D", .off), ("CONFIG_E", .off),
            ("CONFIG_F", .off), ("ONFIG_B", .off),
        ] as [(String, KernelConfiguration.Setting)] {
            #expect(KernelConfiguration.setting(of: name, in: text) == setting, "\(name)")
        }
        #expect(Doctor.passthroughOption(.off, path: "/p").advice != nil)
        #expect(Doctor.passthroughOption(nil, path: "").state == .unknown)
    }

    @Test("a packed configuration is unpacked, and a damaged one is an error")
    func packed() throws {
        // gzip of "CONFIG_FUSE_PASSTHROUGH=y\n", one stored block (RFC 1951).
        let text = Array("CONFIG_FUSE_PASSTHROUGH=y\n".utf8)
        let count = UInt8(text.count)
        let head: [UInt8] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, count, 0, ~count, 0xff]
        let packed = head + text + littleEndian(crc32(text)) + littleEndian(UInt32(text.count))
        #expect(try KernelConfiguration.unpack(packed) == text)
        #expect(throws: (any Error).self) { try KernelConfiguration.unpack(Array(packed.dropLast(3))) }
        #expect(throws: (any Error).self) { try KernelConfiguration.unpack([]) }
    }

    private func littleEndian(_ value: UInt32) -> [UInt8] {
        (0..<4).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) }
    }

    private func crc32(_ bytes: [UInt8]) -> UInt32 {
        var crc: UInt32 = .max
        for byte in bytes {
            crc ^= UInt32(byte)
            for _ in 0..<8 { crc = crc & 1 == 1 ? (crc >> 1) ^ 0xEDB8_8320 : crc >> 1 }
        }
        return ~crc
    }

    @Test("file systems: which are stacked, what is free")
    func filesystems() {
        let room = FilesystemFacts(magic: 0xEF53, sharesBlocks: false, freeBytes: 1 << 40, freeInodes: 1 << 20)
        #expect(Doctor.filesystem(room, at: "/s").state == .ok)
        #expect(Doctor.freeSpace(room).state == .ok)
        for magic in [0x794C_7630, 0x6573_5546] {
            let stacked = FilesystemFacts(magic: magic, sharesBlocks: nil, freeBytes: 0, freeInodes: nil)
            #expect(stacked.isStacked)
            #expect(Doctor.filesystem(stacked, at: "/s").state == .warn)
            #expect(Doctor.freeSpace(stacked).state == .warn)
        }
        #expect(
            Doctor.freeSpace(FilesystemFacts(magic: 0, sharesBlocks: nil, freeBytes: 1 << 40, freeInodes: 3)).state
                == .warn)
        #expect(
            FilesystemFacts(magic: 0x1234, sharesBlocks: nil, freeBytes: 0, freeInodes: nil).typeName == "type 0x1234")
    }

    @Test("every finding that is not well has a way out")
    func advice() {
        let findings = [
            Doctor.kernel(KernelVersion(parsing: "5.10.0")), Doctor.capability(false), Doctor.libfuse("3.9.1"),
            Doctor.fileLimit(soft: 1024, hard: 1024), Doctor.trial(.withoutPassthrough("x")), Doctor.trial(.fails("x")),
        ]
        for finding in findings {
            #expect(finding.state == .warn || finding.state == .fail)
            #expect(finding.advice?.isEmpty == false, "\(finding.condition)")
        }
        #expect(Doctor.libfuse("3.17.0").state == .ok && Doctor.libfuse("?").state == .unknown)
        #expect(Doctor.fileLimit(soft: 1024, hard: 1 << 20).state == .ok)
        #expect(Doctor.trial(nil).state == .unknown)
        #expect(Doctor.resend(true).state == .ok)
        #expect(Doctor.resend(false).state == .warn && Doctor.resend(false).advice?.contains("6.9") == true)
        #expect(Doctor.resend(nil).state == .unknown)
    }

    @Test("the trial of passthrough leaves nothing behind")
    func trial() async throws {
        try await onThread("test") {
            let directory = Scratch()
            let outcome = PassthroughTrial(directory: directory.path).run()
            if geteuid() == 0, access("/dev/fuse", R_OK | W_OK) == 0 {
                if case .fails(let reason) = outcome { Issue.record("FUSE does not work here: \(reason)") }
            } else {
                print("not root, or no /dev/fuse: the trial could only fail, with \(outcome)")
            }
            let left = try Mount.all().filter { $0.directory.hasPrefix(directory.path) }
            #expect(left.isEmpty)
            // Only an empty directory can be removed.
            #expect(rmdir(directory.path) == 0)
        }
    }

    @Test("an examination works where the store's directory does not exist yet")
    func examine() async throws {
        try await onThread("test") {
            let directory = Scratch()
            let report = Doctor(root: directory.path + "/not/yet").examine()
            #expect(report.findings.count == 11)
            #expect(access(directory.path + "/not", F_OK) != 0)
            #expect(DoctorCommand.text(report, usesColor: false).contains("lamina "))
            let decoded = try JSONText.decode(Doctor.Report.self, Array(JSONText.document(report).utf8))
            #expect(decoded == report)
        }
    }
}
