/// The records of a pax extended header (`x`, `g`): `"%d %s=%s\n"` of length, keyword and value.
///
/// POSIX.1-2017 pax, "pax Extended Header". Values are taken as bytes; NUL is allowed in extended attributes only.
struct TarPAX: Sendable, Equatable, Codable {
    var path: [UInt8]?
    var linkPath: [UInt8]?
    var size: Int64?
    var userID: Int64?
    var groupID: Int64?
    var userName: [UInt8]?
    var groupName: [UInt8]?
    var modificationTime: TarHeader.Time?
    var deviceMajor: Int64?
    var deviceMinor: Int64?
    /// In the order of the records; a later one with the same name wins.
    var attributes: [TarHeader.Attribute] = []
    /// Of a sparse file.
    var sparse: TarSparse?
    /// The bytes of the records that this was read from, to limit what many headers can add up to.
    var byteCount = 0

    static let attributePrefix = Array("SCHILY.xattr.".utf8)

    /// What is wrong with a header, as the end of a sentence.
    struct Problem: Error {
        var unsupported = false
        var text: String
    }

    var isEmpty: Bool { byteCount == 0 }

    /// Reads records into it, over what it has.
    mutating func read(_ bytes: UnsafeRawBufferPointer) throws(Problem) {
        byteCount += bytes.count
        var rest = bytes
        while !rest.isEmpty {
            // Some writers pad with NULs after the last record.
            if rest[rest.startIndex] == 0, rest.allSatisfy({ $0 == 0 }) { return }
            var length = 0
            var index = 0
            while index < rest.count, rest[index] != UInt8(ascii: " ") {
                let digit = rest[index] &- UInt8(ascii: "0")
                guard digit < 10, index < 9 else { throw Problem(text: "a pax record has no valid length") }
                length = length * 10 + Int(digit)
                index += 1
            }
            // Length, blank, at least one byte of keyword, "=" and a newline.
            guard index > 0, length <= rest.count, length >= index + 4, rest[length - 1] == UInt8(ascii: "\n") else {
                throw Problem(text: "a pax record of length \(length) does not end with a newline in its header")
            }
            let record = UnsafeRawBufferPointer(rebasing: rest[(index + 1)..<(length - 1)])
            guard let equals = record.firstIndex(of: UInt8(ascii: "=")), equals > 0 else {
                throw Problem(text: "a pax record has no keyword")
            }
            try take(
                UnsafeRawBufferPointer(rebasing: record[..<equals]),
                UnsafeRawBufferPointer(rebasing: record[(equals + 1)...]))
            rest = UnsafeRawBufferPointer(rebasing: rest[length...])
        }
    }

    private mutating func take(_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) throws(Problem) {
        if key.starts(with: Self.attributePrefix) {
            let name = [UInt8](key.dropFirst(Self.attributePrefix.count))
            guard !name.isEmpty, !name.contains(0) else {
                throw Problem(text: "an extended attribute has no valid name")
            }
            attributes.append(TarHeader.Attribute(name: name, value: [UInt8](value)))
            return
        }
        switch String(decoding: key, as: UTF8.self) {
        case "path": path = try text(value, "path")
        case "linkpath": linkPath = try text(value, "linkpath")
        case "uname": userName = try text(value, "uname")
        case "gname": groupName = try text(value, "gname")
        case "size": size = try number(value, "size")
        case "uid": userID = try number(value, "uid")
        case "gid": groupID = try number(value, "gid")
        case "SCHILY.devmajor": deviceMajor = try number(value, "SCHILY.devmajor")
        case "SCHILY.devminor": deviceMinor = try number(value, "SCHILY.devminor")
        case "mtime": modificationTime = try time(value, "mtime")
        case let name where name.hasPrefix("GNU.sparse."):
            var read = sparse ?? TarSparse()
            try read.take(name.dropFirst("GNU.sparse.".count), value)
            sparse = read
        default: break
        }
    }

    /// `nil` for an empty value: it deletes what a global header gave.
    private func text(_ value: UnsafeRawBufferPointer, _ key: String) throws(Problem) -> [UInt8]? {
        guard !value.contains(0) else { throw Problem(text: "the pax record '\(key)' has a NUL in it") }
        return value.isEmpty ? nil : [UInt8](value)
    }

    private func number(_ value: UnsafeRawBufferPointer, _ key: String) throws(Problem) -> Int64? {
        if value.isEmpty { return nil }
        guard value.count <= 20, let number = Int64(String(decoding: value, as: UTF8.self)), number >= 0 else {
            throw Problem(text: "the pax record '\(key)' is not a number from 0 to 2^63 - 1")
        }
        return number
    }

    /// Seconds with a fraction of any length, possibly negative; digits after the ninth are cut, as in Go's reader.
    private func time(_ value: UnsafeRawBufferPointer, _ key: String) throws(Problem) -> TarHeader.Time? {
        if value.isEmpty { return nil }
        let parts = value.split(separator: UInt8(ascii: "."), maxSplits: 1, omittingEmptySubsequences: false)
        let whole = String(decoding: parts[0], as: UTF8.self)
        guard parts[0].count <= 20, let seconds = Int64(whole), abs(Double(seconds)) < 1e15 else {
            throw Problem(text: "the pax record '\(key)' is not a time")
        }
        var nanoseconds: UInt32 = 0
        if parts.count == 2 {
            var scale: UInt32 = 100_000_000
            for byte in parts[1] {
                let digit = byte &- UInt8(ascii: "0")
                guard digit < 10 else { throw Problem(text: "the pax record '\(key)' is not a time") }
                nanoseconds += UInt32(digit) * scale
                scale /= 10
            }
        }
        // "-1.5" is half a second before -1: the fraction goes to the past, nanoseconds go to the future.
        if nanoseconds > 0, whole.hasPrefix("-") {
            return TarHeader.Time(seconds: seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds)
        }
        return TarHeader.Time(seconds: seconds, nanoseconds: nanoseconds)
    }
}
