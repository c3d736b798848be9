import LaminaDigest
import Testing

@testable import LaminaFormats

@Suite("zTOCs of SOCI")
struct ZTOCTests {
    @Test("there are as many as the README of the vectors says")
    func count() throws {
        #expect(IndexedLayer.ofLayouts.count == 7)
        let spans = try IndexedLayer.ofLayouts.map { try ZTOC.parse($0.ztoc).spans }
        #expect(spans.map(\.count).sorted() == [1, 3, 6, 11, 25, 25, 41])
        #expect(spans.joined().contains { $0.bits != 0 })
    }

    @Test(
        "every span has its digest, and decompresses from its own window to the bytes of the whole stream",
        arguments: IndexedLayer.all)
    func spans(_ indexed: IndexedLayer) throws {
        let (bytes, layer) = (try indexed.ztoc, try indexed.layer)
        let ztoc = try ZTOC.parse(bytes)
        #expect(ztoc.version == "0.9" && !ztoc.buildTool.isEmpty && ztoc.blobSize == Int64(layer.count))
        let tar = try UnpackedLayer(layer, ztoc.format).tar
        for (number, span) in ztoc.spans.enumerated() {
            #expect(SHA256.hash(Array(layer[Int(span.blob.lowerBound)..<Int(span.blob.upperBound)])) == span.digest)
            let end = span.outputSize.map { Int(span.output + $0) } ?? tar.count
            #expect(
                try ztoc.inflate(number, of: layer, bytes, size: end - Int(span.output))
                    == Array(tar[Int(span.output)..<end]))
            let start = max(0, Int(span.output) - 32768)
            if ztoc.format == .plainGzip { #expect(Array(bytes[span.window]) == Array(tar[start..<Int(span.output)])) }
        }
        #expect(ztoc.spans.last?.blob.upperBound == Int64(layer.count))
    }

    @Test(
        "the tree is the one of the whole tar, and every file's bytes come from its spans", arguments: IndexedLayer.all)
    func tree(_ indexed: IndexedLayer) throws {
        let (bytes, layer) = (try indexed.ztoc, try indexed.layer)
        let ztoc = try ZTOC.parse(bytes)
        let whole = try UnpackedLayer(layer, ztoc.format)
        // What is no layer as a whole is none by its zTOC.
        guard case .success(let expected) = whole.tree else {
            #expect(throws: FormatError.self) { try ztoc.tree(bytes) }
            return
        }
        let tree = try ztoc.tree(bytes)
        #expect(tree.shown == expected.shown)
        #expect(tree.nodes.count == expected.nodes.count)
        let numbers = Dictionary(ztoc.spans.enumerated().map { ($1.blob.lowerBound, $0) }) { _, last in last }
        var inflated: [Int: [UInt8]] = [:]
        for (node, other) in zip(tree.nodes, expected.nodes) where node.content >= 0 {
            let content = tree.contents[Int(node.content)]
            var file = SHA256()
            for chunk in tree.chunks[Int(content.chunks.lowerBound)..<Int(content.chunks.upperBound)] {
                let number = try #require(numbers[chunk.blobOffset])
                #expect(Int64(ztoc.spans[number].blob.count) == chunk.blobSize)
                let output = try inflated[number] ?? ztoc.inflate(number, of: layer, bytes)
                inflated[number] = output
                Array(output[Int(chunk.innerOffset)..<Int(chunk.innerOffset + chunk.size)]).withUnsafeBytes {
                    file.update($0)
                }
            }
            #expect(file.digest() == expected.contents[Int(other.content)].digest)
        }
    }

    @Test("a file in several spans has a chunk in each; names of places are all different")
    func chunks() throws {
        let indexed = try #require(IndexedLayer.ofLayouts.first)
        let (bytes, ztoc) = (try indexed.ztoc, try ZTOC.parse(indexed.ztoc))
        let tree = try ztoc.tree(bytes)
        #expect(tree.contents.contains { $0.chunks.count > 1 } && tree.contents.contains { $0.chunks.count == 1 })
        #expect(Set(tree.contents.map(\.digest)).count == tree.contents.count)
        let several = tree.contents.filter { $0.chunks.count > 1 }
        let parts = several.flatMap { tree.chunks[Int($0.chunks.lowerBound)..<Int($0.chunks.upperBound)] }.map(\.digest)
        #expect(Set(parts).count == parts.count && Set(parts).isDisjoint(with: tree.contents.map(\.digest)))
        // Another zTOC of the same layer, or another layer: other names.
        #expect(ZTOC.place(512, -1, in: parts[0], by: parts[1]) != ZTOC.place(512, -1, in: parts[1], by: parts[0]))
    }

    @Test(
        "a zTOC of a file that is sparse in the tar is refused, as soci refuses to read it",
        arguments: ["pax-sparse", "pax-sparse-last"])
    func sparse(_ name: String) throws {
        let bytes = try IndexedLayer.odd(name).ztoc
        let error = #expect(throws: FormatError.self) { try ZTOC.parse(bytes) }
        #expect(error?.code == .unsupported || error?.code == .badEntry)
        #expect(error?.entry != nil && error?.offset != nil)
    }

    @Test(
        "a window that was altered has all span digests right, and other bytes: the window of the span behind it shows it"
    )
    func forgedWindow() throws {
        let genuine = try #require(IndexedLayer.ofLayouts.first { $0.name == "mixed-v1-128k/dd30148271fb" })
        let layer = try genuine.layer
        let (right, wrong) = (try genuine.ztoc, try IndexedLayer.odd("forged-window").ztoc)
        let (good, forged) = (try ZTOC.parse(right), try ZTOC.parse(wrong))
        #expect(good.spans.map(\.digest) == forged.spans.map(\.digest))
        let altered = good.spans.indices.filter {
            Array(right[good.spans[$0].window]) != Array(wrong[forged.spans[$0].window])
        }
        let number = try #require(altered.first)
        #expect(altered.count == 1 && number > 0)
        // What comes out is not the tar.
        #expect(try forged.inflate(number, of: layer, wrong) != good.inflate(number, of: layer, right))
        // The span before it ends with other bytes than the window.
        let before = try forged.inflate(number - 1, of: layer, wrong)
        #expect(Array(before.suffix(32768)) == Array(right[good.spans[number].window]).suffix(before.count))
        #expect(Array(before.suffix(32768)) != Array(wrong[forged.spans[number].window]).suffix(before.count))
    }

    @Test("a span gives no more than it is asked for, however much is in it")
    func bomb() throws {
        let zeros = gzip([UInt8](repeating: 0, count: 50 << 20))
        var output = [UInt8](repeating: 0xEE, count: 1000)
        try zeros[10...].withUnsafeBytes { span in
            try output[..<990].withUnsafeMutableBytes { output in
                _ = try SpanInflater.inflate(span, from: SpanStart(bits: 0, window: []), into: output)
            }
        }
        #expect(output.prefix(990).allSatisfy { $0 == 0 } && output.suffix(10).allSatisfy { $0 == 0xEE })
    }

    @Test("a span that gives less than its zTOC says is an error with its place")
    func short() throws {
        let span = Array(gzip(Array("abc".utf8)).dropFirst(10))
        var output = [UInt8](repeating: 0, count: 10)
        let error = #expect(throws: FormatError.self) {
            try span.withUnsafeBytes { span in
                try output.withUnsafeMutableBytes { output in
                    _ = try SpanInflater.inflate(span, from: SpanStart(bits: 0, window: []), into: output)
                }
            }
        }
        #expect(error?.code == .corruptMember && error?.offset != nil)
    }

    @Test("a span's start is read back from the index as it was")
    func startBytes() {
        for start in [
            SpanStart(bits: 0, window: []), SpanStart(bits: 7, window: noise(32768)), SpanStart(bits: 3, window: [1]),
        ] {
            #expect(SpanStart(start.bytes) == start)
        }
        #expect(SpanStart([]) == nil && SpanStart([8]) == nil && SpanStart([0, 1, 2]) == nil)
    }
}
