/// CRC-32C (Castagnoli, RFC 3720 appendix B.4) as the kernel's `crc32c(seed, …)` computes it: neither seed nor result is inverted.
func crc32c(_ bytes: some Sequence<UInt8>, seed: UInt32) -> UInt32 {
    bytes.reduce(seed) { crc, byte in
        (0..<8).reduce(crc ^ UInt32(byte)) { crc, _ in crc & 1 == 1 ? crc >> 1 ^ 0x82F6_3B78 : crc >> 1 }
    }
}

/// xxHash, 32 bits (https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md): the hash of EROFS's filter of attribute
/// names.
func xxh32(_ bytes: [UInt8], seed: UInt32) -> UInt32 {
    let prime1: UInt32 = 0x9E37_79B1
    let prime2: UInt32 = 0x85EB_CA77
    let prime3: UInt32 = 0xC2B2_AE3D
    let prime4: UInt32 = 0x27D4_EB2F
    let prime5: UInt32 = 0x1656_67B1
    func word(_ at: Int) -> UInt32 {
        (0..<4).reduce(0) { $0 | UInt32(bytes[at + $1]) << (8 * UInt32($1)) }
    }
    func rotated(_ value: UInt32, _ by: UInt32) -> UInt32 { value << by | value >> (32 - by) }
    var at = 0
    var hash: UInt32
    if bytes.count >= 16 {
        var lanes = [seed &+ prime1 &+ prime2, seed &+ prime2, seed, seed &- prime1]
        while at + 16 <= bytes.count {
            for lane in 0..<4 {
                lanes[lane] = rotated(lanes[lane] &+ word(at) &* prime2, 13) &* prime1
                at += 4
            }
        }
        hash = rotated(lanes[0], 1) &+ rotated(lanes[1], 7) &+ rotated(lanes[2], 12) &+ rotated(lanes[3], 18)
    } else {
        hash = seed &+ prime5
    }
    hash = hash &+ UInt32(truncatingIfNeeded: bytes.count)
    while at + 4 <= bytes.count {
        hash = rotated(hash &+ word(at) &* prime3, 17) &* prime4
        at += 4
    }
    while at < bytes.count {
        hash = rotated(hash &+ UInt32(bytes[at]) &* prime5, 11) &* prime1
        at += 1
    }
    hash = (hash ^ hash >> 15) &* prime2
    hash = (hash ^ hash >> 13) &* prime3
    return hash ^ hash >> 16
}
