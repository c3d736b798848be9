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
    private static let layer = forge { $0.file("file", file, chunkSize: 16 << 10) }

    @Test(
        "a file that is gone or cut short under a row that calls it merged is fetched again at the open that finds it",
        arguments: [true, false], [Int64.max, 1000])
    func missing(isGone: Bool, lazyThreshold: Int64) throws {
        try Fixture.with(["a": [Self.layer]], { $0.lazyThreshold = lazyThreshold }) { fixture in
            try fixture.merge()
            let content = try fixture.content(Self.file.count)
            #expect(content.state == .merged)
            let path = "\(fixture.store.root)/content/\(content.name.path)"
            if isGone { #expect(unlink(path) == 0) } else { try File(path, O_RDWR).truncate(to: 100_000) }
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
