import Glibc
import LaminaDigest

extension UnsafeRawBufferPointer {
    /// Whether these are the bytes of `text`.
    @inline(__always)
    func isEqual(to text: StaticString) -> Bool {
        count == text.utf8CodeUnitCount && begins(with: text)
    }

    /// Whether these are the bytes of `other`.
    @inline(__always)
    func isEqual(to other: UnsafeRawBufferPointer) -> Bool {
        guard count == other.count else { return false }
        guard let mine = baseAddress, let theirs = other.baseAddress else { return true }
        return memcmp(mine, theirs, count) == 0
    }

    /// Whether these bytes begin with `text`.
    @inline(__always)
    func begins(with text: StaticString) -> Bool {
        guard let baseAddress, count >= text.utf8CodeUnitCount else { return text.utf8CodeUnitCount == 0 }
        return memcmp(baseAddress, text.utf8Start, text.utf8CodeUnitCount) == 0
    }

    /// Whether `byte` is among these.
    @inline(__always)
    func holds(_ byte: UInt8) -> Bool {
        guard let baseAddress else { return false }
        return memchr(baseAddress, Int32(byte), count) != nil
    }

    /// The order of names in a directory: byte by byte, the shorter first.
    @inline(__always)
    func precedes(_ other: UnsafeRawBufferPointer) -> Bool {
        guard let mine = baseAddress, let theirs = other.baseAddress else { return count < other.count }
        let order = memcmp(mine, theirs, Swift.min(count, other.count))
        return order != 0 ? order < 0 : count < other.count
    }
}

/// What kind of digest a text is.
enum DigestText {
    case absent
    case digest(Digest)
    case otherAlgorithm
    case malformed

    /// Reads `sha256:` and 64 hex digits; an empty text is an absent digest. It makes no `String`, because a table of contents
    /// has two digests per file.
    init(_ text: UnsafeRawBufferPointer) {
        guard text.count == 71, text.begins(with: "sha256:") else {
            self = text.isEmpty ? .absent : text.holds(UInt8(ascii: ":")) ? .otherAlgorithm : .malformed
            if text.begins(with: "sha256:") { self = .malformed }
            return
        }
        let digest = withUnsafeTemporaryAllocation(byteCount: Digest.byteCount, alignment: 8) { target -> Digest? in
            var wrong: UInt8 = 0
            for index in 0..<Digest.byteCount {
                let high = Self.nibble(text[7 + 2 * index])
                let low = Self.nibble(text[8 + 2 * index])
                wrong |= high | low
                target[index] = high << 4 | low & 15
            }
            return wrong < 16 ? Digest(UnsafeRawBufferPointer(target)) : nil
        }
        self = digest.map { .digest($0) } ?? .malformed
    }

    /// The value of a hex digit; 0x80 for any other byte.
    @inline(__always)
    private static func nibble(_ character: UInt8) -> UInt8 {
        let digit = character &- UInt8(ascii: "0")
        if digit < 10 { return digit }
        let letter = (character | 0x20) &- UInt8(ascii: "a")
        return letter < 6 ? letter + 10 : 0x80
    }
}

/// Base64 (RFC 4648 §4): the standard alphabet, padded.
enum Base64 {
    /// Decodes `text` and appends its bytes to `output`; `false`, with nothing appended, if it is malformed.
    static func decode(_ text: UnsafeRawBufferPointer, to output: inout [UInt8]) -> Bool {
        guard text.count % 4 == 0 else { return false }
        let mark = output.count
        var padding = 0
        for group in stride(from: 0, to: text.count, by: 4) {
            var bits: UInt32 = 0
            for index in group..<group + 4 {
                let isPadding = text[index] == UInt8(ascii: "=") && index >= text.count - 2
                let sextet = isPadding ? 0 : value(text[index])
                // Padding is at the very end: only more padding may follow it.
                guard sextet < 64, isPadding || padding == 0 else {
                    output.removeLast(output.count - mark)
                    return false
                }
                if isPadding { padding += 1 }
                bits = bits << 6 | UInt32(sextet)
            }
            output.append(UInt8(truncatingIfNeeded: bits >> 16))
            output.append(UInt8(truncatingIfNeeded: bits >> 8))
            output.append(UInt8(truncatingIfNeeded: bits))
        }
        output.removeLast(padding)
        return true
    }

    private static func value(_ character: UInt8) -> UInt8 {
        switch character {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"): character - UInt8(ascii: "A")
        case UInt8(ascii: "a")...UInt8(ascii: "z"): character - UInt8(ascii: "a") + 26
        case UInt8(ascii: "0")...UInt8(ascii: "9"): character - UInt8(ascii: "0") + 52
        case UInt8(ascii: "+"): 62
        case UInt8(ascii: "/"): 63
        default: 255
        }
    }
}
