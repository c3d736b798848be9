import Testing

@testable import LaminaFormats

/// Seeded mutations of valid inputs: the answer is always a tree that keeps its promises, or a ``FormatError``.
@Suite("mutations")
struct FormatsFuzzTests {
    /// Changes, removes, doubles or inserts a few bytes; now and then one with a meaning in JSON.
    private func mutate(_ bytes: [UInt8], _ numbers: inout Xorshift) -> [UInt8] {
        let telling = Array("\"\\{}[],:0-9.e/ntu\u{0}".utf8)
        var bytes = bytes
        for _ in 0..<Int.random(in: 1...2, using: &numbers) where !bytes.isEmpty {
            let index = Int.random(in: 0..<bytes.count, using: &numbers)
            let end = min(index + Int.random(in: 1...30, using: &numbers), bytes.count)
            switch Int.random(in: 0..<6, using: &numbers) {
            case 0: bytes[index] = UInt8.random(in: 0...255, using: &numbers)
            case 1: bytes[index] ^= 1 << UInt8.random(in: 0..<8, using: &numbers)
            case 2: bytes.removeSubrange(index..<end)
            case 3: bytes.insert(contentsOf: bytes[index..<end], at: Int.random(in: 0...bytes.count, using: &numbers))
            case 4: bytes[index] = telling.randomElement(using: &numbers) ?? 0
            default: bytes.removeLast(bytes.count - index)
            }
        }
        return bytes
    }

    static let seeds: [String] = [
        "{\"version\":1,\"entries\":[{" + TOCText.head("a/f", 10, 4) + "},{" + TOCText.chunk("a/f", 4, 6) + "},{"
            + TOCText.link("l", "a/f") + "},{" + TOCText.link("m", "l") + "},{" + TOCText.file("a/.wh.x") + "},{"
            + TOCText.file("a/.wh..wh..opq") + "},{" + TOCText.entry("symlink", "s", "\"linkName\":\"../x\"") + "},{"
            + TOCText.entry("char", "d/../c", "\"devMajor\":1,\"devMinor\":3,\"modtime\":\"2023-11-14T22:13:20.5Z\"")
            + "},{" + TOCText.file("a/\\u00fc\\ud83d\\ude00", 5, at: 7) + ",\"xattrs\":{\"user.a\":\"AAEC\"}},{"
            + TOCText.entry("dir", "a", "\"mode\":448,\"unknown\":[1,{\"x\":null}]") + "}]}"
    ]

    @Test("of tables of contents", arguments: 1...4)
    func tables(_ seed: UInt64) throws {
        var numbers = Xorshift(state: seed &* 0x9e37_79b9_7f4a_7c15)
        var trees = 0
        for round in 0..<2500 {
            let json = mutate(Array(Self.seeds[round % Self.seeds.count].utf8), &numbers)
            do {
                let tree = try json.withUnsafeBytes {
                    try LayerTree.parse(toc: $0, tocOffset: 5000, format: .estargz)
                }
                let broken = tree.brokenPromise(tocOffset: 5000)
                #expect(broken == nil, "\(String(decoding: json, as: UTF8.self))")
                trees += 1
            } catch {
                #expect(error is FormatError)
            }
        }
        // Otherwise only the JSON reader would be tested.
        #expect(trees > 100)
    }

    @Test("of trees made of a few names, in any order")
    func shuffledEntries() throws {
        var numbers = Xorshift(state: 42)
        let names = ["a", "a/b", "a/b/c", "b", "b/a", ".wh.a", "a/.wh.b", "b/.wh..wh..opq", "c", ".prefetch.landmark"]
        var trees = 0
        for _ in 0..<3000 {
            let entries = (0..<Int.random(in: 1...12, using: &numbers)).map { index -> String in
                let name = names.randomElement(using: &numbers) ?? ""
                switch Int.random(in: 0..<6, using: &numbers) {
                case 0: return TOCText.link(name, names.randomElement(using: &numbers) ?? "")
                case 1, 2: return TOCText.entry("dir", name, "\"xattrs\":{\"user.overlay.x\":\"\",\"user.x\":\"AAAA\"}")
                case 3: return TOCText.entry("symlink", name, "\"linkName\":\"x\"")
                default: return TOCText.file(name, index % 3, at: 10 * index)
                }
            }
            do {
                let tree = try LayerTree.parse(entries: entries, tocOffset: 1000)
                #expect(tree.brokenPromise(tocOffset: 1000) == nil, "\(entries)")
                trees += 1
            } catch {
                #expect(error is FormatError)
            }
        }
        #expect(trees > 500)
    }

    @Test("of members, inflated in one go and as a stream")
    func members() throws {
        var numbers = Xorshift(state: 7)
        let payload = noise(2000) + [UInt8](repeating: 1, count: 3000)
        let decoder = try ChunkDecoder()
        let inputs = [gzip(payload) + gzip(noise(50)), zstd(payload) + zstd(noise(50))]
        for round in 0..<3000 {
            let input = mutate(inputs[round % 2], &numbers)
            do {
                try input.withUnsafeBytes { bytes in
                    try decoder.inflate(bytes, needing: 4000) { #expect($0.count >= 4000) }
                }
            } catch {
                #expect(error is FormatError)
            }
            do {
                let stream = try StreamDecompressor(input.withUnsafeBytes { StreamDecompressor.detect($0) })
                try input.withUnsafeBytes { try stream.push($0) { _ in } }
                try stream.finish()
            } catch {
                #expect(error is FormatError)
            }
        }
    }

    @Test("of footers and the member before them")
    func footers() throws {
        var numbers = Xorshift(state: 9)
        let blob = try LayerFixture.layers("estargz")[1].blob
        let tail = Array(blob[776...])
        for _ in 0..<2000 {
            let bytes = mutate(tail, &numbers)
            do {
                try bytes.withUnsafeBytes {
                    let footer = UnsafeRawBufferPointer(rebasing: $0.suffix(EStargz.footerSize))
                    _ = try? EStargz.parseFooter(footer)
                    let toc = try EStargz.extractTOC(fromMember: .init(rebasing: $0.dropLast(EStargz.footerSize)))
                    #expect(toc.count <= FormatLimits().tocBytes)
                }
            } catch {
                #expect(error is FormatError)
            }
        }
    }
}
