import Glibc
import LaminaConvert
import LaminaFUSE
import LaminaFormats
import LaminaMerge
import LaminaOCI
import LaminaStore
import LaminaSystem
import Testing

@testable import LaminaDaemon

@Suite("exit codes")
struct ExitStatusTests {
    @Test("each kind of error has its code")
    func mapping() {
        let denied = SystemError(code: EACCES, operation: "open", subject: "/x")
        let cases: [(any Error, Int32)] = [
            (DaemonError(.usage, ""), 64), (DaemonError(.configuration, ""), 78), (DaemonError(.permission, ""), 77),
            (DaemonError(.noServer, ""), 69), (DaemonError(.busy, ""), 75), (DaemonError(.serverFailed, ""), 1),
            (DaemonError(.interrupted, ""), 130), (DaemonError(.notFound, ""), 1),
            (DaemonError(.remote(exitCode: 42), ""), 42),
            (StoreError(.locked(holder: "x"), ""), 75), (StoreError(.incompatible, ""), 78),
            (StoreError(.damaged, ""), 2), (StoreError(.missing, ""), 1), (StoreError(.notFound, ""), 1),
            (StoreError(.system(EPERM), ""), 77), (StoreError(.system(ENOSPC), ""), 1),
            (OCIError(.badReference, ""), 64), (OCIError(.unauthorized, ""), 77), (OCIError(.network, ""), 75),
            (OCIError(.unavailable, ""), 75), (OCIError(.stalled, ""), 75), (OCIError(.slow, ""), 75),
            (OCIError(.interrupted, ""), 130), (OCIError(.tls, ""), 78),
            (OCIError(.notFound, ""), 1), (OCIError(.badManifest, ""), 1),
            (MergeError(.interrupted, ""), 130), (MergeError(.fetch, "", cause: OCIError(.network, "")), 75),
            (MergeError(.digestMismatch, ""), 1),
            (ConvertError(.badReference, ""), 64), (ConvertError(.interrupted, ""), 130),
            (ConvertError(.io, "", cause: denied), 77), (ConvertError(.badSource, ""), 1),
            (FormatError(.badFooter, ""), 1),
            (denied, 77), (SystemError(code: EINTR, operation: "", subject: ""), 75),
            (SystemError(code: ENOENT, operation: "", subject: ""), 1),
            (FUSEError(.deviceUnavailable, "", cause: denied), 77), (FUSEError(.handshakeFailed, ""), 1),
            (StoreError(.damaged, ""), 2), (StoreError(.database, ""), 1),
            (StoreError(.database, ""), 1), (CancellationError(), 1),
        ]
        for (error, code) in cases { #expect(ExitStatus.code(of: error) == code, "\(type(of: error)) \(error)") }
    }

    @Test("what a server says through the pipe is understood by who started it")
    func readySignal() throws {
        func heard(_ body: (ReadySignal) -> Void) throws -> ReadySignal.Message {
            let (reading, writing) = try BackgroundProcess.makePipe()
            body(ReadySignal(descriptor: dup(writing.descriptor)))
            var bytes = [UInt8](repeating: 0, count: 5000)
            var poll = pollfd(fd: reading.descriptor, events: Int16(POLLIN), revents: 0)
            guard Glibc.poll(&poll, 1, 0) == 1 else { return ReadySignal.Message([]) }
            let count = read(reading.descriptor, &bytes, bytes.count)
            return ReadySignal.Message(Array(bytes.prefix(count)))
        }
        #expect(try heard { $0.ready() } == .ready)
        #expect(
            try heard { $0.failed(StoreError(.locked(holder: "x"), "two\nlines")) }
                == .failed(exitCode: 75, "two\nlines"))
        // Only the first word counts.
        #expect(
            try heard {
                $0.ready()
                $0.failed(DaemonError(.busy, ""))
            } == .ready)
        #expect(try heard { _ in } == .nothing)
        #expect(ReadySignal.Message(Array("Ex\n".utf8)) == .nothing)
    }
}
