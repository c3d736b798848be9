import Glibc
public import LaminaSystem
import Synchronization

/// A backing file that chunks are written to.
///
/// What nobody has asked for yet, and what is large, goes past the page cache, straight from the decoder's buffer to the disk
/// (O_DIRECT, open(2)): no second copy of the bytes, no page of memory taken from what is in use, nothing left for syncfs to wait
/// for. Other files that somebody reads, and small ones, go through the page cache, where they are read from next.
public final class BackingFile: Sendable {
    private let file: File
    private let direct = Mutex(Direct.unknown)

    private enum Direct {
        case unknown
        case open(File)
        /// The file system has none.
        case impossible
    }

    /// Below this the wait for the disk is more than what the page cache costs.
    static let directSize = 1 << 20
    /// The largest alignment that a disk asks of memory, offset and size: a page.
    private static let alignment = 4096

    init(_ file: File) { self.file = file }

    /// Writes a chunk at its own offset, but for runs of zeros, which become holes.
    ///
    /// - Parameters:
    ///   - holes: as `ZeroRuns` finds them in these bytes.
    ///   - keepsCached: whether somebody is about to read it.
    public func write(
        _ bytes: UnsafeRawBufferPointer, holes: [Range<Int>] = [], at offset: Int64, keepsCached: Bool
    ) throws(SystemError) {
        var written = 0
        func writeBytes(upTo end: Int) throws(SystemError) {
            guard written < end else { return }
            try writeAll(
                UnsafeRawBufferPointer(rebasing: bytes[written..<end]), at: offset + Int64(written),
                keepsCached: keepsCached)
        }
        for hole in holes {
            try writeBytes(upTo: hole.lowerBound)
            // What an earlier try left there was not verified.
            try file.clear((offset + Int64(hole.lowerBound))..<(offset + Int64(hole.upperBound)))
            written = hole.upperBound
        }
        try writeBytes(upTo: bytes.count)
    }

    private func writeAll(_ bytes: UnsafeRawBufferPointer, at offset: Int64, keepsCached: Bool) throws(SystemError) {
        var written = 0
        if !keepsCached, bytes.count >= Self.directSize, let base = bytes.baseAddress,
            Int(bitPattern: base) % Self.alignment == 0, offset % Int64(Self.alignment) == 0
        {
            written = writeDirect(
                UnsafeRawBufferPointer(rebasing: bytes[..<(bytes.count & ~(Self.alignment - 1))]), offset)
        }
        // The last part of a page, or all of it.
        try file.write(UnsafeRawBufferPointer(rebasing: bytes[written...]), at: offset + Int64(written))
    }

    /// - Returns: how many bytes were written; the rest, after an error too, is the page cache's.
    private func writeDirect(_ bytes: UnsafeRawBufferPointer, _ offset: Int64) -> Int {
        guard let direct = openDirect() else { return 0 }
        do {
            try direct.write(bytes, at: offset)
            return bytes.count
        } catch {
            // A disk with other wishes; what is wrong with the disk itself is said by the write that follows.
            if error.code == EINVAL || error.code == EOPNOTSUPP { self.direct.withLock { $0 = .impossible } }
            return 0
        }
    }

    private func openDirect() -> File? {
        direct.withLock { direct in
            switch direct {
            case .open(let file): return file
            case .impossible: return nil
            case .unknown:
                guard let opened = file.reopenedDirect() else {
                    direct = .impossible
                    return nil
                }
                direct = .open(opened)
                return opened
            }
        }
    }
}
