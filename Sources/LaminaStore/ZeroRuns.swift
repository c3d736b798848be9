import Glibc

/// Where bytes that are to be written to a backing file are zeros, and may be left out of it: the file is sparse.
///
/// An eStargz layer has no way to say that a file has holes, a zstd:chunked one says it of whole chunks. Their zeros are in the blob
/// compressed to nothing; on disk they would take what they count.
public enum ZeroRuns {
    /// A shorter run is written: each hole is an extent more for the file system, and makes each open look for it.
    public static let minimum = 64 << 10
    /// What file systems leave out: whole blocks of this size, the last one of a file as far as it goes.
    private static let block = 4096
    private static let zeros = [UInt8](repeating: 0, count: block)

    /// The runs of whole blocks of zeros, in order, as ranges of `bytes`.
    ///
    /// Costs a look at the first bytes of each block, and at all of those that are zeros: some milliseconds for a GiB.
    ///
    /// - Parameters:
    ///   - offset: where in the file the bytes stand.
    ///   - fileSize: of the whole file.
    public static func find(
        in bytes: UnsafeRawBufferPointer, at offset: Int64, fileSize: Int64
    ) -> [Range<Int>] {
        guard bytes.count >= minimum, let base = bytes.baseAddress else { return [] }
        let endsFile = offset + Int64(bytes.count) == fileSize
        // The first byte that begins a block of the file.
        var position = Int(-offset & Int64(block - 1))
        var runs: [Range<Int>] = []
        var start: Int?
        zeros.withUnsafeBytes { zeros in
            guard let zero = zeros.baseAddress else { return }
            while position < bytes.count {
                let count = min(block, bytes.count - position)
                guard count == block || endsFile, memcmp(base + position, zero, count) == 0 else {
                    if let begun = start, position - begun >= minimum { runs.append(begun..<position) }
                    start = nil
                    position += count
                    continue
                }
                if start == nil { start = position }
                position += count
            }
        }
        // What does not end the file ends here with a block, as the loop takes no part of one.
        if let begun = start, bytes.count - begun >= minimum { runs.append(begun..<bytes.count) }
        return runs
    }
}
