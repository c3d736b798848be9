import Glibc
public import LaminaSystem
import Synchronization

/// A backing file that chunks are written to.
///
/// Files that no reader has asked for yet, and large files, go past the page cache, straight from the decoder's buffer to the
/// disk (O_DIRECT, open(2)): there is no second copy of the bytes, no page is taken from memory in use, and syncfs has nothing
/// to wait for. Other files that are being read, and small ones, go through the page cache, from which they are read next.
public final class BackingFile: Sendable {
    private let file: File
    private let direct = Mutex(Direct.unknown)

    private enum Direct {
        case unknown
        case open(File)
        /// The file system does not support it.
        case impossible
    }

    /// Below this size the wait for the disk costs more than the page cache.
    static let directSize = 1 << 20
    /// The largest alignment that a disk requires of memory, offset and size: a page.
    private static let alignment = 4096

    init(_ file: File) { self.file = file }

    /// Writes a chunk at its own offset, except runs of zeros, which become holes.
    ///
    /// - Parameters:
    ///   - holes: as `ZeroRuns` finds them in these bytes.
    ///   - keepsCached: whether it will be read soon.
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

    /// - Returns: how many bytes were written; the rest, also after an error, goes through the page cache.
    private func writeDirect(_ bytes: UnsafeRawBufferPointer, _ offset: Int64) -> Int {
        guard let direct = openDirect() else { return 0 }
        do {
            try direct.write(bytes, at: offset)
            return bytes.count
        } catch {
            // The disk has other requirements. If something is wrong with the disk itself, the write that follows reports it.
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
