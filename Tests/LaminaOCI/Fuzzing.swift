/// Random numbers that are the same in every run (SplitMix64).
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var value = state
        value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
        return value ^ (value >> 31)
    }
}

/// A copy with up to four changes: bytes replaced, removed, doubled, cut off, or swapped for what parsers have trouble with.
func mutated(_ bytes: [UInt8], _ random: inout SeededGenerator) -> [UInt8] {
    let tokens = [
        "\"", "{", "}", "[", "]", "-1", "9223372036854775807", "9223372036854775808", "null", "\\u0000", ":", "/", "@",
        "e9",
    ]
    var bytes = bytes
    for _ in 0..<Int.random(in: 1...4, using: &random) where !bytes.isEmpty {
        let place = Int.random(in: 0..<bytes.count, using: &random)
        switch Int.random(in: 0..<6, using: &random) {
        case 0: bytes[place] = UInt8.random(in: 0...255, using: &random)
        case 1: bytes[place] ^= 1 << UInt8.random(in: 0..<8, using: &random)
        case 2: bytes.remove(at: place)
        case 3: bytes.insert(contentsOf: bytes[place..<min(bytes.count, place + 20)], at: place)
        case 4: bytes.removeLast(min(bytes.count, Int.random(in: 1...8, using: &random)))
        default:
            let token = tokens.randomElement(using: &random) ?? ""
            let end = min(bytes.count, place + Int.random(in: 0...8, using: &random))
            bytes.replaceSubrange(place..<end, with: Array(token.utf8))
        }
    }
    return bytes
}
