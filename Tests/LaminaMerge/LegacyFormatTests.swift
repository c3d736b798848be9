import Glibc
import LaminaDigest
import LaminaFormats
import LaminaOCI
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Synchronization
import Testing

@testable import LaminaMerge

@Suite("a layer in the old stargz format")
struct LegacyStargzTests {
    /// A layer whose table of contents has no digests of chunks, as CRFS wrote them: its members, their tar, and the footer of
    /// 47 bytes.
    private func legacy() throws -> (blob: [UInt8], diffID: Digest, files: [String: [UInt8]]) {
        let layer = try PlainLayer([("small", noise(5000, seed: 1)), ("large", halfNoise(600_000, seed: 2))])
        let members = PlainLayer.gzip(layer.tar[..<(layer.tar.count - Tar.endSize)])
        let json = Array(
            #"{"version":1,"entries":[{"name":"small","type":"reg","size":5000},{"name":"lie","type":"reg"}]}"#.utf8)
        var toc: [UInt8] = []
        try TarWriter.append(
            TarHeader(kind: .regular, name: Array("stargz.index.json".utf8), mode: 0o444, size: Int64(json.count)),
            to: &toc)
        toc += json + [UInt8](repeating: 0, count: Tar.padding(Int64(json.count)) + Tar.endSize)
        let digits = String(members.count, radix: 16)
        let footer =
            [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 22, 0]
            + Array((String(repeating: "0", count: 16 - digits.count) + digits + "STARGZ").utf8)
            + [1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]
        let tar = layer.tar[..<(layer.tar.count - Tar.endSize)] + toc
        return (members + PlainLayer.gzip(toc[...]) + footer, SHA256.hash(Array(tar)), layer.files)
    }

    @Test("is read as a whole and served when blob and tar are the image's, whatever its table of contents says")
    func whole() throws {
        let fixture = try Fixture()
        let (blob, diffID, files) = try legacy()
        try writeImage([ImageLayer(blob: blob, tocDigest: nil, diffID: diffID)], tag: "a", layout: fixture.layout)
        try fixture.withEngine { engine in
            let image = try fixture.index(engine)
            #expect(try engine.store.index.blob(of: image.layers[0])?.format == Int(LayerFormat.stargz.rawValue))
            #expect(try engine.store.isWholeAndRight())
            let ledger = try engine.store.index.ledger(of: image.layers[0])
            #expect(ledger.tocProof == .whole && ledger.diffIDState == .proven && ledger.tocDigest == nil)
            let found = try engine.store.index.files(of: image).filter { $0.type == "file" }
            #expect(Set(found.map { String($0.path.dropFirst()) }) == Set(files.keys))
            for file in found {
                #expect(file.digest == files[String(file.path.dropFirst())].map { SHA256.hash($0).description })
            }
        }
        #expect(fixture.reports.withLock { $0 } == [])
    }

    @Test("is refused with the way out where [store] verification is strict, also when it was begun before")
    func strict() throws {
        let fixture = try Fixture()
        let (blob, diffID, _) = try legacy()
        let descriptor = try writeImage(
            [ImageLayer(blob: blob, tocDigest: nil, diffID: diffID)], tag: "a", layout: fixture.layout)[0]
        var options = MergeEngine.Options()
        options.refusesUnproven = true
        let store = try fixture.openStore()
        // What a process of another configuration has left.
        var step = StreamStep()
        step.state = try StreamState(format: .stargz).encoded()
        for isBegun in [false, true] {
            if isBegun {
                let stream = try store.stream(of: descriptor.digest, origin: "oci:\(fixture.layout)")
                _ = try store.record(step, of: stream.id, under: store.files.emptyLease())
            }
            let engine = try MergeEngine(store: store, options: options)
            defer { engine.stop() }
            let error = #expect(throws: MergeError.self) { try fixture.index(engine) }
            #expect(error?.code == .unsupportedLayer)
            #expect(error?.description.contains("'lamina convert' makes an eStargz image of it") == true)
            #expect(try store.index.images().isEmpty && store.contents().isEmpty)
        }
    }
}

@Suite("a run of zeros in zstd:chunked")
struct ZeroChunkTests {
    @Test("lands as a hole that nobody fetches, in a file that is whole and right")
    func holes() throws {
        let fixture = try Fixture()
        try fixture.withEngine { engine in
            let image = try ImagePull(engine, shouldStop: { false }, report: { _ in }).index(
                try ImageReference(parsing: "oci:\(Fixtures.layout("zstd-chunked-podman-5"))"), platform: nil,
                plainHTTP: true)
            try engine.merge(image)
            var holes: Int64 = 0
            for content in try engine.store.contents() {
                let known = try engine.store.index.holes(of: content.id)
                guard known > 0 else { continue }
                holes += known
                let file = try engine.store.files.open(content.name)
                let zeros = try engine.store.index.chunks(of: content, preferring: nil).filter(\.source.isHole)
                // Runs of zeros within other chunks are holes too.
                #expect(zeros.reduce(0) { $0 + $1.size } <= known && zeros.allSatisfy(\.hasLanded))
                #expect(try file.holeBytes() <= known)
                for chunk in zeros {
                    #expect(try file.read(Int(chunk.size), at: chunk.offset).allSatisfy { $0 == 0 })
                }
                #expect(try file.status().st_blocks * 512 <= content.size - known + 8192)
            }
            #expect(holes > 0)
            #expect(try engine.store.isWholeAndRight())
        }
    }
}
