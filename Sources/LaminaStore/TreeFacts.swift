public import LaminaDigest
import LaminaSQLite

/// What is said of one name of a layer's tree, as far as a container is concerned with it: for holding two trees against each other that
/// came by different ways. Times are left out: some tables of contents have only seconds, some nothing.
public struct TreeFact {
    public var path: [UInt8] = []
    public var mode: UInt32 = 0
    public var uid: UInt32 = 0
    public var gid: UInt32 = 0
    public var size: Int64 = 0
    public var device: UInt64 = 0
    public var target: [UInt8] = []
    public var content: Digest?
    /// By the bytes of their names.
    public var attributes: [(name: [UInt8], value: [UInt8])] = []

    public init() {}

    /// SHA-256 of all of it, each part with its length.
    public var digest: Digest {
        var hash = SHA256()
        func add(_ bytes: [UInt8]) {
            withUnsafeBytes(of: Int64(bytes.count).littleEndian) { hash.update($0) }
            bytes.withUnsafeBytes { hash.update($0) }
        }
        add(path)
        withUnsafeBytes(of: (mode.littleEndian, uid.littleEndian, gid.littleEndian)) { hash.update($0) }
        withUnsafeBytes(of: (size.littleEndian, device.littleEndian)) { hash.update($0) }
        add(target)
        if let content { content.withUnsafeBytes { hash.update($0) } }
        for (name, value) in attributes {
            add(name)
            add(value)
        }
        return hash.digest()
    }
}

extension Index {
    /// The digests of all facts of a layer's tree, in no order. Some microseconds a name.
    public func treeFacts(of layer: LayerID) throws -> [Digest] {
        try read { database in
            let range = try database.cached("SELECT first_inode, last_inode, root FROM layer WHERE id = ?")
                .bind(1, layer.row).first { ($0.integer(0), $0.integer(1), $0.integer(2)) }
            guard let (first, last, root) = range else { throw StoreError(.notFound, "\(layer) is not in the index") }
            var attributes: [Int64: [(name: [UInt8], value: [UInt8])]] = [:]
            try database.cached("SELECT inode, name, value FROM xattr WHERE inode BETWEEN ? AND ? ORDER BY inode, name")
                .bind(1, first).bind(2, last)
                .forEach { attributes[$0.integer(0), default: []].append((Array($0.blob(1)), Array($0.blob(2)))) }
            var facts: [Digest] = []
            facts.reserveCapacity(Int(last - first + 1))
            func take(_ row: Statement, _ path: [UInt8]) {
                var fact = TreeFact()
                fact.path = path
                fact.mode = UInt32(truncatingIfNeeded: row.integer(0))
                fact.uid = UInt32(truncatingIfNeeded: row.integer(1))
                fact.gid = UInt32(truncatingIfNeeded: row.integer(2))
                fact.size = row.integer(3)
                fact.device = UInt64(bitPattern: row.integer(4))
                fact.target = row.isNull(5) ? [] : Array(row.blob(5))
                fact.content = row.digest(6)
                fact.attributes = attributes[row.integer(7)] ?? []
                facts.append(fact.digest)
            }
            let columns = "i.mode, i.uid, i.gid, i.size, i.device, i.target, c.digest, i.id"
            try database.cached("SELECT \(columns) FROM inode i LEFT JOIN content c ON c.id = i.content WHERE i.id = ?")
                .bind(1, root).forEach { take($0, []) }
            try database.cached(
                """
                SELECT \(columns), p.path, d.name FROM dirent d CROSS JOIN directory p ON p.inode = d.parent
                CROSS JOIN inode i ON i.id = d.inode LEFT JOIN content c ON c.id = i.content
                WHERE d.parent BETWEEN ? AND ?
                """
            ).bind(1, first).bind(2, last).forEach { row in
                var path = Array(row.blob(8))
                if !path.isEmpty { path.append(UInt8(ascii: "/")) }
                take(row, path + Array(row.blob(9)))
            }
            return facts
        }
    }
}
