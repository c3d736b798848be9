import Foundation

/// Bytes from a seed, with a chosen compressibility: the same on every machine.
struct Generator {
    private var state: UInt64

    init(seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 | 1 }

    /// xorshift64*.
    mutating func next() -> UInt64 {
        state ^= state >> 12
        state ^= state << 25
        state ^= state >> 27
        return state &* 0x2545_F491_4F6C_DD1D
    }

    mutating func next(below bound: Int) -> Int { Int((next() >> 33) % UInt64(bound)) }

    /// Like a program: unpredictable runs of bytes, and copies from the last 32 KiB. gzip -6 makes about 1.4:1 of it.
    mutating func fillBinary(_ bytes: UnsafeMutableRawBufferPointer) {
        var at = 0
        while at < bytes.count {
            let fresh = min(16 + next(below: 48), bytes.count - at)
            var filled = 0
            while filled < fresh {
                var word = next()
                let part = min(8, fresh - filled)
                withUnsafeBytes(of: &word) {
                    (bytes.baseAddress! + at + filled).copyMemory(from: $0.baseAddress!, byteCount: part)
                }
                filled += part
            }
            at += fresh
            let copied = min(8 + next(below: 20), bytes.count - at)
            let reach = min(at, 32_000)
            if copied > 0, reach > copied {
                let from = at - copied - next(below: reach - copied)
                (bytes.baseAddress! + at).copyMemory(from: bytes.baseAddress! + from, byteCount: copied)
                at += copied
            }
        }
    }

    /// Like text: words of a vocabulary, the frequent ones short, and repeated phrases. gzip -6 makes about 4:1 of it.
    mutating func fillText(_ bytes: UnsafeMutableRawBufferPointer, _ words: [[UInt8]]) {
        var at = 0
        while at < bytes.count {
            for _ in 0..<8 {
                // A power makes low numbers frequent.
                let chance = Double(next() >> 11) / Double(1 << 53)
                let word = words[Int(chance * chance * chance * chance * Double(words.count))]
                let size = min(word.count, bytes.count - at)
                word.withUnsafeBytes {
                    UnsafeMutableRawBufferPointer(rebasing: bytes[at..<at + size])
                        .copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[..<size]))
                }
                at += size
            }
            let copied = min(52 + next(below: 90), bytes.count - at)
            let reach = min(at, 30_000)
            if copied > 0, reach > copied {
                let from = at - copied - next(below: reach - copied)
                UnsafeMutableRawBufferPointer(rebasing: bytes[at..<at + copied])
                    .copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[from..<from + copied]))
                at += copied
            }
        }
    }

    /// 20,000 words, the first ones short, each followed by a space or a line end.
    mutating func vocabulary() -> [[UInt8]] {
        (0..<20_000).map { rank in
            let length = 2 + min(rank / 400, 6) + next(below: 4)
            let letters = (0..<length).map { _ in UInt8(ascii: "a") + UInt8(next(below: 26)) }
            return letters + [rank % 12 == 0 ? 10 : 32]
        }
    }
}

/// Writes a file in pieces of 4 MiB.
func writeFile(_ path: String, size: Int, fill: (UnsafeMutableRawBufferPointer) -> Void) throws {
    let file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
    guard file >= 0 else { throw Failure.system(path) }
    defer { close(file) }
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: min(max(size, 1), 4 << 20), alignment: 4096)
    defer { buffer.deallocate() }
    var left = size
    while left > 0 {
        let piece = UnsafeMutableRawBufferPointer(rebasing: buffer[..<min(left, buffer.count)])
        fill(piece)
        guard write(file, piece.baseAddress, piece.count) == piece.count else { throw Failure.system(path) }
        left -= piece.count
    }
}
