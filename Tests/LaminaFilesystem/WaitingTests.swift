import Glibc
import LaminaDigest
import LaminaFUSE
import LaminaSystem
import LaminaTestSupport
import Synchronization
import Testing

@testable import LaminaFilesystem
@testable import LaminaMerge
@testable import LaminaStore

// No open, look-up or listing waits for what it does not need.
extension FilesystemTests {
    private static let large = noise(3_000_000, seed: 31)
    private static let small = noise(700, seed: 32)
    private static let fileCount = 900

    /// Many small files, some directories, and a large file in chunks.
    private static let layer = forge { layer in
        layer.file("large", large, chunkSize: 100_000)
        // With the same bytes, but another inode each.
        for number in 0..<fileCount { layer.file("files/f\(number)", small) }
        for number in 0..<200 {
            layer.directory("directories/\(number)")
            for file in 0..<5 { layer.file("directories/\(number)/\(file)", []) }
        }
    }

    /// Opens, looks up and lists what is new, while `isGoingOn` holds; returns the times in seconds, sorted.
    private static func times(
        _ fixture: Fixture, _ next: inout (file: Int, directory: Int), skippingShard: Int? = nil,
        while isGoingOn: () -> Bool
    ) throws -> [Double] {
        let root = try fixture.path()
        var times: [Double] = []
        func measure(_ body: () throws -> Void) rethrows {
            let start = monotonicSeconds()
            try body()
            times.append(monotonicSeconds() - start)
        }
        var status = stat()
        for round in 0..<60 {
            guard isGoingOn() else { break }
            let path = "\(root)/files/f\(next.file % fileCount)"
            next.file += 1
            measure { _ = lstat(path, &status) }
            if skippingShard.map({ Int(status.st_ino) % OpenTable.shardCount != $0 }) ?? true {
                try measure { _ = try File(path, O_RDONLY) }
            }
            if round % 4 == 0 {
                let directory = try File("\(root)/directories/\(next.directory % 200)", O_RDONLY | O_DIRECTORY)
                next.directory += 1
                var names = 0
                try measure { names = try Self.part(directory, 4096).count }
                #expect(names == 7)
            }
            usleep(2000)
        }
        return times.sorted()
    }

    private static func p99(_ times: [Double]) -> Double {
        times.isEmpty ? 0 : times[(times.count * 99 + 99) / 100 - 1]
    }

    /// Drops what the kernel knows of names and inodes.
    private static func dropInodes() throws {
        let drop = try File("/proc/sys/vm/drop_caches", O_WRONLY)
        try Array("2".utf8).withUnsafeBytes { try drop.write($0, at: 0) }
    }

    @Test(
        "with each lock of the process held for a second, others' opens, look-ups and listings take no longer than else"
    )
    func locks() throws {
        try Fixture.with(["a": [Self.layer]]) { fixture in
            try fixture.merge()
            let (store, engine, filesystem) = (fixture.store, fixture.engine, fixture.filesystem)
            let name = try fixture.content(Self.large.count).name
            let hold: @Sendable () -> Void = { usleep(1_000_000) }
            let locks: KeyValuePairs<String, @Sendable () -> Void> = [
                "none": hold,
                "the index's writer": { store.writer.withLock { _ in hold() } },
                "the merge's plan": { engine.context.board.with { _ in hold() } },
                "the decoders' queue": { engine.decodeQueue.withLock { _ in hold() } },
                "the proofs": { engine.prover.queue.withLock { _ in engine.prover.proving.withLock { _ in hold() } } },
                "the streams": { engine.streaming.turns.withLock { _ in hold() } },
                "a removal": { store.files.leases.removing([name]) { _ in hold() } },
                "the reader of other threads": {
                    do { try filesystem.spareReader.xattrNames(1) { _ in } } catch {}
                    do {
                        try filesystem.spareReader.entries(of: 1, from: 0) { _, _ in
                            hold()
                            return false
                        }
                    } catch {}
                },
                "the open table's shard": { filesystem.opens.shards[3].withLock { _ in hold() } },
            ]
            var next = (file: 0, directory: 0)
            var usual = 0.0
            for (name, lock) in locks {
                // Every round begins with opens of files that were not open before.
                filesystem.opens.releaseIdle()
                try Self.dropInodes()
                let isHeld = Atomic<Bool>(true)
                let problems = Problems()
                let holder = try thread(problems) {
                    lock()
                    isHeld.store(false, ordering: .relaxed)
                }
                usleep(20_000)
                // A reader that does need it, and waits.
                let root = try fixture.path()
                let needing = try (0..<3).map { number in
                    try thread(problems) {
                        guard name.contains("shard") else { return }
                        var status = stat()
                        for file in 0..<Self.fileCount {
                            lstat("\(root)/files/f\((file + number * 300) % Self.fileCount)", &status)
                            if status.st_ino % ino_t(OpenTable.shardCount) == 3 {
                                _ = try File("\(root)/files/f\((file + number * 300) % Self.fileCount)", O_RDONLY)
                                return
                            }
                        }
                    }
                }
                let times = try Self.times(fixture, &next, skippingShard: name.contains("shard") ? 3 : nil) {
                    isHeld.load(ordering: .relaxed)
                }
                holder.join()
                for thread in needing { thread.join() }
                #expect(problems.all == [])
                print("held: \(name): \(times.count) calls, p99 \(Self.p99(times) * 1000) ms")
                if name == "none" { usual = Self.p99(times) }
                // On a shared machine, at most a few times as long as with no lock held.
                #expect(times.count > 20, "\(name)")
                #expect(Self.p99(times) <= max(0.005, 4 * usual), "\(name)")
            }
        }
    }

    @Test("while a damaged file is examined at its open, for as long as that takes, nobody else waits")
    func examined() throws {
        try Fixture.with(["a": [Self.layer]]) { fixture in
            try fixture.merge()
            try fixture.punchHole(try fixture.content(Self.large.count), at: 40_960)
            let path = try fixture.path("large")
            let isDone = Atomic<Int>(0)
            let problems = Problems()
            var openers: [Thread] = []
            var times: [Double] = []
            var next = (file: 0, directory: 0)
            // The writer takes back what is damaged: while another thread has the writer, the examination goes on.
            try fixture.store.writer.withLock { _ in
                openers = try (0..<3).map { _ in
                    try thread(problems) {
                        if try bytes(path) != Self.large { problems.add("wrong bytes") }
                        isDone.add(1, ordering: .relaxed)
                    }
                }
                usleep(50_000)
                times = try Self.times(fixture, &next) { true }
                #expect(isDone.load(ordering: .relaxed) == 0)
            }
            for opener in openers { opener.join() }
            #expect(problems.all == [])
            print("while a file is examined: \(times.count) calls, p99 \(Self.p99(times) * 1000) ms")
            #expect(times.count > 100 && Self.p99(times) <= 0.05)
            #expect(fixture.messages.all.count { $0.contains("has a hole") } == 1, "it was examined more than once")
            // Once whole again, the kernel has it.
            #expect(eventually { (try? fixture.content(Self.large.count).state) == .merged })
            let before = fixture.statistics.passthrough
            #expect(eventually { openError(path) == 0 && fixture.statistics.passthrough > before })
        }
    }

    @Test("an opener that is killed while its file is examined leaves at once, and is not counted as open")
    func killedWhileExamined() throws {
        try Fixture.with(["a": [Self.layer]]) { fixture in
            try fixture.merge()
            try fixture.punchHole(try fixture.content(Self.large.count), at: 40_960)
            try fixture.store.writer.withLock { _ in
                let reader = try Reader(fixture.path("large"))
                usleep(100_000)
                #expect(reader.kill(seconds: 10))
            }
            #expect(eventually { fixture.messages.contain("has a hole") })
            fixture.filesystem.examinations.finish()
            #expect(fixture.filesystem.openInodes == [])
            #expect(try bytes(fixture.path("large")) == Self.large)
        }
    }

    @Test("opens and reads of what is not merged wait for the merge's plan with no thread of the session's")
    func busyPlan() throws {
        try Fixture.with(["a": [Self.layer]], { $0.lazyThreshold = 1000 }) { fixture in
            let problems = Problems()
            let isDone = Atomic<Int>(0)
            let root = try fixture.path()
            let open = try File("\(root)/large", O_RDONLY)
            var threads: [Thread] = []
            var next = (file: 0, directory: 0)
            var times: [Double] = []
            try fixture.engine.context.board.with { _ in
                // More of them than there are threads.
                threads = try (0..<12).map { number in
                    try thread(problems) {
                        if number % 2 == 0 {
                            let start = number * 200_000
                            if try open.read(1000, at: Int64(start)) != Array(Self.large[start..<(start + 1000)]) {
                                problems.add("wrong bytes")
                            }
                        } else if try bytes("\(root)/files/f\(number)") != Self.small {
                            problems.add("wrong bytes")
                        }
                        isDone.add(1, ordering: .relaxed)
                    }
                }
                usleep(50_000)
                var status = stat()
                for number in 0..<100 {
                    let start = monotonicSeconds()
                    lstat("\(root)/directories/\(number)/1", &status)
                    times.append(monotonicSeconds() - start)
                }
                next.file += 1
                #expect(isDone.load(ordering: .relaxed) == 0)
            }
            for thread in threads { thread.join() }
            #expect(problems.all == [])
            #expect(Self.p99(times.sorted()) <= 0.05)
        }
    }

    @Test("one who opens one file again and again takes no room from others, and all of it ends with the last close")
    func manyOpens() throws {
        try Fixture.with(["a": [Self.layer]]) { fixture in
            try fixture.merge()
            let opens = fixture.filesystem.opens
            let recorded = { (0..<OpenTable.shardCount).reduce(0) { $0 + opens.record.opens($1).count } }
            for name in ["large", "files/f0"] {
                let path = try fixture.path(name)
                var files = try (0..<800).map { _ in try File(path, O_RDONLY) }
                #expect(recorded() <= SessionRecord.singleOpens + 1)
                // In another order, half of them, and as many again.
                files.reverse()
                files.removeLast(400)
                #expect(eventually { fixture.filesystem.openInodes.count == 1 })
                files += try (0..<400).map { _ in try File(path, O_RDONLY) }
                #expect(try files[799].read(100, at: 0) == files[0].read(100, at: 0))
                files = []
                #expect(eventually { recorded() == 0 && fixture.filesystem.openInodes == [] })
            }
        }
    }

    @Test("of one inode that many open at once for the first time, the file is registered once")
    func together() throws {
        try Fixture.with(["a": [Self.layer]]) { fixture in
            try fixture.merge()
            let root = try fixture.path()
            for number in 0..<40 {
                let problems = Problems()
                let threads = try (0..<4).map { _ in
                    try thread(problems) {
                        if try bytes("\(root)/files/f\(number)") != Self.small { problems.add("wrong bytes") }
                    }
                }
                for thread in threads { thread.join() }
                #expect(problems.all == [])
            }
            #expect(fixture.statistics.backingFiles == 40)
            // Counted after the answer.
            #expect(eventually { fixture.statistics.passthrough == 160 } && fixture.statistics.cached == 0)
        }
    }
}

@Suite("errands")
struct ErrandTests {
    @Test("each errand is done once, by so many threads at most, and the end is waited for")
    func all() {
        let errands = Errands("test", limit: 3)
        let state = Monitor((done: 0, running: 0, peak: 0))
        for _ in 0..<300 {
            errands.run {
                state.withLock {
                    $0.running += 1
                    $0.peak = max($0.peak, $0.running)
                }
                usleep(200)
                state.withLock {
                    $0.running -= 1
                    $0.done += 1
                }
            }
        }
        errands.finish()
        let (done, running, peak) = state.withLock { $0 }
        #expect(done == 300 && running == 0 && peak <= 3)
        errands.finish()
    }

    @Test("one that waits keeps no other from being done")
    func waiting() {
        let errands = Errands("test", limit: 2)
        let isFree = Monitor(false)
        let isDone = Monitor(false)
        errands.run { isFree.wait { $0 ? () : nil } }
        errands.run { isDone.withLock(notify: true) { $0 = true } }
        #expect(isDone.wait(seconds: 30) { $0 ? () : nil } != nil)
        isFree.withLock(notify: true) { $0 = true }
        errands.finish()
    }
}
