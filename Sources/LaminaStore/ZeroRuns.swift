import Glibc

/// Finds the zeros in bytes that are to be written to a backing file. They may be left out: the file is sparse.
///
/// An eStargz layer cannot say that a file has holes; a zstd:chunked layer can say it only of whole chunks. In the blob the
/// zeros compress to almost nothing; on disk they would take their full size.
public enum ZeroRuns {
    /// A shorter run is written: each hole is one more extent for the file system, and each open would have to look for it.
    public static let minimum = 64 << 10
    /// What file systems leave out: whole blocks of this size; the last one of a file only up to its end.
    private static let block = 4096
    private static let zeros = [UInt8](repeating: 0, count: block)

    /// The runs of whole blocks of zeros, in order, as ranges of `bytes`.
    ///
    /// It looks at the first bytes of each block, and at all bytes of blocks that are zeros: some milliseconds for a GiB.
    ///
    /// - Parameters:
    ///   - offset: where in the file the bytes are.
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
        // Unless it ends the file, the run ends here with a block, because the loop takes no part of one.
        if let begun = start, bytes.count - begun >= minimum { runs.append(begun..<bytes.count) }
        return runs
    }
}
