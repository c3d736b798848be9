import Glibc
import LaminaFUSE
import LaminaSystem
import Testing

extension SessionTests {
    @Test("what an open and close, and a look at a file, cost")
    func latency() throws {
        try Fixture.with { tree, scratch in
            tree.add("passthrough", .passthrough(try makeFile(scratch + "/content", pattern(10_000))))
            tree.add("cached", .bytes(pattern(10_000)))
            let directory = tree.add("many", mode: 0o755, .directory)
            for index in 0..<10_000 { tree.add("f\(index)", in: directory, .bytes([1])) }
        } _: { fixture in
            func openAndClose(_ path: String) -> Double {
                median(count: 10_000) { _ in close(open(path, O_RDONLY)) }
            }
            let passthrough = openAndClose(fixture.path("passthrough"))
            let cached = openAndClose(fixture.path("cached"))
            let plain = openAndClose(fixture.scratch + "/content")
            let paths = (0..<10_000).map { fixture.path("many/f\($0)") }
            func look(_ index: Int) {
                var status = stat()
                _ = lstat(paths[index], &status)
            }
            let cold = median(count: 10_000, look)
            let warm = median(count: 10_000, look)
            print(
                """
                p50 in µs: open+close passthrough \(passthrough), cached \(cached), beneath \(plain); \
                lstat cold \(cold), warm \(warm)
                """)
            #expect(fixture.session.requestCount(.lookup) >= 10_000)
            // Ten times what an idle machine takes in a debug build: this shows a hang or a sleep, but not a busy machine.
            #expect(passthrough < 1000 && cached < 1000 && cold < 1000 && warm < 100)
        }
    }
}

/// The median time of a call, in microseconds.
func median(count: Int, _ body: (Int) -> Void) -> Double {
    let times = (0..<count).map { index in
        let start = now()
        body(index)
        return now() - start
    }.sorted()
    return (times[count / 2] * 1e7).rounded() / 10
}
