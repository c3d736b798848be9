import Foundation
import LaminaFuzzTargets
import Testing

/// Runs for a moment what `make fuzz` runs for minutes: the corpus, and seeded mutations of it. Always the same.
@Suite("the corpus of the fuzzer, and mutations of it")
struct FuzzCorpusTests {
    private static let rounds = 1500

    @Test("break no promise of a parser", arguments: FuzzTarget.allCases)
    func corpus(_ target: FuzzTarget) throws {
        let directory = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .appending(path: "Fuzz/Corpus/\(target.rawValue)")
        let files = try FileManager.default.contentsOfDirectory(atPath: directory.path).sorted()
        try #require(!files.isEmpty)
        let seeds = try files.map { [UInt8](try Data(contentsOf: directory.appending(path: $0))) }
        for seed in seeds { seed.withUnsafeBytes { target.run($0) } }
        var numbers = Xorshift(state: 0x9e37_79b9_7f4a_7c15)
        for round in 0..<Self.rounds {
            var bytes = seeds[round % seeds.count]
            for _ in 0..<Int.random(in: 1...4, using: &numbers) where !bytes.isEmpty {
                let index = Int.random(in: 0..<bytes.count, using: &numbers)
                let end = min(index + Int.random(in: 1...64, using: &numbers), bytes.count)
                switch Int.random(in: 0..<6, using: &numbers) {
                case 0: bytes[index] = UInt8.random(in: 0...255, using: &numbers)
                case 1: bytes[index] ^= 1 << UInt8.random(in: 0..<8, using: &numbers)
                case 2: bytes.removeSubrange(index..<end)
                case 3:
                    bytes.insert(contentsOf: bytes[index..<end], at: Int.random(in: 0...bytes.count, using: &numbers))
                case 4: for place in index..<end { bytes[place] = 0xff }
                default: bytes.removeLast(bytes.count - index)
                }
            }
            bytes.withUnsafeBytes { target.run($0) }
        }
    }
}
