/// What the bytes before a gzip member's deflate data are (RFC 1952 §2.3).
enum GzipHeader {
    /// The most bytes that a header may have: the extra field has up to 64 KiB, the name and the comment have no limit of their
    /// own.
    static let limit = 256 << 10

    enum Parsed {
        /// The header has this many bytes.
        case complete(Int)
        /// More bytes are needed to decide.
        case incomplete
        /// These bytes do not begin a member.
        case foreign
        /// They begin a member that cannot be read.
        case corrupt(String)
    }

    /// Reads a header at the front of `bytes`. The header's own CRC is not used: the blob has a digest.
    static func parse(_ bytes: UnsafeRawBufferPointer) -> Parsed {
        for (index, byte) in [0x1f, 0x8b].enumerated() {
            guard index < bytes.count else { return .incomplete }
            guard bytes[index] == byte else { return .foreign }
        }
        guard bytes.count >= 10 else { return .incomplete }
        guard bytes[2] == 8 else { return .corrupt("its compression method is \(bytes[2])") }
        let flags = bytes[3]
        guard flags & 0xe0 == 0 else { return .corrupt("its header has unknown flags") }
        var length = 10
        if flags & 4 != 0 {
            guard bytes.count >= length + 2 else { return .incomplete }
            length += 2 + (Int(bytes[length]) | Int(bytes[length + 1]) << 8)
        }
        // Name and comment, each up to a NUL.
        for flag: UInt8 in [8, 16] where flags & flag != 0 {
            guard length <= bytes.count, let end = bytes[length...].firstIndex(of: 0) else {
                return bytes.count > limit ? .corrupt("its header is longer than \(limit) bytes") : .incomplete
            }
            length = end + 1
        }
        if flags & 2 != 0 { length += 2 }
        return length <= bytes.count ? .complete(length) : .incomplete
    }
}
