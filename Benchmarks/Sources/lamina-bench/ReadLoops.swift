import CBench
import Foundation

// The loops that are timed: the same ones on every file system, with plain system calls.

/// Paths in the kernel's form, made before the clock runs.
final class Paths {
    let pointers: [UnsafeMutablePointer<CChar>]

    init(_ paths: [String]) { pointers = paths.map { strdup($0) } }
    deinit { for pointer in pointers { free(pointer) } }

    var count: Int { pointers.count }
}

final class ReadLoops {
    private static let size = 1 << 20
    private let buffer = UnsafeMutableRawPointer.allocate(byteCount: ReadLoops.size, alignment: 4096)

    deinit { buffer.deallocate() }

    /// Opens and reads a file to its end, 1 MiB a read. Returns how many bytes it has.
    @discardableResult
    func sequential(_ path: String) throws -> Int {
        let file = open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { throw Failure.system(path) }
        defer { close(file) }
        return try drain(file, path)
    }

    func drain(_ file: Int32, _ path: String) throws -> Int {
        var total = 0
        while true {
            let count = Glibc.read(file, buffer, Self.size)
            guard count >= 0 else { throw Failure.system("read \(path)") }
            if count == 0 { return total }
            total += count
        }
    }

    /// Reads 4 KiB at `count` places. The places are the same on every side.
    func random(_ path: String, count: Int) throws {
        let file = open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { throw Failure.system(path) }
        defer { close(file) }
        var generator = Generator(seed: 7)
        let pages = fileSize(path) / 4096
        for _ in 0..<count {
            let at = generator.next(below: pages) * 4096
            guard pread(file, buffer, 4096, at) == 4096 else { throw Failure.system("read \(path)") }
        }
    }

    /// Maps a file and reads one byte of each page.
    func touch(_ path: String) throws {
        let file = open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { throw Failure.system(path) }
        defer { close(file) }
        let size = fileSize(path)
        guard let mapping = mmap(nil, size, PROT_READ, MAP_SHARED, file, 0), mapping != MAP_FAILED else {
            throw Failure.system("mmap \(path)")
        }
        _ = bench_touch(mapping, size, 4096)
        munmap(mapping, size)
    }

    /// Opens, reads to the end and closes each file. Returns the bytes.
    func readAll(_ paths: Paths) throws -> Int {
        var total = 0
        for path in paths.pointers {
            let file = open(path, O_RDONLY | O_CLOEXEC)
            guard file >= 0 else { throw Failure.system(String(cString: path)) }
            // cat and cp also do the last read, of nothing.
            while true {
                let count = Glibc.read(file, buffer, Self.size)
                guard count >= 0 else { throw Failure.system(String(cString: path)) }
                if count == 0 { break }
                total += count
            }
            close(file)
        }
        return total
    }

    func readPart(_ file: Int32, at offset: Int, atMost count: Int, _ path: String) throws -> Int {
        let got = pread(file, buffer, min(count, Self.size), offset)
        guard got >= 0 else { throw Failure.system("read \(path)") }
        return got
    }

    /// Asks for the attributes of each file.
    func attributes(_ paths: Paths) throws {
        var status = stat()
        for path in paths.pointers where lstat(path, &status) != 0 { throw Failure.system(String(cString: path)) }
    }

    /// How long open and close take together, in seconds, for each file.
    func openClose(_ paths: Paths) throws -> [Double] {
        try paths.pointers.map { path in
            let begin = now()
            let file = open(path, O_RDONLY | O_CLOEXEC)
            guard file >= 0 else { throw Failure.system(String(cString: path)) }
            close(file)
            return now() - begin
        }
    }

    /// Seconds from open until the first 4 KiB are there; the descriptor stays open for what follows.
    func firstPage(_ path: String) throws -> (seconds: Double, file: Int32) {
        let begin = now()
        let file = open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0, pread(file, buffer, 4096, 0) == 4096 else { throw Failure.system(path) }
        return (now() - begin, file)
    }

    /// Lists a tree and asks for the attributes of every entry, as `ls -lR` does. Returns how many there are.
    func walk(_ path: String) throws -> Int {
        let top = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard top >= 0 else { throw Failure.system(path) }
        return try walk(top, path)
    }

    private func walk(_ descriptor: Int32, _ path: String) throws -> Int {
        guard let directory = fdopendir(descriptor) else { throw Failure.system(path) }
        defer { closedir(directory) }
        var count = 0
        var below: [String] = []
        var status = stat()
        while let entry = readdir(directory) {
            let name = UnsafeRawPointer(entry).advanced(by: MemoryLayout<dirent>.offset(of: \.d_name)!)
                .assumingMemoryBound(to: CChar.self)
            if name[0] == 46, name[1] == 0 || (name[1] == 46 && name[2] == 0) { continue }
            guard fstatat(descriptor, name, &status, AT_SYMLINK_NOFOLLOW) == 0 else {
                throw Failure.system("\(path)/\(String(cString: name))")
            }
            count += 1
            if status.st_mode & S_IFMT == S_IFDIR { below.append(String(cString: name)) }
        }
        for name in below {
            let next = openat(descriptor, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
            guard next >= 0 else { throw Failure.system("\(path)/\(name)") }
            count += try walk(next, "\(path)/\(name)")
        }
        return count
    }
}
