import Glibc

/// Bytes that look random and are the same each time.
public func noise(_ count: Int, seed: UInt64) -> [UInt8] {
    var state = seed &* 0x9E37_79B9_7F4A_7C15 | 1
    return [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
        for index in 0..<count {
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            buffer[index] = UInt8(truncatingIfNeeded: state >> 32)
        }
        filled = count
    }
}

/// Does something again for a moment while another one is in the way; throws what the last try throws.
public func retried<Result>(
    while isMomentary: (any Error) -> Bool, _ body: () throws -> Result
) throws -> Result {
    for _ in 0..<200 {
        do {
            return try body()
        } catch  where isMomentary(error) {
            usleep(10_000)
        }
    }
    return try body()
}

/// Waits until something is true; returns whether it became true.
public func eventually(seconds: Double = 30, _ condition: () throws -> Bool) rethrows -> Bool {
    for _ in 0..<Int(seconds * 200) {
        if try condition() { return true }
        usleep(5000)
    }
    return try condition()
}
