import Glibc

/// The path made absolute by the working directory, without `.`, doubled and trailing slashes. `..` stays: what it
/// means depends on symbolic links.
public func absolutePath(_ path: String) -> String {
    var full = path
    if !path.hasPrefix("/"), let directory = getcwd(nil, 0) {
        defer { free(directory) }
        full = String(cString: directory) + "/" + path
    }
    return "/" + full.split(separator: "/").filter { $0 != "." }.joined(separator: "/")
}

/// The real path of something that exists, symbolic links followed; nil with errno.
func realPath(_ path: String) -> String? {
    guard let real = realpath(path, nil) else { return nil }
    defer { free(real) }
    return String(cString: real)
}
