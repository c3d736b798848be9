/// A SHA-256 digest: 32 bytes, by value.
///
/// Text form is OCI's `sha256:` and 64 lower-case hex digits
/// (https://github.com/opencontainers/image-spec/blob/main/descriptor.md#digests). lamina handles no other algorithm, because
/// every format that it reads names its bytes by SHA-256.
public struct Digest: Hashable, Sendable {
    // Four words instead of an array: no allocation, compared and hashed in registers.
    private var words: (UInt64, UInt64, UInt64, UInt64)

    /// The number of bytes of a digest.
    public static let byteCount = 32

    /// Takes the 32 bytes of a digest; `nil` if `bytes` is not 32 bytes long.
    public init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count == Self.byteCount else { return nil }
        words = (0, 0, 0, 0)
        withUnsafeMutableBytes(of: &words) { $0.copyMemory(from: bytes) }
    }

    /// Takes a collection of 32 bytes; `nil` for any other count.
    public init?(_ bytes: some Collection<UInt8>) {
        guard bytes.count == Self.byteCount else { return nil }
        words = (0, 0, 0, 0)
        withUnsafeMutableBytes(of: &words) { $0.copyBytes(from: bytes) }
    }

    /// Parses 64 hex digits, upper or lower case, without a prefix; `nil` for anything else.
    public init?(hex: some StringProtocol) {
        words = (0, 0, 0, 0)
        var iterator = hex.utf8.makeIterator()
        let complete = withUnsafeMutableBytes(of: &words) { target -> Bool in
            for index in 0..<Self.byteCount {
                guard let high = iterator.next().flatMap(Self.nibble), let low = iterator.next().flatMap(Self.nibble)
                else { return false }
                target[index] = high << 4 | low
            }
            return iterator.next() == nil
        }
        guard complete else { return nil }
    }

    /// Parses `sha256:` and 64 hex digits; `nil` for anything else, also for other algorithms.
    public init?(parsing text: some StringProtocol) {
        guard text.hasPrefix("sha256:") else { return nil }
        self.init(hex: text.dropFirst(7))
    }

    /// 64 lower-case hex digits.
    public var hex: String {
        let digits: StaticString = "0123456789abcdef"
        return String(unsafeUninitializedCapacity: 64) { target in
            withUnsafeBytes { bytes in
                for (index, byte) in bytes.enumerated() {
                    target[2 * index] = digits.utf8Start[Int(byte >> 4)]
                    target[2 * index + 1] = digits.utf8Start[Int(byte & 15)]
                }
            }
            return 64
        }
    }

    /// The 32 bytes, for the duration of the call.
    public func withUnsafeBytes<Result, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        var copy = words
        return try Swift.withUnsafeBytes(of: &copy) { (bytes) throws(Failure) in try body(bytes) }
    }

    public static func == (left: Digest, right: Digest) -> Bool { left.words == right.words }

    public func hash(into hasher: inout Hasher) {
        // All words: a digest in a TOC is a claim, and its author can make any number of digests agree in one word.
        hasher.combine(words.0)
        hasher.combine(words.1)
        hasher.combine(words.2)
        hasher.combine(words.3)
    }

    private static func nibble(_ character: UInt8) -> UInt8? {
        switch character {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): character - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): character - UInt8(ascii: "a") + 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): character - UInt8(ascii: "A") + 10
        default: nil
        }
    }
}

extension Digest: CustomStringConvertible {
    /// `sha256:` and 64 hex digits.
    public var description: String { "sha256:" + hex }
}

extension Digest: Codable {
    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        let text = try container.decode(String.self)
        guard let digest = Digest(parsing: text) else {
            throw DecodingError.dataCorruptedError(
                in: container, debugDescription: "'\(text.prefix(100))' is not a sha256 digest")
        }
        self = digest
    }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(description)
    }
}
