import Glibc

/// The path from the root, without `.`, double slashes and a trailing slash. Symbolic links stay, because a name that is given
/// today may lead elsewhere tomorrow; only `..` is resolved, through the links before it if they exist.
func absolutePath(_ path: String) -> String {
    var absolute = path
    if !path.hasPrefix("/"), let current = getcwd(nil, 0) {
        absolute = String(cString: current) + "/" + path
        free(current)
    }
    let parts = absolute.split(separator: "/").filter { $0 != "." }
    guard parts.contains("..") else { return "/" + parts.joined(separator: "/") }
    if let resolved = realpath(absolute, nil) {
        defer { free(resolved) }
        return String(cString: resolved)
    }
    var kept: [Substring] = []
    for part in parts {
        if part == ".." { _ = kept.popLast() } else { kept.append(part) }
    }
    return "/" + kept.joined(separator: "/")
}

/// strerror(3) of an errno value, as the cause of an error.
struct SystemCallError: Error, CustomStringConvertible {
    let code: Int32

    static var last: SystemCallError { SystemCallError(code: errno) }

    var description: String {
        var buffer = [CChar](repeating: 0, count: 256)
        _ = strerror_r(code, &buffer, buffer.count)
        let text = String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return text.isEmpty ? "error \(code)" : text
    }
}
