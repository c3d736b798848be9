import Glibc
import LaminaSystem

/// Makes a new directory under another, by default under the system's temporary directory.
public func temporaryDirectory(_ name: String, in base: String? = nil) throws -> String {
    let base = base ?? getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
    var template = Array("\(base)/lamina-\(name)-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else { throw SystemError.last("make directory", "\(base)/lamina-\(name)-XXXXXX") }
    return String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
}

/// Removes a file or a directory with everything in it; what cannot be removed stays.
public func removeTree(_ path: String) {
    var status = stat()
    guard lstat(path, &status) == 0 else { return }
    guard status.st_mode & S_IFMT == S_IFDIR, let directory = opendir(path) else {
        unlink(path)
        return
    }
    var names: [String] = []
    while let entry = readdir(directory) {
        let name = withUnsafeBytes(of: &entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        if name != ".", name != ".." { names.append(name) }
    }
    closedir(directory)
    names.forEach { removeTree("\(path)/\($0)") }
    rmdir(path)
}
