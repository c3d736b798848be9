/// The extended attributes of an image. An attribute that several inodes have stands in it once.
///
/// The attribute that says where an inode's bytes are is not in here: it stands behind the inode.
struct AttributeTable {
    /// What stands behind an inode that has attributes of the table.
    struct Set {
        /// Places in the table, in units of four bytes.
        var shared: [UInt32] = []
        /// Each bit that is set says: no attribute has a name with this hash. The kernel then looks no further.
        var filter: UInt32 = .max
    }

    /// The table's bytes, as they stand in the image.
    private(set) var bytes: [UInt8] = []
    private var known: [[UInt8]: UInt32] = [:]

    /// - Parameter start: bytes that stand before the table's first attribute: the prefixes of names.
    init(after start: [UInt8]) { bytes = start }

    /// The attributes of a row; nil if it has none.
    mutating func set(of row: ChainRows.Row, _ rows: ChainRows) throws(SealError) -> Set? {
        guard row.attributeCount > 0 else { return nil }
        var result = Set()
        let first = Int(row.firstAttribute)
        for attribute in rows.attributes[first..<first + Int(row.attributeCount)] {
            let name = Array(rows.arena[attribute.name])
            try add(name, value: rows.arena[attribute.value], to: &result)
        }
        return result
    }

    /// Adds an attribute to a set, and to the table if it is new.
    mutating func add(_ name: [UInt8], value: ArraySlice<UInt8>, to set: inout Set) throws(SealError) {
        guard let (namespace, rest) = EROFSFormat.namespace(of: name), rest.count <= EROFSFormat.nameLimit else {
            throw SealError(
                .unsupported,
                "EROFS has no extended attribute '\(String(decoding: name, as: UTF8.self))': only those of user., trusted. and "
                    + "security., and access lists")
        }
        guard value.count <= EROFSFormat.attributeValueLimit else {
            throw SealError(
                .unsupported,
                "the extended attribute '\(String(decoding: name, as: UTF8.self))' has \(value.count) bytes, and EROFS takes "
                    + "\(EROFSFormat.attributeValueLimit)")
        }
        guard set.shared.count < EROFSFormat.sharedAttributeLimit else {
            throw SealError(
                .unsupported, "a file has more than \(EROFSFormat.sharedAttributeLimit) extended attributes")
        }
        var entry = [UInt8(rest.count), namespace, UInt8(value.count & 0xFF), UInt8(value.count >> 8)]
        entry += rest
        entry += value
        while entry.count % 4 != 0 { entry.append(0) }
        let place: UInt32
        if let known = known[entry] {
            place = known
        } else {
            place = UInt32(bytes.count / 4)
            known[entry] = place
            bytes += entry
        }
        set.shared.append(place)
        set.filter &= ~Self.filterBit(namespace, rest)
    }

    static func filterBit(_ namespace: UInt8, _ rest: [UInt8]) -> UInt32 {
        1 << (xxh32(rest, seed: EROFSFormat.filterSeed &+ UInt32(namespace)) & 31)
    }
}
