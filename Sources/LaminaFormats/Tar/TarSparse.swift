/// What an archive says about a sparse file: its real size, and which parts of it are stored, one after the other. The rest is
/// zeros.
///
/// GNU tar's manual, "Storing Sparse Files": the old format (type `S`) and the pax formats 0.0, 0.1 and 1.0. Go's
/// archive/tar, with which containerd unpacks, reads all of them.
struct TarSparse: Sendable, Equatable, Codable {
    /// Of the file; -1 until it is known.
    var size: Int64 = -1
    /// Offset and length of each stored part, in turn.
    var map: [Int64] = []
    var name: [UInt8]?
    var major: Int64?
    var minor: Int64?

    /// Whether the map is in front of the stored parts (format 1.0), not in the headers.
    var hasMapInPayload: Bool { major == 1 && minor == 0 }

    /// How many numbers the map may have: about as many as 1 MiB of old extension blocks.
    static let mapLimit = 86_000

    /// Takes a pax record; the key is without `GNU.sparse.`.
    mutating func take(_ key: Substring, _ value: UnsafeRawBufferPointer) throws(TarPAX.Problem) {
        switch key {
        case "major": major = try Self.number(value, key)
        case "minor": minor = try Self.number(value, key)
        case "name": name = value.isEmpty || value.contains(0) ? nil : [UInt8](value)
        case "size", "realsize": size = try Self.number(value, key)
        case "offset" where map.count % 2 == 0, "numbytes" where map.count % 2 == 1:
            try append(try Self.number(value, key))
        case "map":
            map = []
            for part in value.split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false) where !value.isEmpty
            {
                try append(try Self.number(UnsafeRawBufferPointer(rebasing: part), key))
            }
        case "numblocks": break
        default: throw TarPAX.Problem(text: "the pax record 'GNU.sparse.\(key)' stands where it makes no sense")
        }
    }

    mutating func append(_ number: Int64) throws(TarPAX.Problem) {
        guard map.count < Self.mapLimit else { throw TarPAX.Problem(text: "its map of holes is too long") }
        map.append(number)
    }

    private static func number(_ value: UnsafeRawBufferPointer, _ key: Substring) throws(TarPAX.Problem) -> Int64 {
        guard 1...19 ~= value.count, let number = Int64(String(decoding: value, as: UTF8.self)), number >= 0 else {
            throw TarPAX.Problem(text: "the pax record 'GNU.sparse.\(key)' is not a number")
        }
        return number
    }

    /// The bytes of the stored parts; nil if the map is not in order or leads out of the file.
    var storedSize: Int64? {
        guard map.count % 2 == 0, size >= 0 else { return nil }
        var end: Int64 = 0
        var stored: Int64 = 0
        for index in stride(from: 0, to: map.count, by: 2) {
            let (offset, length) = (map[index], map[index + 1])
            guard offset >= end, length >= 0, offset <= size, length <= size - offset else { return nil }
            end = offset + length
            stored += length
        }
        return stored
    }
}

extension TarSparse {
    /// The four parts of the old format, or the twenty-one of an extension block.
    mutating func readOld(_ block: UnsafeRawBufferPointer, at start: Int, count: Int) throws(TarPAX.Problem) {
        for index in 0..<count {
            let place = start + 24 * index
            // An unused entry is empty.
            guard block[place] != 0 else { return }
            guard let offset = TarField.number(place..<place + 12, of: block),
                let length = TarField.number(place + 12..<place + 24, of: block)
            else { throw TarPAX.Problem(text: "its map of holes is not numbers") }
            try append(offset)
            try append(length)
        }
    }

    static let oldMap = 386
    static let oldIsExtended = 482
    static let oldSize = 483..<495
    static let extensionIsExtended = 504
}

/// Reads the map of format 1.0: decimal numbers, each followed by a newline: the number of parts, then offset and length of
/// each; zeros up to a whole block.
struct TarSparseMapReader: Sendable, Codable, Equatable {
    private var number: Int64 = 0
    private var digits = 0
    /// How many numbers of the map are to come; -1 before the first.
    private var left: Int64 = -1

    /// Whether all of the map has come.
    var isDone: Bool { left == 0 }

    mutating func take(_ byte: UInt8, into sparse: inout TarSparse) throws(TarPAX.Problem) {
        if byte == UInt8(ascii: "\n"), digits > 0 {
            if left < 0 {
                guard number <= Int64(TarSparse.mapLimit / 2) else {
                    throw TarPAX.Problem(text: "its map of holes is too long")
                }
                left = 2 * number
            } else {
                try sparse.append(number)
                left -= 1
            }
            (number, digits) = (0, 0)
            return
        }
        let digit = byte &- UInt8(ascii: "0")
        guard digit < 10, digits < 18 else { throw TarPAX.Problem(text: "its map of holes is not numbers") }
        number = number * 10 + Int64(digit)
        digits += 1
    }
}
