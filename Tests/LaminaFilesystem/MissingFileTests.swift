import Glibc
import LaminaMerge
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Testing

@testable import LaminaFilesystem

// Files that were removed without the store.
extension FilesystemTests {
    private static let file = noise(300_000, seed: 11)
    enum Damage: CaseIterable { case gone, short, hole }

    private static let layer = forge { $0.file("file", file, chunkSize: 16 << 10) }

    @Test(
        "a file that is gone, cut short or has a hole under a row that calls it merged is fetched again at the open that finds it, with passthrough and without",
        arguments: Damage.allCases, [(Int64.max, true), (1000, true), (Int64.max, false), (1000, false)])
    func missing(damage: Damage, way: (lazyThreshold: Int64, passthrough: Bool)) throws {
        let options: (inout FilesystemOptions) -> Void = {
            ($0.lazyThreshold, $0.passthrough) = way
        }
        try Fixture.with(["a": [Self.layer]], options) { fixture in
            try fixture.merge()
            let content = try fixture.content(Self.file.count)
            #expect(content.state == .merged)
            let path = "\(fixture.store.root)/content/\(content.name.path)"
            switch damage {
            case .gone: #expect(unlink(path) == 0)
            case .short: try File(path, O_RDWR).truncate(to: 100_000)
            case .hole:
                let file = try File(path, O_RDWR)
                try file.truncate(to: 100_000)
                try file.truncate(to: Int64(Self.file.count))
            }
            #expect(try bytes(fixture.path("file")) == Self.file)
            // And from then on everything works as before.
            #expect(
                eventually {
                    (try? fixture.store.index.content(content.id)?.state) == .merged && access(path, F_OK) == 0
                })
            #expect(try bytes(fixture.path("file")) == Self.file)
        }
    }
}
