import Glibc
import LaminaSystem

extension DirectoryTree.Run {
    /// lstat; `nil` if nothing is there.
    func status(of component: [UInt8], in directory: File) throws -> stat? {
        var status = stat()
        let result = component.withCString { fstatat(directory.descriptor, $0, &status, AT_SYMLINK_NOFOLLOW) }
        if result == 0 { return status }
        if errno == ENOENT || errno == ENOTDIR { return nil }
        throw SystemError.last("stat", "\(directory.path)/\(String(decoding: component, as: UTF8.self))")
    }

    /// Opens what `status` described; if it is another file by now, that is an error.
    func open(
        _ component: [UInt8], name: [UInt8], _ status: stat, in directory: File, flags: Int32 = O_RDONLY | O_DIRECTORY
    ) throws -> File {
        let descriptor = component.withCString {
            openat(directory.descriptor, $0, flags | O_NOFOLLOW | O_CLOEXEC)
        }
        guard descriptor >= 0 else {
            if errno == ENOENT { throw vanished(name) }
            if errno == ELOOP || errno == ENOTDIR { throw changed(name) }
            throw SystemError.last("open", display(name))
        }
        let file = File(adopting: descriptor, path: display(name))
        let opened = try file.status()
        let isSame = DirectoryTree.FileID(opened) == DirectoryTree.FileID(status)
        guard isSame, opened.st_size == status.st_size || flags & O_DIRECTORY != 0 else { throw changed(name) }
        return file
    }

    func target(of component: [UInt8], name: [UInt8], in directory: File) throws -> [UInt8] {
        // A link's target is at most PATH_MAX bytes.
        var buffer = [CChar](repeating: 0, count: 4097)
        let size = buffer.count
        let count = component.withCString { readlinkat(directory.descriptor, $0, &buffer, size) }
        guard count >= 0 else {
            if errno == ENOENT { throw vanished(name) }
            throw SystemError.last("read the link", display(name))
        }
        return buffer[..<count].map { UInt8(bitPattern: $0) }
    }

    /// The names in a directory and whether they are directories, in the order of the archive's names: a directory's name ends
    /// in a slash there, so `a.b` comes before `a/`.
    func list(_ directory: File, name: [UInt8]) throws -> [(name: [UInt8], isDirectory: Bool)] {
        // It needs its own descriptor, because closedir closes it.
        let copy = openat(directory.descriptor, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard copy >= 0, let stream = fdopendir(copy) else {
            let error = SystemError.last("list", display(name))
            if copy >= 0 { close(copy) }
            throw error
        }
        defer { closedir(stream) }
        let nameOffset = MemoryLayout<dirent>.offset(of: \dirent.d_name) ?? 0
        var children: [(name: [UInt8], isDirectory: Bool)] = []
        while true {
            errno = 0
            guard let entry = readdir(stream) else {
                if errno != 0 { throw SystemError.last("list", display(name)) }
                break
            }
            let start = (UnsafeRawPointer(entry) + nameOffset).assumingMemoryBound(to: CChar.self)
            let child = [UInt8](UnsafeRawBufferPointer(start: start, count: strlen(start)))
            if child == [UInt8(ascii: ".")] || child == [UInt8(ascii: "."), UInt8(ascii: ".")] { continue }
            var isDirectory = entry.pointee.d_type == UInt8(DT_DIR)
            if entry.pointee.d_type == UInt8(DT_UNKNOWN) {
                isDirectory = try status(of: child, in: directory).map { $0.st_mode & S_IFMT == S_IFDIR } ?? false
            }
            children.append((child, isDirectory))
        }
        return children.sorted { left, right in
            (left.isDirectory ? left.name + [UInt8(ascii: "/")] : left.name)
                .lexicographicallyPrecedes(right.isDirectory ? right.name + [UInt8(ascii: "/")] : right.name)
        }
    }

    func display(_ name: [UInt8]) -> String {
        "\(tree.path)/\(String(decoding: name.prefix(1000), as: UTF8.self))"
    }

    func vanished(_ name: [UInt8]) -> ConvertError {
        ConvertError(.changed, "\(display(name)) vanished while it was read")
    }

    func changed(_ name: [UInt8]) -> ConvertError {
        ConvertError(.changed, "\(display(name)) changed while it was read")
    }
}

extension [UInt8] {
    /// The bytes followed by a NUL.
    fileprivate func withCString<Result>(_ body: (UnsafePointer<CChar>) -> Result) -> Result {
        var terminated = self
        terminated.append(0)
        return terminated.withUnsafeBytes { bytes in
            guard let base = bytes.baseAddress else { fatalError("it has at least the NUL") }
            return body(base.assumingMemoryBound(to: CChar.self))
        }
    }
}
