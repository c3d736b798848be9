/// tar-split says how to put a layer's tar together again from its files: the bytes between them, and which file's bytes come
/// where (https://github.com/vbatts/tar-split/blob/main/tar/storage/entry.go). JSON objects, one a line.
public enum TarSplit {
    /// What comes next in the tar.
    public enum Item {
        /// Headers and padding; valid during the call.
        case bytes(UnsafeRawBufferPointer)
        /// The bytes of a file, by the name in its header. Empty files come too.
        case file(name: [UInt8], size: Int64)
    }

    /// The bytes of one line: the longest has the headers and padding between two files, in base64.
    static let lineLimit = 64 << 20
    /// The bytes of all lines: half a gigabyte of headers is a million files.
    static let totalLimit = 2 << 30

    /// Reads a tar-split, compressed by gzip or zstd or not at all, and calls `body` with its items in order.
    ///
    /// Memory: the longest line, twice. Throws ``FormatError``, and what `body` throws.
    public static func read(_ compressed: UnsafeRawBufferPointer, _ body: (Item) throws -> Void) throws {
        let stream = try StreamDecompressor(StreamDecompressor.detect(compressed))
        var line: [UInt8] = []
        var total = 0
        try stream.push(compressed) { piece in
            total += piece.count
            guard total <= totalLimit else {
                throw FormatError(.tooLarge, "the tar-split is over its limit", expected: "at most \(totalLimit) bytes")
            }
            var rest = piece
            while let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
                let part = UnsafeRawBufferPointer(rebasing: rest[..<end])
                if line.isEmpty {
                    try item(part, body)
                } else {
                    line += part
                    try line.withUnsafeBytes { try item($0, body) }
                    line.removeAll(keepingCapacity: true)
                }
                rest = UnsafeRawBufferPointer(rebasing: rest[(end + 1)...])
            }
            line += rest
            guard line.count <= lineLimit else {
                throw FormatError(
                    .tooLarge, "a line of the tar-split is over its limit", expected: "at most \(lineLimit) bytes")
            }
        }
        try stream.finish()
        if !line.isEmpty { try line.withUnsafeBytes { try item($0, body) } }
    }

    private enum Key { case type, name, rawName, size, payload, other }

    private static func item(_ line: UnsafeRawBufferPointer, _ body: (Item) throws -> Void) throws {
        if line.allSatisfy({ $0 == 0x20 || $0 == 0x0d }) { return }
        var reader = try JSONReader(line)
        var type: Int64 = 0
        var name: [UInt8] = []
        var size: Int64 = 0
        var payload: [UInt8] = []
        try reader.object { (reader, key) throws(FormatError) in
            let key = try reader.withBytes(key) { (bytes) throws(FormatError) -> Key in
                if bytes.isEqual(to: "type") { return .type }
                if bytes.isEqual(to: "name") { return .name }
                if bytes.isEqual(to: "name_raw") { return .rawName }
                if bytes.isEqual(to: "size") { return .size }
                return bytes.isEqual(to: "payload") ? .payload : .other
            }
            if key != .other, try reader.takeNull() { return }
            switch key {
            case .type: type = try reader.integer()
            case .size: size = try reader.integer()
            case .name:
                let slice = try reader.string()
                // The raw name comes first: it is there if the other one cannot express the name.
                if name.isEmpty { name = try reader.withBytes(slice) { (bytes) throws(FormatError) in Array(bytes) } }
            case .rawName: name = try base64(try reader.string(), reader)
            case .payload: payload = try base64(try reader.string(), reader)
            case .other: try reader.skipValue()
            }
        }
        try reader.expectEnd()
        switch type {
        case 1:
            guard size >= 0 else { throw FormatError(.badEntry, "a file of the tar-split has a negative size") }
            // Its payload is a CRC-64, which proves nothing.
            try body(.file(name: name, size: size))
        case 2: try payload.withUnsafeBytes { try body(.bytes($0)) }
        default:
            throw FormatError(.unsupported, "the tar-split has an entry of an unknown type", actual: "\(type)")
        }
    }

    private static func base64(_ slice: JSONReader.Slice, _ reader: JSONReader) throws(FormatError) -> [UInt8] {
        var output: [UInt8] = []
        let isBase64 = try reader.withBytes(slice) { (text) throws(FormatError) in
            output.reserveCapacity(text.count / 4 * 3)
            return Base64.decode(text, to: &output)
        }
        guard isBase64 else { throw FormatError(.badEntry, "a payload of the tar-split is no base64") }
        return output
    }
}
