/// A pull reader of JSON (RFC 8259) over bytes in memory, for a table of contents: tens of megabytes of small objects, read
/// once, that may come from an attacker. It allocates only a scratch area for strings with escapes.
///
/// It is more lenient than the RFC in one thing: bytes of a string that are not UTF-8 pass unchanged, because names of files
/// are bytes. A lone surrogate (`\ud800`) becomes U+FFFD, as with Go's reader.
struct JSONReader {
    /// A string's bytes: within the JSON, or, if it had escapes, in the scratch area, until ``clearScratch()``.
    struct Slice {
        var start: Int
        var count: Int
        var isInScratch: Bool

        static let empty = Slice(start: 0, count: 0, isInScratch: false)
    }

    /// How deep skipped values may nest.
    static let maximumDepth = 64

    private let bytes: UnsafeRawBufferPointer
    private let base: UnsafeRawPointer
    private let end: Int
    private(set) var position = 0
    private var scratch: [UInt8] = []

    /// The caller keeps `bytes` alive as long as the reader; they are not empty.
    init(_ bytes: UnsafeRawBufferPointer) throws(FormatError) {
        guard let base = bytes.baseAddress, !bytes.isEmpty else {
            throw FormatError(.badTOC, "the table of contents is empty", offset: 0)
        }
        self.bytes = bytes
        self.base = base
        end = bytes.count
    }

    mutating func clearScratch() { scratch.removeAll(keepingCapacity: true) }

    /// Calls `body` with the bytes of `slice`.
    @inline(__always)
    func withBytes<Result>(
        _ slice: Slice, _ body: (UnsafeRawBufferPointer) throws(FormatError) -> Result
    ) throws(FormatError) -> Result {
        guard slice.isInScratch else {
            return try body(UnsafeRawBufferPointer(start: base + slice.start, count: slice.count))
        }
        return try scratch.withUnsafeBufferPointer { (all) throws(FormatError) in
            try body(
                UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(all)[slice.start..<slice.start + slice.count]))
        }
    }

    func error(_ message: String, at offset: Int? = nil) -> FormatError {
        FormatError(.badTOC, message, offset: Int64(offset ?? position))
    }
}

extension JSONReader {
    /// The next byte that is not white space; only the white space is consumed.
    @inline(__always)
    mutating func peek() throws(FormatError) -> UInt8 {
        while position < end {
            let byte = base.load(fromByteOffset: position, as: UInt8.self)
            // Blank, tab, line feed, carriage return: every other byte is above 32 or wrong.
            guard byte == 0x20 || byte == 0x0a || byte == 0x09 || byte == 0x0d else { return byte }
            position += 1
        }
        throw error("the JSON is cut off")
    }

    /// Consumes `expected`, after white space.
    @inline(__always)
    mutating func expect(_ expected: Unicode.Scalar) throws(FormatError) {
        let byte = try peek()
        guard byte == UInt8(ascii: expected) else { throw unexpected(byte, "'\(expected)'") }
        position += 1
    }

    /// Consumes `wanted` if it comes next.
    @inline(__always)
    mutating func take(_ wanted: Unicode.Scalar) throws(FormatError) -> Bool {
        guard try peek() == UInt8(ascii: wanted) else { return false }
        position += 1
        return true
    }

    /// Consumes `null` if it comes next: Go's writer writes it for nil, and its reader takes it for an absent value.
    @inline(__always)
    mutating func takeNull() throws(FormatError) -> Bool {
        guard try peek() == UInt8(ascii: "n") else { return false }
        try literal("null")
        return true
    }

    /// Checks that only white space follows.
    mutating func expectEnd() throws(FormatError) {
        while position < end {
            let byte = base.load(fromByteOffset: position, as: UInt8.self)
            guard byte == 0x20 || byte == 0x0a || byte == 0x09 || byte == 0x0d else {
                throw error("something follows the JSON")
            }
            position += 1
        }
    }

    /// Reads an object: `member` is called after each key's colon and reads the value.
    @inline(__always)
    mutating func object(
        _ member: (inout JSONReader, Slice) throws(FormatError) -> Void
    ) throws(FormatError) {
        try expect("{")
        if try take("}") { return }
        repeat {
            let key = try string()
            try expect(":")
            try member(&self, key)
        } while try take(",")
        try expect("}")
    }

    /// Reads an array: `element` is called at the start of each element and reads it.
    @inline(__always)
    mutating func array(_ element: (inout JSONReader) throws(FormatError) -> Void) throws(FormatError) {
        try expect("[")
        if try take("]") { return }
        repeat { try element(&self) } while try take(",")
        try expect("]")
    }

    /// Reads an integer. Fractions, exponents and numbers over 64 bits are errors, as in Go.
    @inline(__always)
    mutating func integer() throws(FormatError) -> Int64 {
        var byte = try peek()
        let start = position
        let isNegative = byte == UInt8(ascii: "-")
        if isNegative { position += 1 }
        // Counted downwards, because the range of negative numbers is larger.
        var value: Int64 = 0
        var digits = 0
        while position < end {
            byte = base.load(fromByteOffset: position, as: UInt8.self)
            guard byte &- UInt8(ascii: "0") <= 9 else { break }
            let (scaled, overflow1) = value.multipliedReportingOverflow(by: 10)
            let (next, overflow2) = scaled.subtractingReportingOverflow(Int64(byte &- UInt8(ascii: "0")))
            guard !overflow1, !overflow2 else { throw error("a number does not fit 64 bits", at: start) }
            value = next
            digits += 1
            position += 1
        }
        let isPlain = byte != UInt8(ascii: ".") && byte | 0x20 != UInt8(ascii: "e")
        guard digits > 0, isPlain || position == end else { throw error("an integer is expected here", at: start) }
        guard digits == 1 || base.load(fromByteOffset: position - digits, as: UInt8.self) != UInt8(ascii: "0") else {
            throw error("a number begins with a zero", at: start)
        }
        if isNegative { return value }
        guard value != .min else { throw error("a number does not fit 64 bits", at: start) }
        return -value
    }

    private mutating func literal(_ text: StaticString) throws(FormatError) {
        let count = text.utf8CodeUnitCount
        guard end - position >= count,
            UnsafeRawBufferPointer(start: base + position, count: count).elementsEqual(
                UnsafeRawBufferPointer(start: text.utf8Start, count: count))
        else { throw error("'\(text)' is expected here") }
        position += count
    }

    private func unexpected(_ byte: UInt8, _ expected: String) -> FormatError {
        var error = error("the JSON is malformed")
        error.expected = expected
        error.actual = byte < 0x7f && byte > 0x20 ? "'\(Character(Unicode.Scalar(byte)))'" : "byte \(byte)"
        return error
    }
}

extension JSONReader {
    /// Consumes any value; `depth` bounds nesting.
    mutating func skipValue(depth: Int = 0) throws(FormatError) {
        guard depth < Self.maximumDepth else { throw error("values are nested too deep") }
        switch try peek() {
        case UInt8(ascii: "{"):
            try object { (reader, _) throws(FormatError) in try reader.skipValue(depth: depth + 1) }
        case UInt8(ascii: "["):
            try array { (reader) throws(FormatError) in try reader.skipValue(depth: depth + 1) }
        case UInt8(ascii: "\""):
            let mark = scratch.count
            _ = try string()
            scratch.removeLast(scratch.count - mark)
        case UInt8(ascii: "t"): try literal("true")
        case UInt8(ascii: "f"): try literal("false")
        case UInt8(ascii: "n"): try literal("null")
        case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): try skipNumber()
        case let byte: throw unexpected(byte, "a value")
        }
    }

    /// RFC 8259 §6: `-? int frac? exp?`.
    private mutating func skipNumber() throws(FormatError) {
        let start = position
        if byteHere == UInt8(ascii: "-") { position += 1 }
        var isValid = byteHere == UInt8(ascii: "0")
        if isValid { position += 1 } else { isValid = skipDigits() }
        if byteHere == UInt8(ascii: ".") {
            position += 1
            isValid = skipDigits() && isValid
        }
        if let byte = byteHere, byte | 0x20 == UInt8(ascii: "e") {
            position += 1
            if byteHere == UInt8(ascii: "+") || byteHere == UInt8(ascii: "-") { position += 1 }
            isValid = skipDigits() && isValid
        }
        guard isValid else { throw error("a number is malformed", at: start) }
    }

    private var byteHere: UInt8? { position < end ? base.load(fromByteOffset: position, as: UInt8.self) : nil }

    private mutating func skipDigits() -> Bool {
        let start = position
        while let byte = byteHere, byte &- UInt8(ascii: "0") <= 9 { position += 1 }
        return position > start
    }
}

extension JSONReader {
    /// Reads a string. One without escapes is not copied.
    @inline(__always)
    mutating func string() throws(FormatError) -> Slice {
        try expect("\"")
        let start = position
        let stop = plainEnd(from: start)
        guard stop < end else { throw error("a string is cut off", at: start) }
        guard base.load(fromByteOffset: stop, as: UInt8.self) == UInt8(ascii: "\"") else {
            return try escapedString(from: start, plainUntil: stop)
        }
        position = stop + 1
        return Slice(start: start, count: stop - start, isInScratch: false)
    }

    /// The first quote, backslash or control character at or behind `start`; the end if there is none.
    ///
    /// It looks at eight bytes at a time: a high bit in `found` marks such a byte. The borrow of a subtraction can mark bytes
    /// above the first one, never below, so the lowest mark is right.
    @inline(__always)
    private func plainEnd(from start: Int) -> Int {
        let ones: UInt64 = 0x0101_0101_0101_0101
        var index = start
        while end - index >= 8 {
            let word = UInt64(littleEndian: base.loadUnaligned(fromByteOffset: index, as: UInt64.self))
            let quote = word ^ (ones &* 0x22)
            let backslash = word ^ (ones &* 0x5c)
            let found =
                ((quote &- ones) & ~quote | (backslash &- ones) & ~backslash | (word &- ones &* 0x20) & ~word)
                & (ones &* 0x80)
            if found != 0 { return index + found.trailingZeroBitCount >> 3 }
            index += 8
        }
        while index < end {
            let byte = base.load(fromByteOffset: index, as: UInt8.self)
            if byte == 0x22 || byte == 0x5c || byte < 0x20 { return index }
            index += 1
        }
        return end
    }

    private mutating func escapedString(from start: Int, plainUntil first: Int) throws(FormatError) -> Slice {
        let mark = scratch.count
        var plainStart = start
        var stop = first
        while true {
            guard stop < end else { throw error("a string is cut off", at: start) }
            scratch.append(contentsOf: bytes[plainStart..<stop])
            let byte = base.load(fromByteOffset: stop, as: UInt8.self)
            if byte == UInt8(ascii: "\"") { break }
            guard byte == UInt8(ascii: "\\") else { throw error("a control character stands in a string", at: stop) }
            position = stop + 1
            try escape()
            plainStart = position
            stop = plainEnd(from: position)
        }
        position = stop + 1
        return Slice(start: mark, count: scratch.count - mark, isInScratch: true)
    }

    /// Decodes one escape, after its backslash, into the scratch area.
    private mutating func escape() throws(FormatError) {
        guard let byte = byteHere else { throw error("a string is cut off") }
        position += 1
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): scratch.append(byte)
        case UInt8(ascii: "b"): scratch.append(0x08)
        case UInt8(ascii: "f"): scratch.append(0x0c)
        case UInt8(ascii: "n"): scratch.append(0x0a)
        case UInt8(ascii: "r"): scratch.append(0x0d)
        case UInt8(ascii: "t"): scratch.append(0x09)
        case UInt8(ascii: "u"): try unicodeEscape()
        default: throw error("an escape is unknown", at: position - 1)
        }
    }

    /// `XXXX`, and for a high surrogate also the `\uXXXX` of the low one that must follow (RFC 8259 §7).
    private mutating func unicodeEscape() throws(FormatError) {
        var value = UInt32(try hexUnit())
        if 0xd800..<0xdc00 ~= value, end - position >= 6, base.load(fromByteOffset: position, as: UInt8.self) == 0x5c,
            base.load(fromByteOffset: position + 1, as: UInt8.self) == UInt8(ascii: "u")
        {
            let mark = position
            position += 2
            let low = UInt32(try hexUnit())
            if 0xdc00..<0xe000 ~= low {
                value = 0x10000 + (value - 0xd800) << 10 + (low - 0xdc00)
            } else {
                // It is not the low surrogate: it is read again, as an escape of its own.
                position = mark
            }
        }
        let scalar = Unicode.Scalar(value) ?? "\u{FFFD}"
        scratch.append(contentsOf: UTF8.encode(scalar).unsafelyUnwrapped)
    }

    private mutating func hexUnit() throws(FormatError) -> UInt16 {
        var value: UInt16 = 0
        for _ in 0..<4 {
            guard let byte = byteHere, let digit = hexDigit(byte) else {
                throw error("an escape has fewer than four hex digits")
            }
            value = value << 4 | UInt16(digit)
            position += 1
        }
        return value
    }
}
