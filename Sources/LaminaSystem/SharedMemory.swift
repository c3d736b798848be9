import CLinux
import Glibc
import Synchronization

/// A mapped file in memory, whose words are written one by one: another process finds what one process has written, however
/// that one ended. It ends with its last descriptor, and with the power.
public final class SharedMemory: @unchecked Sendable {
    // @unchecked: the mapping neither moves nor ends before this object, and its words are atomic.
    /// The file, to be passed on.
    public let file: File
    public let wordCount: Int
    private let words: UnsafeMutablePointer<Atomic<UInt64>>

    /// Makes a file of that many words, all zero. Words that are never written take no memory.
    public convenience init(name: String, wordCount: Int) throws(SystemError) {
        let descriptor = lamina_memory_file(name)
        guard descriptor >= 0 else { throw SystemError.last("make", "a file in memory") }
        let file = File(adopting: descriptor, path: "memory:\(name)")
        try file.truncate(to: Int64(wordCount * MemoryLayout<UInt64>.size))
        try self.init(mapping: file, wordCount: wordCount)
    }

    /// Maps a file that another process made; EINVAL if it is too short.
    public init(mapping file: File, wordCount: Int) throws(SystemError) {
        let size = wordCount * MemoryLayout<UInt64>.size
        // A mapping may reach beyond the end of the file, and a process that reads there is killed (SIGBUS).
        guard try file.size() >= Int64(size) else {
            throw SystemError(code: EINVAL, operation: "map", subject: file.path)
        }
        let address = mmap(nil, size, PROT_READ | PROT_WRITE, MAP_SHARED, file.descriptor, 0)
        guard let address, address != MAP_FAILED else { throw SystemError.last("map", file.path) }
        self.file = file
        self.wordCount = wordCount
        words = address.bindMemory(to: Atomic<UInt64>.self, capacity: wordCount)
    }

    deinit { munmap(words, wordCount * MemoryLayout<UInt64>.size) }

    @inline(__always)
    public subscript(index: Int) -> UInt64 {
        get {
            precondition(index >= 0 && index < wordCount)
            return words[index].load(ordering: .acquiring)
        }
        set {
            precondition(index >= 0 && index < wordCount)
            // In order: a reader that finds a word finds all words that were written before it.
            words[index].store(newValue, ordering: .releasing)
        }
    }
}

extension SharedMemory {
    /// Bytes as a file without a name, for the program that this process becomes by exec: it inherits the descriptor.
    ///
    /// - Returns: the descriptor, which stays open.
    public static func inheritedFile(named name: String, of bytes: [UInt8]) throws(SystemError) -> Int32 {
        let descriptor = lamina_memory_file(name)
        guard descriptor >= 0 else { throw SystemError.last("make", "a file in memory") }
        var done = 0
        while done < bytes.count {
            let count = bytes.withUnsafeBytes {
                Glibc.write(descriptor, $0.baseAddress.map { $0 + done }, bytes.count - done)
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else {
                let error = SystemError.last("write", "a file in memory")
                close(descriptor)
                throw error
            }
            done += count
        }
        guard fcntl(descriptor, F_SETFD, 0) == 0 else { throw SystemError.last("keep", "a file in memory") }
        return descriptor
    }
}
