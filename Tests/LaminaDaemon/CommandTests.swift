import Glibc
import LaminaOCI
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Logging
import Testing

@testable import LaminaDaemon

@Suite("commands")
struct CommandTests {
    private func context(root: String) -> CommandContext {
        var log = Logger(label: "test") { _ in LogOutput(level: .critical) }
        log.logLevel = .critical
        return CommandContext(root: root, configuration: Configuration(), log: log, output: Output(plainWithJSON: true))
    }

    @Test("what goes to a server is absolute and canonical")
    func requests() throws {
        let directory = Scratch()
        let context = context(root: directory.path)
        let pull = try PullCommand(reference: "oci:images:x", platform: "aarch64", plainHTTP: false, lazy: false)
            .makeRequest(context)
        #expect(pull.reference.hasPrefix("oci:/") && pull.reference.hasSuffix("/images:x"))
        #expect(pull.platform == "linux/arm64")
        #expect(throws: OCIError.self) {
            try PullCommand(reference: "A B", platform: nil, plainHTTP: false, lazy: false).makeRequest(context)
        }
        try createDirectories(directory.path + "/m")
        symlink("m", directory.path + "/link")
        let mount = try MountCommand(
            reference: "a", target: directory.path + "/link/", upper: directory.path, platform: nil, plainHTTP: true
        ).makeRequest(context)
        #expect(mount.target == directory.path + "/m" && mount.upper == directory.path && mount.plainHTTP)
        let error = #expect(throws: DaemonError.self) {
            try MountCommand(
                reference: "a", target: directory.path + "/none", upper: nil, platform: nil, plainHTTP: false
            )
            .makeRequest(context)
        }
        #expect(error?.code == .notFound)
        #expect(resolvedPath(directory.path + "/./m/") == directory.path + "/m")
    }

    @Test(
        "a path is what its links lead to, also where its end is not there yet",
        arguments: [
            ("/link/store", "/m/store"), ("/link/../store", "/store"), ("/none/../store", "/store"),
            ("/far/x", "/not/there/x"), ("/loop/x", "/loop/x"), ("/./m//", "/m"),
        ])
    func resolving(_ path: String, _ expected: String) throws {
        let directory = Scratch()
        try createDirectories(directory.path + "/m")
        symlink("m", directory.path + "/link")
        symlink(directory.path + "/not/there", directory.path + "/far")
        symlink("loop", directory.path + "/loop")
        #expect(resolvedPath(directory.path + path) == directory.path + expected)
    }

    @Test("with no server the store is opened here, and one that is in use elsewhere is an error that says by whom")
    func access() async throws {
        let directory = Scratch()
        let context = context(root: directory.path + "/store")
        try await onThread("test") {
            guard case .local(let engine) = try EngineAccess.open(context) else {
                Issue.record("there is no server")
                return
            }
            defer { engine.shutdown(unmount: false) }
            // The lock is this process's own, but flock counts open files.
            let error = #expect(throws: DaemonError.self) { try EngineAccess.open(context) }
            #expect(error?.code == .busy)
            #expect(error?.message.contains("process \(getpid())") == true)
        }
    }

    @Test("a server that ends between two questions is no failure: the store is opened here then")
    func endedServer() async throws {
        try await onThread("test") {
            let server = try TestServer(FakeEngine())
            var ways: [String] = []
            let status = try EngineAccess.use(context(root: server.root)) { access in
                switch access {
                case .server(let client):
                    ways.append("server")
                    #expect(try server.stop())
                    return try client.status().root
                case .local(let engine):
                    ways.append("local")
                    return engine.status().root
                }
            }
            #expect(ways == ["server", "local"] && status == server.root)
            // It is closed afterwards; and the command's own error is not taken for that.
            for _ in 0..<2 {
                #expect(throws: DaemonError.self) {
                    try EngineAccess.use(context(root: server.root)) { _ in throw DaemonError(.noServer, "said") }
                }
            }
        }
    }

    @Test("a store that does not exist is said to be none")
    func missingStore() {
        let directory = Scratch()
        #expect(throws: StoreError.self) { try StatusCommand.report(context(root: directory.path)) }
        #expect(throws: StoreError.self) { try ListCommand(image: nil, long: false).run(context(root: directory.path)) }
    }

    @Test("status and ls of an empty store, and of what views hold")
    func reports() async throws {
        let directory = Scratch()
        let context = context(root: directory.path)
        try await onThread("test") {
            _ = try Store(root: directory.path)
            let report = try StatusCommand.report(context)
            #expect(report.server == nil && report.usage.images == 0 && report.mounts.isEmpty)
            #expect(StatusCommand.text(report).contains("none runs"))
            #expect(try JSONText.decode(StatusReport.self, Array(JSONText.document(report).utf8)) == report)
        }
        let files = try ["/", "/b\u{1B}[2J", "/l"].map { path in
            try JSONText.decode(
                FileStatus.self,
                JSONText.line([
                    "path": path, "type": path == "/" ? "directory" : "file", "mode": "0644",
                    "modifiedAt": "2026-01-01T00:00:00Z",
                    "state": "merged", "layer": "sha256:aa",
                ]).dropLast() + Array(#","uid":0,"gid":0,"bytes":1}"#.utf8))
        }
        #expect(ListCommand.text(files, long: false) == "/\n/b?[2J\n/l")
        #expect(ListCommand.text(files, long: true).hasPrefix("d0644  0  0  1  2026-01-01T00:00:00Z  merged  /\n-0644"))
        #expect(ListCommand.text([], long: false) == "")
    }

    @Test("a list of prioritized files is one path a line")
    func prioritized() {
        let list = Array("usr/bin/a\r\n\n# no path\nb c\n\u{e9}".utf8)
        #expect(ConvertCommand.paths(of: list) == ["usr/bin/a", "b c", "\u{e9}"].map { Array($0.utf8) })
    }

    @Test("log lines: a sentence, then fields, and never a second line")
    func logLines() {
        let now = timespec(tv_sec: 1_700_000_000, tv_nsec: 7_000_000)
        let fields: Logger.Metadata = ["b": "two words", "a": "1", "c": "x\ny"]
        #expect(
            LogOutput.line(.warning, "it\nhappened", fields, .plain, now)
                == "2023-11-14T22:13:20.007Z warn it\u{FFFD}happened a=1 b=\"two words\" c=\"x\u{FFFD}y\"")
        #expect(LogOutput.line(.error, "x", [:], .journal, now) == "<3>x")
        #expect(LogOutput.line(.info, "x", [:], .journal, now) == "<6>x")
    }

    @Test("the service manager is told by datagrams to a path or an abstract name")
    func notify() throws {
        let directory = Scratch()
        for name in [directory.path + "/notify", "@lamina-test-\(getpid())"] {
            let receiver = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0)
            defer { close(receiver) }
            var address = sockaddr_un()
            address.sun_family = sa_family_t(AF_UNIX)
            withUnsafeMutableBytes(of: &address.sun_path) { room in
                for (index, byte) in name.utf8.enumerated() { room[index] = byte == UInt8(ascii: "@") ? 0 : byte }
            }
            let length = socklen_t(2 + name.utf8.count)
            let bound = withUnsafePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(receiver, $0, length) }
            }
            #expect(bound == 0)
            Notifier(path: name).ready("here")
            var bytes = [UInt8](repeating: 0, count: 500)
            let count = recv(receiver, &bytes, bytes.count, Int32(MSG_DONTWAIT))
            let text = String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
            #expect(text == "READY=1\nSTATUS=here\nMAINPID=\(getpid())")
        }
        Notifier(path: nil).stopping()
        Notifier(path: "relative").stopping()
    }
}
