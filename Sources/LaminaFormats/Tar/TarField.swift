/// The fields of a header block: where they are, and how numbers and names are written in them.
///
/// POSIX.1-2017 pax, "ustar Interchange Format"; base-256 numbers are GNU's and star's extension.
enum TarField {
    static let name = 0..<100
    static let mode = 100..<108
    static let userID = 108..<116
    static let groupID = 116..<124
    static let size = 124..<136
    static let modificationTime = 136..<148
    static let checksum = 148..<156
    static let type = 156
    static let linkName = 157..<257
    static let magic = 257..<265
    static let userName = 265..<297
    static let groupName = 297..<329
    static let deviceMajor = 329..<337
    static let deviceMinor = 337..<345
    static let prefix = 345..<500
    /// star's archives have a shorter prefix and end the block in `tar\0`.
    static let starPrefix = 345..<476
    static let starTrailer = 508..<512

    /// The bytes up to the first NUL.
    static func text(_ field: Range<Int>, of block: UnsafeRawBufferPointer) -> [UInt8] {
        let bytes = block[field]
        return [UInt8](bytes.prefix { $0 != 0 })
    }

    /// An octal number between blanks and NULs, or a base-256 number (two's complement, first bit set); an empty field is 0.
    /// `nil` if it is neither or does not fit.
    static func number(_ field: Range<Int>, of block: UnsafeRawBufferPointer) -> Int64? {
        let bytes = block[field]
        guard let first = bytes.first else { return nil }
        if first & 0x80 != 0 {
            // 0x80 marks a positive, 0xff a negative number; bit 6 of the first byte is its sign.
            var value: Int64 = first & 0x40 != 0 ? -1 : 0
            for (index, byte) in bytes.enumerated() {
                let part = index == 0 ? (first & 0x40 != 0 ? byte : byte & 0x7f) : byte
                let (high, overflow) = value.multipliedReportingOverflow(by: 256)
                guard !overflow else { return nil }
                value = high | Int64(part)
            }
            return value
        }
        var value: Int64 = 0
        var state = 0
        for byte in bytes {
            switch (byte, state) {
            case (UInt8(ascii: " "), 0): continue
            case (UInt8(ascii: "0")...UInt8(ascii: "7"), 0...1):
                state = 1
                // At most 12 digits of 3 bits: 36 bits.
                value = value << 3 | Int64(byte & 7)
            case (0, _), (UInt8(ascii: " "), _): state = 2
            default: return nil
            }
        }
        return value
    }

    /// The sum of the block's bytes, with blanks in place of the checksum's own field: once with unsigned bytes, and once with
    /// signed bytes as some old writers did.
    static func checksums(_ block: UnsafeRawBufferPointer) -> (unsigned: Int64, signed: Int64) {
        var unsigned = 0
        var negative = 0
        for byte in block {
            unsigned &+= Int(byte)
            negative &+= Int(byte >> 7)
        }
        for byte in block[checksum] {
            unsigned &+= 32 - Int(byte)
            negative &-= Int(byte >> 7)
        }
        return (Int64(unsigned), Int64(unsigned - 256 * negative))
    }

    /// Writes `value` as zero-padded octal digits and a NUL; false if it does not fit.
    static func write(_ value: Int64, to field: Range<Int>, of block: inout [UInt8]) -> Bool {
        let digits = field.count - 1
        guard value >= 0, value >> (3 * Int64(digits)) == 0 else { return false }
        var rest = value
        for index in (0..<digits).reversed() {
            block[field.lowerBound + index] = UInt8(ascii: "0") + UInt8(rest & 7)
            rest >>= 3
        }
        return true
    }
}
