import Glibc
import LaminaFUSE
import LaminaSystem
import LaminaTestSupport
import Synchronization
import Testing

@testable import LaminaFilesystem

/// getdents64(2): glibc has it, but its Swift module does not. readdir(3) has a buffer of its own size.
@_silgen_name("getdents64")
private func getdents64(_ directory: Int32, _ buffer: UnsafeMutableRawPointer, _ size: Int) -> Int

@Suite("listings made ahead")
struct DirectoryAheadTests {
    /// Adds entries until one does not fit, or `limit` were added; the directory has `count` of them, every third a directory.
    private static func fill(_ listing: inout DirectoryListing, count: Int64, limit: Int = .max) {
        var left = limit
        while listing.position < count {
            guard left > 0 else { return }
            left -= 1
            let id = listing.directory * 100_000 + listing.position
            let mode = UInt32(listing.position % 3 == 0 ? S_IFDIR : S_IFREG)
            let (attributes, next) = (FUSEAttributes(node: UInt64(id), mode: mode), listing.position + 1)
            let name = Array("entry \(String(repeating: "n", count: Int(listing.position % 40))) \(id)".utf8)
            guard name.withUnsafeBytes({ listing.entries.add(name: $0, attributes: attributes, nextOffset: next) })
            else {
                listing.end = .full
                return
            }
            listing.position += 1
            if mode == UInt32(S_IFDIR) { listing.directories.append((id, listing.position)) }
        }
        listing.end = .last
    }

    @Test(
        "a listing made for a larger buffer is cut for a reader with a smaller one, and goes on behind the cut",
        arguments: [true, false])
    func cut(isPlus: Bool) {
        for steps in [1, 10, 16, 100] {
            let ahead = DirectoryAhead()
            func read(_ position: Int64, _ size: Int) -> (end: Int64, used: Int, directories: [Int64], isLast: Bool) {
                var listing = ahead.take(7, from: position, size: size, isPlus: isPlus)
                if listing.end == .open { Self.fill(&listing, count: 5000) }
                ahead.sent(listing, size: size)
                return (listing.position, listing.entries.used, listing.directories.map(\.id), listing.end == .last)
            }
            var position: Int64 = 0
            var directories: [Int64] = []
            var number = 0
            while true {
                // Every fourth READDIR has a smaller buffer than the one before.
                let size = number % 4 == 3 ? 4096 : 32768
                let part = read(position, size)
                #expect(part.used <= size, "the kernel answers EIO to more than it asked for")
                directories += part.directories
                position = part.end
                if part.isLast { break }
                guard part.used > 0 else {
                    Issue.record("nothing at \(position)")
                    break
                }
                // While the reader is busy, a part of what it will ask for is made.
                for _ in 0..<(number % 3) {
                    guard var listing = ahead.work() else { break }
                    Self.fill(&listing, count: 5000, limit: steps)
                    ahead.put(listing)
                }
                number += 1
            }
            #expect(position == 5000)
            #expect(directories == stride(from: 0, to: 5000, by: 3).map { 700_000 + $0 })
            #expect(ahead.hits.load(ordering: .relaxed) > 0)
        }
    }

    @Test("each of several readers of one directory finds what was made for it")
    func several() {
        let ahead = DirectoryAhead()
        var positions = [0, 0, 0, 0] as [Int64]
        var reads = 0
        // Not in step: each has its own buffer.
        for turn in 0..<400 {
            let reader = turn % 4
            var listing = ahead.take(7, from: positions[reader], size: 4096 + reader * 1000, isPlus: true)
            if listing.end == .open { Self.fill(&listing, count: 100_000) }
            positions[reader] = listing.position
            ahead.sent(listing, size: 4096 + reader * 1000)
            reads += 1
            while var listing = ahead.work() {
                Self.fill(&listing, count: 100_000, limit: 16)
                ahead.put(listing)
            }
        }
        // All except the first ones, and those for which two readers met.
        #expect(ahead.hits.load(ordering: .relaxed) > reads * 8 / 10)
    }
}

extension FilesystemTests {
    /// Reads a part of an open directory: names in their order.
    static func part(_ directory: File, _ size: Int) throws -> [(name: String, next: Int64)] {
        var buffer = [UInt8](repeating: 0, count: size)
        let count = getdents64(directory.descriptor, &buffer, size)
        guard count >= 0 else { throw SystemError.last("list", directory.path) }
        var result: [(name: String, next: Int64)] = []
        buffer.withUnsafeBytes { bytes in
            var offset = 0
            while offset < count {
                // struct linux_dirent64: 8 bytes of inode, 8 of offset, 2 of length, 1 of type, the name with a NUL.
                let next = bytes.loadUnaligned(fromByteOffset: offset + 8, as: Int64.self)
                let length = Int(bytes.loadUnaligned(fromByteOffset: offset + 16, as: UInt16.self))
                let name = bytes[(offset + 19)..<(offset + length)].prefix { $0 != 0 }
                result.append((String(decoding: name, as: UTF8.self), next))
                offset += length
            }
        }
        return result
    }

    private static func dropDirectories() throws {
        let drop = try File("/proc/sys/vm/drop_caches", O_WRONLY)
        try Array("2".utf8).withUnsafeBytes { try drop.write($0, at: 0) }
    }

    @Test("directories are listed whole by buffers of all sizes, also where they change from one read to the next")
    func bufferSizes() throws {
        let layer = forge { layer in
            for number in 0..<120 {
                layer.directory("d\(number / 20)/\(number)")
                for file in 0..<(number % 12 == 5 ? 400 : 9) {
                    layer.file("d\(number / 20)/\(number)/file \(String(repeating: "x", count: file % 60)) \(file)", [])
                }
            }
        }
        try Fixture.with(["a": [layer]]) { fixture in
            for sizes in [[4096], [32768, 32768, 32768, 4096], [65536, 4096], [200_000, 1024, 32768], [500]] {
                try Self.dropDirectories()
                var reads = 0
                func walk(_ path: String) throws -> Int {
                    let directory = try File(path, O_RDONLY | O_DIRECTORY)
                    var names: [String] = []
                    while true {
                        let part = try Self.part(directory, sizes[reads % sizes.count])
                        reads += 1
                        if part.isEmpty { break }
                        names += part.map(\.name)
                    }
                    #expect(names.prefix(2) == [".", ".."])
                    names.removeFirst(2)
                    #expect(names == names.sorted { Array($0.utf8).lexicographicallyPrecedes(Array($1.utf8)) })
                    #expect(Set(names).count == names.count)
                    var status = stat()
                    return try names.reduce(names.count) { sum, name in
                        lstat("\(path)/\(name)", &status)
                        return sum + (status.st_mode & S_IFMT == S_IFDIR ? try walk("\(path)/\(name)") : 0)
                    }
                }
                #expect(try walk(fixture.path()) == 6 + 120 + 110 * 9 + 10 * 400)
            }
        }
    }

    @Test(
        "several readers of a large directory, with buffers of their own, rewinds and seeks, cost what they cost alone")
    func readersOfOneDirectory() throws {
        let count = 20_000
        let layer = forge { layer in
            layer.directory("many")
            for number in 0..<count { layer.file("many/file-\(100_000 + number)", []) }
        }
        try Fixture.with(["a": [layer]]) { fixture in
            let path = try fixture.path("many")
            @Sendable func list(_ size: Int, rewindsAt: Int?, problems: Problems) throws {
                let directory = try File(path, O_RDONLY | O_DIRECTORY)
                var position = 0
                var rewinds = rewindsAt
                while case let part = try Self.part(directory, size), !part.isEmpty {
                    for (name, next) in part {
                        if position >= 2, name != "file-\(100_000 + position - 2)" {
                            problems.add("\(name) at \(position)")
                        }
                        position += 1
                        if next != position { problems.add("\(next) behind \(position)") }
                    }
                    if let at = rewinds, position > at {
                        rewinds = nil
                        // Back to the middle of what was read.
                        position /= 2
                        lseek(directory.descriptor, off_t(position), SEEK_SET)
                    }
                }
                if position != count + 2 { problems.add("\(position) entries") }
            }
            func cost(_ readers: Int, _ body: @escaping @Sendable (Int, Problems) throws -> Void) throws -> Double {
                try Self.dropDirectories()
                let problems = Problems()
                let before = processTime()
                let threads = try (0..<readers).map { number in
                    try thread(problems) { try body(number, problems) }
                }
                for thread in threads { thread.join() }
                #expect(problems.all == [])
                return processTime() - before
            }
            let alone = try cost(1) { _, problems in try list(4096, rewindsAt: nil, problems: problems) }
            for readers in [2, 4, 8] {
                let together = try cost(readers) { number, problems in
                    let size = [4096, 32768, 1000, 9000][number % 4]
                    try list(size, rewindsAt: number == 3 ? 15_000 : nil, problems: problems)
                }
                print("CPU: alone \(alone) s, \(readers) readers \(together) s")
                // Counting would take a hundred times as much; this is a debug build on a shared machine.
                #expect(together < 2 * Double(readers) * alone + 1)
            }
        }
    }
}

/// Processor time of this process in seconds.
func processTime() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}
