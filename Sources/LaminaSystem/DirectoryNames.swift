import Glibc

extension File {
    /// The names in a directory, without `.` and `..`, in no order. What is no UTF-8 in them is replaced.
    ///
    /// - Parameter directory: the directory that a relative `path` starts at; the working directory without it.
    /// - Throws: `SystemError`.
    public static func names(inDirectory path: String, of directory: File? = nil) throws(SystemError) -> [String] {
        try rawNames(inDirectory: path, of: directory).map { name in
            name.withUnsafeBytes { String(decoding: $0.dropLast(), as: UTF8.self) }
        }
    }

    /// The names as they are, each ending in NUL.
    static func rawNames(inDirectory path: String, of directory: File?) throws(SystemError) -> [[CChar]] {
        let opened = try File(path, O_RDONLY | O_DIRECTORY, in: directory)
        // A descriptor of its own, which closedir closes.
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
