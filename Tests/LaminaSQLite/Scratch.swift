import Glibc
import LaminaSQLite

/// A directory of its own for one test, gone with the last reference.
final class Scratch: Sendable {
    let path: String

    init() {
        var template = Array("/tmp/lamina-test-XXXXXX".utf8CString)
        path = mkdtemp(&template).map { String(cString: $0) } ?? "/tmp"
    }

    deinit {
        for name in ["/db", "/db-wal", "/db-shm", "/db-journal"] { unlink(path + name) }
        rmdir(path)
    }

    var database: String { path + "/db" }

    func open(_ access: Connection.Access = .readWrite) throws -> Connection {
        try Connection(path: database, access: access)
    }

    /// The database file as it is now.
    func bytes() -> [UInt8] {
        guard let file = fopen(database, "rb") else { return [] }
        defer { fclose(file) }
        var bytes = [UInt8](repeating: 0, count: 1 << 20)
        let count = fread(&bytes, 1, bytes.count, file)
        return Array(bytes.prefix(count))
    }
}
