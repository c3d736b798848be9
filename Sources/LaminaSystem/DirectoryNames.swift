import Glibc

extension File {
    /// The names in a directory, without `.` and `..`, in no order. Bytes that are not UTF-8 are replaced.
    ///
    /// - Parameter directory: the directory that a relative `path` starts at; by default the working directory.
    /// - Throws: `SystemError`.
    public static func names(inDirectory path: String, of directory: File? = nil) throws(SystemError) -> [String] {
        try rawNames(inDirectory: path, of: directory).map { name in
            name.withUnsafeBytes { String(decoding: $0.dropLast(), as: UTF8.self) }
        }
    }

    /// The names unchanged, each ending in NUL.
    static func rawNames(inDirectory path: String, of directory: File?) throws(SystemError) -> [[CChar]] {
        let opened = try File(path, O_RDONLY | O_DIRECTORY, in: directory)
        // It needs its own descriptor, which closedir closes.
        let copy = fcntl(opened.descriptor, F_DUPFD_CLOEXEC, 0)
        guard copy >= 0 else { throw SystemError.last("list", path) }
        guard let stream = fdopendir(copy) else {
            let error = SystemError.last("list", path)
            close(copy)
            throw error
        }
        defer { closedir(stream) }
        var names: [[CChar]] = []
        errno = 0
        while let entry = readdir(stream) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
                Array(bytes.prefix { $0 != 0 }.map { CChar(bitPattern: $0) }) + [0]
            }
            if name != [46, 0], name != [46, 46, 0] { names.append(name) }
            errno = 0
        }
        guard errno == 0 else { throw SystemError.last("list", path) }
        return names
    }
}
