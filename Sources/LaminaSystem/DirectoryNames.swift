import Glibc

extension File {
    /// The names in a directory, without `.` and `..`, in no order. What is no UTF-8 in them is replaced.
    ///
    /// - Throws: `SystemError`.
    public static func names(inDirectory path: String) throws(SystemError) -> [String] {
        guard let directory = opendir(path) else { throw SystemError.last("list", path) }
        defer { closedir(directory) }
        var names: [String] = []
        errno = 0
        while let entry = readdir(directory) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name != ".", name != ".." { names.append(name) }
            errno = 0
        }
        guard errno == 0 else { throw SystemError.last("list", path) }
        return names
    }
}
