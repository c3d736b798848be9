import CCrypto

/// A SHA-256 in progress, by libcrypto (which uses the CPU's SHA instructions: about 1.6 GB/s a core here).
///
/// It is a plain value: copying it copies the unfinished hash.
public struct SHA256: Sendable {
    private var state = lamina_sha256()

    public init() { lamina_sha256_init(&state) }

    /// Hashes `bytes` after what was hashed before.
    public mutating func update(_ bytes: UnsafeRawBufferPointer) {
        lamina_sha256_update(&state, bytes.baseAddress, bytes.count)
    }

    /// Hashes `bytes` after what was hashed before.
    public mutating func update(_ bytes: [UInt8]) {
        bytes.withUnsafeBytes { update($0) }
    }

    /// The digest of everything hashed so far; the hash can go on.
    public func digest() -> Digest {
        var copy = state
        var bytes: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
        return withUnsafeMutableBytes(of: &bytes) { target in
            target.withMemoryRebound(to: UInt8.self) { lamina_sha256_final(&copy, $0.baseAddress) }
            // 32 bytes by construction: the initializer fails only for another count.
            guard let digest = Digest(UnsafeRawBufferPointer(target)) else { fatalError("SHA-256 is 32 bytes") }
            return digest
        }
    }

    /// The unfinished hash as bytes that another process can go on from: a version, then the eight words, the length in bits
    /// and the bytes that wait for a whole block, little-endian.
    public var midstate: [UInt8] {
        var bytes: [UInt8] = [Self.midstateVersion]
        withUnsafeBytes(of: state.h) { bytes += $0 }
        withUnsafeBytes(of: state.length_bits.littleEndian) { bytes += $0 }
        bytes.append(UInt8(truncatingIfNeeded: state.used))
        withUnsafeBytes(of: state.block) { bytes += $0.prefix(Int(state.used)) }
        return bytes
    }

    /// Goes on from a ``midstate``; nil for bytes that are not one of this version.
    public init?(midstate bytes: [UInt8]) {
        guard bytes.count >= 42, bytes[0] == Self.midstateVersion, bytes[41] < 64, bytes.count == 42 + Int(bytes[41])
        else { return nil }
        var length: UInt64 = 0
        withUnsafeMutableBytes(of: &state.h) { $0.copyBytes(from: bytes[1..<33]) }
        withUnsafeMutableBytes(of: &length) { $0.copyBytes(from: bytes[33..<41]) }
        guard UInt64(littleEndian: length) / 8 % 64 == UInt64(bytes[41]) else { return nil }
        state.length_bits = UInt64(littleEndian: length)
        state.used = UInt32(bytes[41])
        withUnsafeMutableBytes(of: &state.block) { $0.copyBytes(from: bytes[42...]) }
    }

    // The words are as they are in memory: a midstate never leaves the machine whose index has it.
    private static let midstateVersion: UInt8 = 1

    /// The digest of `bytes`.
    public static func hash(_ bytes: UnsafeRawBufferPointer) -> Digest {
        var hash = SHA256()
        hash.update(bytes)
        return hash.digest()
    }

    /// The digest of `bytes`.
    public static func hash(_ bytes: [UInt8]) -> Digest {
        bytes.withUnsafeBytes { hash($0) }
    }
}

/// As its ``SHA256/midstate``.
extension SHA256: Codable {
    public init(from decoder: any Decoder) throws {
        let bytes = try decoder.singleValueContainer().decode([UInt8].self)
        guard let hash = SHA256(midstate: bytes) else {
            throw DecodingError.dataCorrupted(
                .init(codingPath: decoder.codingPath, debugDescription: "no midstate of SHA-256"))
        }
        self = hash
    }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(midstate)
    }
}
