import Glibc
import LaminaStore
import LaminaSystem
import Synchronization

/// Where the bytes of one content go while it is merged: its file, opened once, and the lease of its name, from before the
/// first byte until the index has recorded the last. If that does not happen, the lease is given up with this object.
final class MergeTarget: Sendable {
    private struct State: ~Copyable {
        var file: BackingFile?
        var lease: WritingLease?
    }

    let record: ContentRecord
    let chunkCount: Int
    let startedAt = monotonicSeconds()
    /// Whether a reader has asked for any of it, and so will probably ask for more: its bytes are worth the page cache.
    let hasReaders = Atomic<Bool>(false)
    private let state = Mutex(State())

    init(_ record: ContentRecord, chunkCount: Int) {
        self.record = record
        self.chunkCount = chunkCount
    }

    /// Runs `body` with the lease of the content's name.
    func withLease<Result: Sendable>(
        _ files: ContentFiles, _ body: (borrowing WritingLease) throws(SystemError) -> Result
    ) throws(SystemError) -> Result {
        try state.withLock { state throws(SystemError) -> Result in
            try Self.withLease(&state, files, record.name, body)
        }
    }

    /// Writes a verified chunk at its own offset in the backing file, except its holes: ranges of the bytes.
    func write(
        _ bytes: UnsafeRawBufferPointer, holes: [Range<Int>], at offset: Int64, to files: ContentFiles,
        keepsCached: Bool
    ) throws(SystemError) {
        if chunkCount == 1 {
            return try withLease(files) { lease throws(SystemError) in
                try lease.write(bytes, holes: holes, as: record.name, keepsCached: keepsCached)
            }
        }
        let file = try state.withLock { state throws(SystemError) -> BackingFile in
            if let file = state.file { return file }
            let opened = try Self.withLease(&state, files, record.name) { lease throws(SystemError) in
                try lease.writable(record.name, size: record.size)
            }
            state.file = opened
            return opened
        }
        try file.write(bytes, holes: holes, at: offset, keepsCached: keepsCached)
    }

    /// Closes the file: everything has landed.
    func close() { state.withLock { $0.file = nil } }

    /// Ends the lease of the name: the index says what its file has.
    func recorded() { state.withLock { $0.lease?.recorded() } }

    private static func withLease<Result: Sendable>(
        _ state: inout State, _ files: ContentFiles, _ name: BackingName,
        _ body: (borrowing WritingLease) throws(SystemError) -> Result
    ) throws(SystemError) -> Result {
        var lease = state.lease.take() ?? files.emptyLease()
        lease.cover(name)
        var failure: SystemError?
        var result: Result?
        do throws(SystemError) { result = try body(lease) } catch { failure = error }
        state.lease = consume lease
        guard let result else { throw failure ?? SystemError(code: EIO, operation: "write", subject: name.path) }
        return result
    }
}
