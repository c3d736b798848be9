import Glibc
import LaminaSystem

/// The path made absolute with the working directory, without `.`, double and trailing slashes. `..` stays, because its meaning
/// depends on symbolic links.
public func absolutePath(_ path: String) -> String {
    var full = path
    if !path.hasPrefix("/"), let directory = getcwd(nil, 0) {
        defer { free(directory) }
        full = String(cString: directory) + "/" + path
    }
    return "/" + full.split(separator: "/").filter { $0 != "." }.joined(separator: "/")
}

/// The path that an absolute path leads to, without symbolic links and `..`, even if its end does not exist yet: as `realpath
/// --canonicalize-missing`. Parts that cannot be read are taken literally.
func resolvedPath(_ path: String) -> String {
    var rest = Array(path.split(separator: "/").reversed())
    var resolved: [Substring] = []
    var links = 0
    while let name = rest.popLast() {
        switch name {
        case ".": continue
        case "..": resolved = resolved.dropLast()
        default:
            let place = "/" + (resolved + [name]).joined(separator: "/")
            guard links < linkLimit, let target = File.linkTarget(of: place) else {
                resolved.append(name)
                continue
            }
            links += 1
            if target.hasPrefix("/") { resolved = [] }
            rest += target.split(separator: "/").reversed()
        }
    }
    return "/" + resolved.joined(separator: "/")
}

/// The kernel follows this many links in one path (MAXSYMLINKS).
private let linkLimit = 40

/// The real path of something that exists, symbolic links followed; nil with errno.
func realPath(_ path: String) -> String? {
    guard let real = realpath(path, nil) else { return nil }
    defer { free(real) }
    return String(cString: real)
}
