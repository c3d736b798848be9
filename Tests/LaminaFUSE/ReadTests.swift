import Glibc
import LaminaFUSE
import LaminaSystem
import Synchronization
import Testing

extension SessionTests {
    @Test("cached reads are right byte by byte, from memory and spliced from a file", arguments: [false, true])
    func cachedReads(spliced: Bool) throws {
        let bytes = pattern(3_000_123)
        try Fixture.with { tree, scratch in
            tree.add("file", spliced ? .file(try makeFile(scratch + "/content", bytes)) : .bytes(bytes))
        } _: { fixture in
            let file = try File(fixture.path("file"), O_RDONLY)
            for offset in stride(from: 0, to: 5000, by: 1) {
                #expect(try file.read(1, at: Int64(offset)) == [bytes[offset]])
            }
            for (offset, count) in [(2_999_000, 4096), (1_234_567, 77_777), (0, 3_000_123), (3_000_123, 10)] {
                let end = min(offset + count, bytes.count)
                #expect(try file.read(count, at: Int64(offset)) == Array(bytes[offset..<end]))
            }
            #expect(fixture.session.requestCount(.read) > 0)
            #expect(fixture.session.cachedOpenCount == 1)
            #expect(fixture.session.passthroughOpenCount == 0)
            let reads = fixture.session.requestCount(.read)
            #expect(try File(fixture.path("file"), O_RDONLY).read(3_000_123, at: 0) == bytes)
            #expect(fixture.session.requestCount(.read) == reads, "the cache is kept over opens")
            #expect(fixture.session.requestCount(.flush) == 0, "NOFLUSH")
        }
    }

    @Test("passthrough: read, mmap and exec send no READ, and the bytes are right")
    func passthrough() throws {
        let bytes = pattern(1_000_003)
        let program = try readFile("/bin/true", limit: 64 << 20)
        try Fixture.with { tree, scratch in
            tree.add("file", .passthrough(try makeFile(scratch + "/content", bytes)))
            tree.add("true", mode: 0o755, .passthrough(try makeFile(scratch + "/true", program, mode: 0o755)))
        } _: { fixture in
            #expect(fixture.session.passthrough == .available)
            #expect(fixture.session.canResend)
            let file = try File(fixture.path("file"), O_RDONLY)
            #expect(try file.read(bytes.count + 1, at: 0) == bytes)
            let mapped = try #require(mmap(nil, bytes.count, PROT_READ, MAP_PRIVATE, file.descriptor, 0))
            #expect(mapped != MAP_FAILED)
            #expect(UnsafeRawBufferPointer(start: mapped, count: bytes.count).elementsEqual(bytes))
            munmap(mapped, bytes.count)
            #expect(try Child([fixture.path("true")]).wait(seconds: 30) == 0)
            #expect(fixture.session.requestCount(.read) == 0)
            #expect(fixture.session.passthroughOpenCount >= 2)
            #expect(fixture.session.cachedOpenCount == 0)
        }
    }

    @Test("two threads that open and read one inode at once share its backing ID")
    func concurrentOpens() throws {
        let bytes = pattern(10_000)
        try Fixture.with { tree, scratch in
            tree.add("file", .passthrough(try makeFile(scratch + "/content", bytes)))
        } _: { fixture in
            let failures = Monitor(0)
            let threads = try (0..<2).map { index in
                try Thread("reader-\(index)") {
                    for _ in 0..<500 {
                        let read = try? File(fixture.path("file"), O_RDONLY).read(bytes.count, at: 0)
                        if read != bytes { failures.withLock { $0 += 1 } }
                    }
                }
            }
            for thread in threads { thread.join() }
            #expect(failures.withLock { $0 } == 0)
            #expect(fixture.session.passthroughOpenCount == 1000)
            let released: Int? = fixture.filesystem.events.wait(seconds: 30) {
                $0.releases.count == 1000 ? 1000 : nil
            }
            #expect(released == 1000, "each open is released")
            let reopens = fixture.filesystem.events.withLock { $0.reopens }
            #expect(reopens >= 998, "but for the first, each is answered at once")
        }
    }

    @Test("an overlay on top copies up: append, chmod and rename of a lower file")
    func overlay() throws {
        let bytes = pattern(200_000)
        try Fixture.with { tree, scratch in
            let layer = tree.add("layer", mode: 0o755, .directory)
            for name in ["append", "chmod", "move", "read"] {
                tree.add(name, in: layer, .passthrough(try makeFile("\(scratch)/\(name)", bytes)))
            }
            tree.add("cached", in: layer, .bytes(bytes))
        } _: { fixture in
            for name in ["upper", "work", "merged"] { try createDirectories("\(fixture.scratch)/\(name)") }
            let merged = "\(fixture.scratch)/merged"
            try Mount.mount(
                type: "overlay", source: "overlay", at: merged,
                data: [
                    "lowerdir=\(fixture.path("layer"))", "upperdir=\(fixture.scratch)/upper",
                    "workdir=\(fixture.scratch)/work",
                ].joined(separator: ","))
            defer { try? Mount.unmount(merged, detach: true) }
            // Open all the time, in passthrough, beside the opens that copy up.
            let held = try File("\(merged)/append", O_RDONLY)
            let appended = try File("\(merged)/append", O_WRONLY | O_APPEND)
            try Array("tail".utf8).withUnsafeBytes { try appended.write($0, at: 0) }
            #expect(try File("\(merged)/append", O_RDONLY).read(300_000, at: 0) == bytes + Array("tail".utf8))
            // Newer kernels turn an open lower file into its copy.
            #expect(try held.read(bytes.count, at: 0) == bytes)
            #expect(chmod("\(merged)/chmod", 0o600) == 0)
            #expect(try File("\(merged)/chmod", O_RDONLY).status().st_mode & 0o777 == 0o600)
            #expect(try File("\(merged)/chmod", O_RDONLY).read(300_000, at: 0) == bytes)
            #expect(rename("\(merged)/move", "\(merged)/moved") == 0)
            #expect(try File("\(merged)/moved", O_RDONLY).read(300_000, at: 0) == bytes)
            #expect(access("\(merged)/move", F_OK) == -1 && errno == ENOENT)
            #expect(try File("\(merged)/read", O_RDONLY).read(300_000, at: 0) == bytes)
            #expect(fixture.session.requestCount(.read) == 0)
            #expect(chmod("\(merged)/cached", 0o600) == 0)
            #expect(try File("\(merged)/cached", O_RDONLY).read(300_000, at: 0) == bytes)
            #expect(try File(fixture.path("layer/append"), O_RDONLY).read(300_000, at: 0) == bytes)
        }
    }

    @Test("without passthrough the reason is told, and registering a file fails")
    func notWanted() throws {
        try Fixture.with {
            $0.wantsPassthrough = false
        } tree: { tree, scratch in
            tree.add("file", .passthrough(try makeFile(scratch + "/content", [1, 2, 3])))
        } _: { fixture in
            #expect(fixture.session.passthrough == .unavailable(.notWanted))
            #expect(open(fixture.path("file"), O_RDONLY) == -1)
            #expect(fixture.filesystem.registrationError.withLock { $0 } != nil)
        }
    }
}
