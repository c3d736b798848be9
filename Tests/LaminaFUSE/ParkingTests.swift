import Glibc
import LaminaFUSE
import LaminaSystem
import Testing

extension SessionTests {
    @Test("an open that is parked is interrupted by a signal to its caller", arguments: [SIGKILL, SIGINT])
    func interruptedOpen(signal: Int32) throws {
        try Fixture.with { tree, _ in
            tree.add("parked", .parkedOpen)
        } _: { fixture in
            let events = fixture.filesystem.events
            let child = try Child(["cat", fixture.path("parked")])
            let parked: ParkedReply<OpenReply>? = events.wait(seconds: 30) { $0.opens.first }
            kill(child.pid, signal)
            #expect(child.wait(seconds: 30) == 128 + signal)
            let interrupts: Int? = events.wait(seconds: 30) { $0.interrupts > 0 ? $0.interrupts : nil }
            #expect(interrupts == 1)
            #expect(fixture.session.requestCount(.interrupt) == 1)
            #expect(parked?.isTaken == true)
            #expect(fixture.session.droppedReplyCount == 0)
        }
    }

    @Test("a read with O_DIRECT that is parked is interrupted by a signal to its caller", arguments: [SIGKILL, SIGINT])
    func interruptedDirectRead(signal: Int32) throws {
        try Fixture.with { tree, _ in
            tree.add("parked", .parkedRead(size: 4096))
        } _: { fixture in
            let events = fixture.filesystem.events
            let child = try Child(["dd", "if=\(fixture.path("parked"))", "of=/dev/null", "bs=4096", "iflag=direct"])
            let parked: ParkedReply<ReadReply>? = events.wait(seconds: 30) { $0.reads.first }
            kill(child.pid, signal)
            let ended = child.wait(seconds: 30)
            #expect(ended != nil && ended != 0)
            let interrupts: Int? = events.wait(seconds: 30) { $0.interrupts > 0 ? $0.interrupts : nil }
            #expect(interrupts == 1)
            #expect(parked?.isTaken == true)
        }
    }

    @Test(
        "a killed reader of a cached file leaves at once; its read-ahead is answered later, for nobody",
        arguments: [SIGKILL, SIGINT])
    func killedCachedReader(signal: Int32) throws {
        try Fixture.with { tree, _ in
            tree.add("parked", .parkedRead(size: 4096))
        } _: { fixture in
            let events = fixture.filesystem.events
            let child = try Child(["cat", fixture.path("parked")])
            let parked: ParkedReply<ReadReply>? = events.wait(seconds: 30) { $0.reads.first }
            kill(child.pid, signal)
            #expect(child.wait(seconds: 30) == 128 + signal)
            let bytes = pattern(4096)
            if let reply = parked?.take() { reply.bytes(bytes.span.bytes) }
            // What was read ahead is still in the cache.
            #expect(try File(fixture.path("parked"), O_RDONLY).read(4096, at: 0) == bytes)
            #expect(events.withLock { $0.reads.count } == 1)
        }
    }

    @Test("a parked read and a parked open are answered later by another thread")
    func answeredLater() throws {
        let bytes = pattern(5000)
        try Fixture.with { tree, _ in
            tree.add("read", .parkedRead(size: 5000))
            tree.add("open", .parkedOpen)
        } _: { fixture in
            let events = fixture.filesystem.events
            let answering = try Thread("answering") {
                let parked: ParkedReply<ReadReply>? = events.wait(seconds: 30) { $0.reads.first }
                usleep(50_000)
                if let reply = parked?.take() { reply.bytes(bytes.span.bytes) }
                let open: ParkedReply<OpenReply>? = events.wait(seconds: 30) { $0.opens.first }
                usleep(50_000)
                if let reply = open?.take() { reply.cached(handle: 99) }
            }
            #expect(try File(fixture.path("read"), O_RDONLY).read(5000, at: 0) == bytes)
            do { _ = try File(fixture.path("open"), O_RDONLY) }
            answering.join()
            let released: Bool? = events.wait(seconds: 30) { $0.releases.contains(99) ? true : nil }
            #expect(released == true)
            #expect(fixture.session.requestCount(.interrupt) == 0)
        }
    }

    @Test("many parked opens, answered and interrupted at the same time, each end exactly once")
    func race() throws {
        try Fixture.with { tree, _ in
            tree.add("parked", .parkedOpen)
        } _: { fixture in
            let events = fixture.filesystem.events
            for round in 0..<30 {
                let children = try (0..<4).map { _ in try Child(["cat", fixture.path("parked")]) }
                let waiting: Int? = events.wait(seconds: 30) { $0.opens.count == 4 ? 4 : nil }
                #expect(waiting == 4)
                let answering = try Thread("answering") {
                    if round % 3 == 0 { usleep(useconds_t(round * 10)) }
                    let parked = events.withLock { events in
                        defer { events.opens = [] }
                        return events.opens
                    }
                    for parked in parked {
                        if let reply = parked.take() { reply.error(ENXIO) }
                    }
                }
                for child in children { kill(child.pid, SIGKILL) }
                answering.join()
                for child in children { #expect(child.wait(seconds: 30) != nil) }
            }
            #expect(fixture.session.droppedReplyCount == 0)
            #expect(try !list(fixture.root).isEmpty, "the session still answers")
        }
    }

    @Test("a reply that is dropped, at once or parked, answers EIO")
    func dropped() throws {
        try Fixture.with {
            $0.stopsAtDroppedReplies = false
        } tree: { tree, _ in
            tree.add("dropped", .droppedOpen)
            tree.add("parked", .parkedOpen)
        } _: { fixture in
            #expect(open(fixture.path("dropped"), O_RDONLY) == -1 && errno == EIO)
            #expect(fixture.session.droppedReplyCount == 1)
            let events = fixture.filesystem.events
            let dropping = try Thread("dropping") {
                let opens: [ParkedReply<OpenReply>]? = events.wait(seconds: 30) { events in
                    guard !events.opens.isEmpty else { return nil }
                    defer { events.opens = [] }
                    return events.opens
                }
                _ = opens
            }
            #expect(open(fixture.path("parked"), O_RDONLY) == -1 && errno == EIO)
            dropping.join()
            #expect(fixture.session.droppedReplyCount == 2)
        }
    }
}
