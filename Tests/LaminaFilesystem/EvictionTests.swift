import Glibc
import LaminaMerge
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Testing

@testable import LaminaFilesystem
@testable import LaminaMerge

// What happens to files that leave the store while it is mounted.
extension FilesystemTests {
    private static let file = noise(300_000, seed: 7)
    private static let layer = forge { $0.file("file", file, chunkSize: 16 << 10) }

    @Test(
        "a file that is not open is evicted with its backing ID, and comes back by the next open, in passthrough mode")
    func evicted() throws {
        try Fixture.with(["a": [Self.layer]]) { fixture in
            for round in 1...3 {
                #expect(try bytes(fixture.path("file")) == Self.file)
                // The kernel reports the end a moment later.
                let content = try fixture.content(300_000)
                let isFree = eventually { fixture.filesystem.release([content.id]).isEmpty }
                #expect(isFree && fixture.statistics.backingFiles == 0)
                #expect(try eventually { try fixture.content(300_000).state == .merged })
                let result = try fixture.engine.evictUnopened([content])
                #expect(result.contents == 1 && result.bytes >= 300_000, "\(result)")
                #expect(try fixture.content(300_000).state == .absent)
                #expect(throws: SystemError.self) { try fixture.store.files.open(content.name) }
                #expect(fixture.statistics.passthrough == round)
            }
            #expect(try bytes(fixture.path("file")) == Self.file)
            #expect(fixture.messages.all.isEmpty)
        }
    }

    @Test("a file that is open is not evicted, neither in passthrough nor in cached mode")
    func openFile() throws {
        for threshold in [Int64(1) << 20, 1000] {
            try Fixture.with(["a": [Self.layer]], { $0.lazyThreshold = threshold }) { fixture in
                let file = try File(fixture.path("file"), O_RDONLY)
                #expect(try file.read(300_000, at: 0) == Self.file)
                #expect(try eventually { try fixture.content(300_000).state == .merged })
                let content = try fixture.content(300_000)
                #expect(fixture.filesystem.release([content.id]) == [content.id])
                #expect(try fixture.engine.evictUnopened([content]).contents == 0)
                #expect(fixture.filesystem.openInodes.count == 1)
                dropCache(file)
                #expect(try file.read(300_000, at: 0) == Self.file)
            }
        }
    }

    @Test("a file that is opened while it is evicted has no hole, mapped or read, in either mode")
    func opensBesideEvictions() throws {
        for threshold in [Int64(1) << 20, 1000] {
            try Fixture.with(["a": [Self.layer]], { $0.lazyThreshold = threshold }) { fixture in
                let problems = Problems()
                let stop = Problems()
                let path = try fixture.path("file")
                let readers = try (0..<3).map { number in
                    try thread(problems) {
                        while stop.all.isEmpty {
                            let file = try File(path, O_RDONLY)
                            if number == 0 {
                                let map = mmap(nil, 300_000, PROT_READ, MAP_SHARED, file.descriptor, 0)
                                if !UnsafeRawBufferPointer(start: map, count: 300_000).elementsEqual(Self.file) {
                                    problems.add("a mapping is wrong")
                                }
                                munmap(map, 300_000)
                            } else if try file.read(300_001, at: 0) != Self.file {
                                problems.add("a read is wrong")
                            }
                        }
                    }
                }
                var evictions = 0
                // Without asking what is open, which is worse than what the keeper does.
                _ = try eventually(seconds: 30) {
                    if try fixture.engine.evict(fixture.content(300_000)) { evictions += 1 }
                    return evictions >= 60
                }
                stop.add("stop")
                for reader in readers { reader.join() }
                #expect(problems.all == [] && evictions > 5, "\(evictions) evictions")
            }
        }
    }
}
