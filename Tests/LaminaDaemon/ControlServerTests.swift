import Glibc
import LaminaMerge
import LaminaSystem
import LaminaTestSupport
import Testing

@testable import LaminaDaemon

@Suite("the control server and its client")
struct ControlServerTests {
    @Test("answers status, mounts and health, and its socket is its owner's alone")
    func facts() async throws {
        try await onThread("test") {
            let engine = FakeEngine()
            let server = try TestServer(engine)
            #expect(try server.client.isServed())
            #expect(try server.client.status().passthroughReason == "a test")
            #expect(try server.client.mounts().isEmpty)
            var status = stat()
            #expect(stat(server.root + "/control.sock", &status) == 0)
            #expect(status.st_mode & 0o777 == 0o600)
            #expect(try server.stop())
            #expect(engine.state.withLock { $0.shutdowns } == 1)
            #expect(access(server.root + "/control.sock", F_OK) != 0)
            #expect(try !server.client.isServed())
        }
    }

    @Test("a pull streams its progress, and then its result")
    func pull() async throws {
        try await onThread("test") {
            let engine = FakeEngine(steps: 4)
            let server = try TestServer(engine)
            var steps: [Int64] = []
            let request = PullRequest(reference: "a", platform: "linux/arm64", plainHTTP: true, lazy: true)
            let result = try server.client.pull(request) { steps.append($0.landedBytes) }
            #expect(result.platform == "linux/arm64" && !result.complete)
            #expect(!steps.isEmpty && steps == steps.sorted())
            #expect(engine.state.withLock { $0.pulls } == [request])
            #expect(try server.stop())
        }
    }

    @Test("a check is asked with its options, and answers with its findings")
    func check() async throws {
        try await onThread("test") {
            let engine = FakeEngine()
            let server = try TestServer(engine)
            let options = CheckOptions(image: "a", readPercent: 5, repairs: true, seconds: 60)
            let report = try server.client.check(options) { #expect($0.stage == .checking) }
            #expect(report.image == "a" && report.damage.map(\.kind) == [.digest] && report.repaired == 1)
            #expect(engine.state.withLock { $0.checks } == [options])
            #expect(try server.stop())
        }
    }

    @Test("an error comes with its words and its exit code")
    func failure() async throws {
        try await onThread("test") {
            let failure = SystemError(code: EPERM, operation: "mount", subject: "/x")
            let server = try TestServer(FakeEngine(steps: 1, failure: failure))
            let error = #expect(throws: DaemonError.self) {
                try server.client.pull(PullRequest(reference: "a")) { _ in }
            }
            #expect(error?.code == .remote(exitCode: 77))
            #expect(error?.message == failure.description)
            let other = #expect(throws: DaemonError.self) { try server.client.unmount(UnmountRequest(target: "/y")) }
            #expect(other.map(ExitStatus.code) == 77)
            #expect(try server.stop())
        }
    }

    @Test("a client that goes away stops its pull, and the server lives on")
    func clientGone() async throws {
        try await onThread("test") {
            let engine = FakeEngine(steps: nil)
            let server = try TestServer(engine)
            let deadline = monotonicSeconds() + 0.5
            let client = ControlClient(root: server.root) { monotonicSeconds() > deadline }
            let error = #expect(throws: DaemonError.self) { try client.pull(PullRequest(reference: "a")) { _ in } }
            #expect(error?.code == .interrupted)
            #expect(engine.state.wait(seconds: 10) { $0.stoppedPulls == 1 ? true : nil } == true)
            #expect(try server.client.isServed())
            #expect(try server.stop())
        }
    }

    @Test("a server that ends stops the pulls of its clients first")
    func shutdownStopsPulls() async throws {
        try await onThread("test") {
            let engine = FakeEngine(steps: nil)
            let server = try TestServer(engine)
            let outcome = Monitor<Int32?>(nil)
            let client = server.client
            try startDetached("test-pull") {
                let code: Int32
                do {
                    _ = try client.pull(PullRequest(reference: "a")) { _ in }
                    code = 0
                } catch {
                    code = ExitStatus.code(of: error)
                }
                outcome.withLock(notify: true) { $0 = code }
            }
            while engine.state.withLock({ $0.pulls.isEmpty }) { usleep(10_000) }
            #expect(try server.stop())
            #expect(outcome.wait(seconds: 30) { $0 } == 130)
            #expect(engine.state.withLock { $0.stoppedPulls } == 1)
        }
    }

    @Test("mounts and unmounts, and ends when nothing is mounted any more")
    func idle() async throws {
        try await onThread("test") {
            let engine = FakeEngine()
            let server = try TestServer(engine, endsWhenIdle: true)
            let mounted = try server.client.mount(MountRequest(reference: "a", target: "/m", upper: "/u"))
            #expect(mounted == MountResult(target: "/m", reference: "a", writable: "/u", layers: 2))
            usleep(1_500_000)
            #expect(try server.client.mounts() == [MountListing(target: "/m", reference: "a", writable: "/u")])
            #expect(try server.client.seal(SealRequest(reference: "a")) { _ in }.bytes == 100)
            // A mount that needs no server does not keep it from ending.
            _ = try server.client.mount(MountRequest(reference: "a", target: "/sealed", sealed: true))
            let unmounted = try server.client.unmount(UnmountRequest(target: "/m"))
            #expect(unmounted.reference == "a")
            #expect(try server.hasEnded())
            #expect(engine.state.withLock { $0.shutdowns } == 1)
        }
    }

    @Test("a path that no socket address can hold works all the same")
    func longPath() async throws {
        try await onThread("test") {
            let server = try TestServer(FakeEngine(), subdirectory: "/" + String(repeating: "d", count: 200))
            #expect(server.root.utf8.count > 200)
            #expect(try server.client.isServed())
            #expect(try server.stop())
        }
    }

    @Test("a socket that a dead server left counts as none, and the next server replaces it")
    func staleSocket() async throws {
        try await onThread("test") {
            let directory = Scratch()
            let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
            let bound = withUnixAddress(directory.path + "/control.sock") { bind(descriptor, $0, $1) }
            #expect(bound == 0)
            close(descriptor)
            #expect(access(directory.path + "/control.sock", F_OK) == 0)
            #expect(try !ControlClient(root: directory.path).isServed())
            #expect(try !ControlClient(root: "/nonexistent/store").isServed())

            let server = try TestServer(FakeEngine())
            #expect(rename(directory.path + "/control.sock", server.root + "/stale.sock") == 0)
            #expect(try server.stop())
        }
    }

    @Test("a request that is none is refused, and the server lives on")
    func badRequests() async throws {
        try await onThread("test") {
            let server = try TestServer(FakeEngine())
            for (method, target, body, status) in [
                ("POST", "/v1/pull", "{", 400), ("POST", "/v1/pull", "{}", 400), ("POST", "/v1/mounts", "[]", 400),
                ("GET", "/v1/nothing", "", 404), ("POST", "/v1/pull", String(repeating: " ", count: 200_000), 400),
                ("GET", "/healthz", "", 200),
            ] {
                var connection = try ControlConnection(ControlSocket(root: server.root)) { false }
                try connection.send(method, target, body: Array(body.utf8))
                #expect(try connection.receiveHead() == status, "\(method) \(target)")
            }
            #expect(try server.client.isServed())
            #expect(try server.stop())
        }
    }
}

@Suite("the client's reading of answers")
struct ControlConnectionTests {
    /// What a client makes of these bytes, sent by a process that listens at a control socket.
    private func ask(_ answer: [UInt8]) throws -> Result<ServerStatus, any Error> {
        let directory = Scratch()
        let listening = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(listening) }
        guard withUnixAddress(directory.path + "/control.sock", { bind(listening, $0, $1) }) == 0,
            listen(listening, 1) == 0
        else { throw SystemError.last("listen", directory.path) }
        let thread = try Thread("test-answer") {
            let accepted = accept(listening, nil, nil)
            var request = [UInt8](repeating: 0, count: 4096)
            _ = recv(accepted, &request, request.count, 0)
            _ = send(accepted, answer, answer.count, Int32(MSG_NOSIGNAL))
            close(accepted)
        }
        defer { thread.join() }
        return Result { try ControlClient(root: directory.path).status() }
    }

    private static let body =
        #"{"fetchedBytes":1,"inFlightBytes":2,"opens":{"backingFiles":0,"cached":0,"lookups":0,"passthrough":0,"readBytes":0,"reads":0,"waited":0},"passthrough":true,"pid":1,"root":"/","startedAt":"","version":"0"}"#

    @Test("a body with a length and one in chunks are the same")
    func framings() async throws {
        try await onThread("test") {
            let body = Self.body
            let plain = "HTTP/1.1 200 OK\r\nContent-Length: \(body.utf8.count)\r\n\r\n" + body
            let half = body.index(body.startIndex, offsetBy: 40)
            let (a, b) = (body[..<half], body[half...])
            let chunked =
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
                + "\(String(a.utf8.count, radix: 16))\r\n\(a)\r\n\(String(b.utf8.count, radix: 16));x=y\r\n\(b)\r\n0\r\n\r\n"
            for answer in [plain, chunked] {
                let status = try ask(Array(answer.utf8)).get()
                #expect(status.pid == 1 && status.inFlightBytes == 2)
            }
        }
    }

    @Test("an answer that is cut, endless or nonsense is an error of its own, and never a crash")
    func mutations() async throws {
        try await onThread("test") {
            let valid = Array(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\(String(Self.body.utf8.count, radix: 16))\r\n\(Self.body)\r\n0\r\n\r\n"
                    .utf8)
            var random = SeededGenerator(seed: 11)
            for round in 0..<400 {
                var bytes = valid
                if round % 4 == 0 { bytes = Array(bytes.prefix(Int.random(in: 0..<bytes.count, using: &random))) }
                for _ in 0..<Int.random(in: 1...4, using: &random) where !bytes.isEmpty {
                    let place = Int.random(in: 0..<min(bytes.count, 80), using: &random)
                    bytes[place] = UInt8.random(in: 0...255, using: &random)
                }
                if case .failure(let error) = try ask(bytes) {
                    #expect(error is DaemonError, "\(error)")
                }
            }
            let endless = Array("HTTP/1.1 200 OK\r\n".utf8) + [UInt8](repeating: UInt8(ascii: "a"), count: 100_000)
            #expect(throws: DaemonError.self) { try ask(endless).get() }
            let huge = Array("HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\n".utf8)
            #expect(throws: DaemonError.self) { try ask(huge).get() }
        }
    }
}
