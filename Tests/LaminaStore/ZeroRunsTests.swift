import LaminaStore
import Testing

@Suite("Zeros that are left out of backing files")
struct ZeroRunsTests {
    private func find(_ bytes: [UInt8], at offset: Int64 = 0, fileSize: Int64? = nil) -> [Range<Int>] {
        bytes.withUnsafeBytes {
            ZeroRuns.find(in: $0, at: offset, fileSize: fileSize ?? offset + Int64(bytes.count))
        }
    }

    private func data(_ count: Int) -> [UInt8] { [UInt8](repeating: 7, count: count) }
    private func zeros(_ count: Int) -> [UInt8] { [UInt8](repeating: 0, count: count) }

    @Test("runs of whole blocks, at least 64 KiB long")
    func runs() {
        #expect(find(zeros(64 << 10)) == [0..<(64 << 10)])
        #expect(find(zeros(60 << 10)) == [])
        #expect(find(data(1 << 20)) == [])
        #expect(find([]) == [])
        #expect(find(data(4096) + zeros(64 << 10) + data(1)) == [4096..<(4096 + 64 << 10)])
        #expect(find(data(4096) + zeros(60 << 10) + data(4096) + zeros(4096) + data(1)) == [])
        #expect(find(zeros(128 << 10) + data(100) + zeros(128 << 10)).count == 2)
        // The first byte of a block, and its last.
        var bytes = zeros(192 << 10)
        bytes[(96 << 10) - 1] = 1
        #expect(find(bytes) == [0..<(92 << 10), (96 << 10)..<(192 << 10)])
    }

    @Test("blocks are those of the file, wherever in it the bytes stand")
    func alignment() {
        let bytes = zeros(200_000)
        for offset: Int64 in [1, 4095, 4096, 10_000, (1 << 33) + 5] {
            let runs = find(bytes, at: offset, fileSize: 1 << 40)
            #expect(runs.count == 1)
            for run in runs {
                for end in [run.lowerBound, run.upperBound] { #expect((offset + Int64(end)) % 4096 == 0) }
                #expect(run.count > 190_000 && run.count < bytes.count)
            }
        }
    }

    @Test("the last block of a file is left out as far as it goes, and no part of one that goes on behind the bytes")
    func end() {
        #expect(find(zeros(100_001)) == [0..<100_001])
        #expect(find(zeros(100_001), fileSize: 1 << 20) == [0..<98_304])
        #expect(find(zeros(65_537), at: 4096, fileSize: 4096 + 65_537) == [0..<65_537])
    }

    @Test("what is found is zeros, for many ways to mix them with data")
    func random() {
        var random = SystemRandomNumberGenerator()
        for _ in 0..<200 {
            var bytes: [UInt8] = []
            for _ in 0..<Int.random(in: 1...8, using: &random) {
                let count = Int.random(in: 0...200_000, using: &random)
                bytes += Bool.random(using: &random) ? zeros(count) : data(count)
            }
            let offset = Int64.random(in: 0...1 << 20, using: &random)
            let runs = find(bytes, at: offset)
            var end = 0
            for run in runs {
                #expect(run.lowerBound >= end && run.count >= ZeroRuns.minimum && run.upperBound <= bytes.count)
                #expect(bytes[run].allSatisfy { $0 == 0 })
                end = run.upperBound
            }
        }
    }
}
