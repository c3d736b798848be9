import Glibc
import LaminaSQLite
import LaminaTestSupport

extension Scratch {
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
