import Glibc
import LaminaDigest
import LaminaOCI
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Synchronization
import Testing

@testable import LaminaMerge

@Suite("layers of every format that has a table of contents")
struct FormatTests {
    static let layouts = Fixtures.layouts.filter { $0 != "plain-gzip" }

    private func index(_ engine: MergeEngine, _ layout: String) throws -> ImageRecord {
        try ImagePull(engine, shouldStop: { false }, report: { _ in }).index(
            try ImageReference(parsing: "oci:\(Fixtures.layout(layout))"), platform: nil, plainHTTP: true)
    }

    @Test("are merged whole and right, and nothing is fetched twice", arguments: layouts)
    func merged(layout: String) throws {
        let fixture = try Fixture()
        try fixture.withEngine { engine in
            let image = try index(engine, layout)
            try engine.merge(image)
            #expect(try engine.store.isWholeAndRight())
            let size = try image.layers.reduce(0) { try $0 + (engine.store.index.blob(of: $1)?.size ?? 0) }
            #expect(engine.totalFetchedBytes <= UInt64(size))
        }
        #expect(fixture.reports.withLock { $0 } == [])
    }

    @Test("in one store hold each distinct file once")
    func once() throws {
        let fixture = try Fixture()
        try fixture.withEngine { engine in
            for layout in Self.layouts { try engine.merge(try index(engine, layout)) }
            #expect(try engine.store.isWholeAndRight())
            // Contents of several chunks are kept apart by their chunk lists, but share one file.
            var files: [Digest: Set<UInt>] = [:]
            for content in try engine.store.contents() {
                files[content.name.digest, default: []].insert(
                    try engine.store.files.open(content.name).status().st_ino)
            }
            #expect(files.count > 1500 && files.values.allSatisfy { $0.count == 1 })
        }
    }
}
