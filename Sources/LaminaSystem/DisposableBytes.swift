import Glibc

/// Bytes that are read once, from the beginning to the end: what was read gives its memory back, long before the rest is done with.
///
/// For one thread.
public final class DisposableBytes {
    /// How much is given back at once, in bytes.
    private static let step = 4 << 20

    private var bytes: [UInt8]
    private var disposed = 0

    /// - Parameter bytes: are not held by anybody else any more, or this makes a copy.
    public init(_ bytes: consuming [UInt8]) { self.bytes = bytes }

    /// How many bytes they were.
    public var count: Int { bytes.count }

    /// Calls `body` with the bytes, once, and with a function that it calls to say up to where it does not look at them any more. After
    /// it they are gone.
    public func consume<Result>(
        _ body: (_ bytes: UnsafeRawBufferPointer, _ dispose: (_ end: Int) -> Void) throws -> Result
    ) rethrows -> Result {
        defer { bytes = [] }
        return try bytes.withUnsafeMutableBytes { all in
            try body(UnsafeRawBufferPointer(all)) { end in dispose(all, upTo: end) }
        }
    }

    private func dispose(_ all: UnsafeMutableRawBufferPointer, upTo end: Int) {
        guard end - disposed >= Self.step, let base = all.baseAddress else { return }
        let page = Int(sysconf(Int32(_SC_PAGESIZE)))
        // Whole pages within the bytes: madvise(2) makes them zeros, which nobody sees.
        let start = (Int(bitPattern: base) + disposed + page - 1) / page * page
        let stop = (Int(bitPattern: base) + min(end, all.count)) / page * page
        if start < stop { madvise(UnsafeMutableRawPointer(bitPattern: start), stop - start, Int32(MADV_DONTNEED)) }
        disposed = end
    }
}
