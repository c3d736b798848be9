import Glibc
import LaminaSystem

/// A blob of a server that does not support ranges: it is fetched once, from its beginning, into an unlinked file, and every
/// range is read from there as soon as it has come. The file is closed when it was not read for a while.
final class BlobSpool: Sendable {
    private struct State {
        var landed: Int64 = 0
        var failure: (any Error)?
        var failedAt: ContinuousClock.Instant?
        var lastUse = ContinuousClock().now
        var readers = 0
        var isClosed = false
    }

    private let size: Int64
    private let subject: String
    private let file: File
    private let state = Monitor(State())

    /// How long the file is kept for the next reader: the time between two ranges of a merge is far shorter.
    private static let idleLimit: Duration = .seconds(20)
    /// How long a failure is the answer to everybody, so that readers do not have the blob sent again and again. Then the next one
    /// tries anew, as there may be room for it, or a server that goes on.
    private static let failureLimit: Duration = .seconds(1)
    private static let bufferSize = 256 << 10

    /// Begins to fetch.
    init(of resource: RegistryClient.Resource, size: Int64, client: RegistryClient) throws {
        self.size = size
        subject = resource.subject
        let directory =
            client.settings.spoolDirectory ?? getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
        var template = Array("\(directory)/.lamina-blob-XXXXXX".utf8CString)
        let descriptor = mkstemp(&template)
        guard descriptor >= 0 else {
            throw OCIError(.io, "cannot make a file in \(directory)", cause: SystemCallError.last)
        }
        // If a child process starts in between, it keeps an unlinked file until it ends.
        _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
        unlink(template)
        file = File(adopting: descriptor, path: "\(directory)/(blob)")
        _ = try Thread("spool") { self.run(resource, client) }
    }

    private func run(_ resource: RegistryClient.Resource, _ client: RegistryClient) {
        var kept: Int64 = 0
        do {
            let receiver = RangeReceiver(range: 0..<size, size: size, subject: subject, skipLimit: .max) { bytes in
                let offset = self.state.withLock { $0.landed }
                // It takes disk like all else that lamina keeps.
                try client.settings.reserveSpool(Int64(bytes.count), self.size)
                kept += Int64(bytes.count)
                try self.file.write(bytes, at: offset)
                self.state.withLock(notify: true) { $0.landed += Int64(bytes.count) }
            }
            _ = try client.fetch(resource, into: receiver) { self.isIdle }
        } catch {
            var cause = (error as? SinkError)?.cause ?? error
            // The readers did not ask for it: the file was given up. Another server may have the bytes.
            if (cause as? OCIError)?.code == .interrupted { cause = notKept }
            state.withLock(notify: true) { ($0.failure, $0.failedAt) = (cause, ContinuousClock().now) }
        }
        while !isIdle { _ = state.wait(seconds: 0.5) { $0.isClosed ? true : nil } }
        if let digest = resource.blob { client.session.forget(self, at: client.place(of: digest, resource)) }
        // For whoever found the spool in this very moment.
        state.withLock(notify: true) { state in
            if state.failure == nil, state.landed < size {
                state.failure = notKept
            }
        }
        // The file goes with its last reader.
        client.settings.releaseSpool(kept)
    }

    private var notKept: OCIError { OCIError(.network, "\(subject) is not kept any longer") }

    private var isIdle: Bool {
        let now = ContinuousClock().now
        return state.withLock { state in
            if state.isClosed { return true }
            if let failedAt = state.failedAt { return now - failedAt > Self.failureLimit }
            return state.readers == 0 && now - state.lastUse > Self.idleLimit
        }
    }

    /// Gives the file up, because its bytes are wrong.
    func close() { state.withLock(notify: true) { $0.isClosed = true } }

    /// See ``BlobSource/read(_:size:range:shouldStop:into:)``.
    func read(
        _ range: Range<Int64>, shouldStop: @Sendable () -> Bool, into sink: (UnsafeRawBufferPointer) throws -> Void
    ) throws {
        state.withLock { $0.readers += 1 }
        defer {
            state.withLock { state in
                state.readers -= 1
                state.lastUse = ContinuousClock().now
            }
        }
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: Self.bufferSize, alignment: 16)
        defer { buffer.deallocate() }
        var position = range.lowerBound
        while position < range.upperBound {
            if shouldStop() { throw OCIError(.interrupted, "reading \(subject) was interrupted") }
            let landed = try state.wait(seconds: 0.1) { state -> Int64? in
                if state.landed > position { return state.landed }
                if let failure = state.failure { throw failure }
                return nil
            }
            guard let landed else { continue }
            let count = Int(min(Int64(buffer.count), min(landed, range.upperBound) - position))
            let piece = UnsafeMutableRawBufferPointer(rebasing: buffer[..<count])
            guard try file.read(into: piece, at: position) == count else {
                throw OCIError(.io, "the kept bytes of \(subject) cannot be read")
            }
            do { try sink(UnsafeRawBufferPointer(piece)) } catch { throw SinkError(cause: error) }
            position += Int64(count)
        }
    }
}
