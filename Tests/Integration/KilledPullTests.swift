import Glibc
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("a pull that is killed")
    struct KilledPull {
        /// What a kill may cost in bytes that are fetched again.
        static let allowance: Int64 = 16 << 20

        @Test(
            "after SIGKILL at 20 random moments, the next pull fetches only what had not landed, and the result is the source"
        )
        func killedTwentyTimes() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.medium.get()
                let proxy = try sandbox.proxy()
                let reference = image.reference(proxy)
                // Three kills by time, while the table of contents is fetched and put into the index; the others by how much of
                // the blob has been sent, so that every part is hit.
                var generator = SystemRandomNumberGenerator()
                let delays = (0..<3).map { _ in UInt32.random(in: 5_000...150_000, using: &generator) }
                let points = (0..<17).map { _ in
                    Int64.random(in: image.layerSize / 100...image.layerSize * 95 / 100, using: &generator)
                }.sorted()
                var kills = 0
                for delay in delays {
                    let pull = try sandbox.start(["pull", reference])
                    usleep(delay)
                    kills += Self.kill(pull)
                }
                for point in points {
                    let pull = try sandbox.start(["pull", reference])
                    _ = eventually(seconds: 60) { Self.distinctBytes(proxy, image) >= point || !pull.isRunning }
                    kills += Self.kill(pull)
                }
                #expect(kills == 20, "a pull ended before it was killed")
                let report: PullReport = try decoded(sandbox.lamina("pull", "--json", reference).output)
                #expect(report.complete && report.landedBytes == report.bytes)
                let (sent, repeated) = (proxy.sentByteCount(of: image.layer), proxy.repeatedByteCount(of: image.layer))
                print("20 kills: \(sent) bytes of a blob of \(image.layerSize), \(repeated) of them more than once")
                #expect(sent <= image.layerSize + Int64(kills) * Self.allowance)
                let mount = try sandbox.mount(reference)
                try TreeOracle.expectSame(image.tree, at: mount, in: sandbox)
            }
        }

        /// 1 if it was in the middle.
        private static func kill(_ child: Child) -> Int {
            child.send(SIGKILL)
            return child.wait(seconds: 10).signal == SIGKILL ? 1 : 0
        }

        private static func distinctBytes(_ proxy: CountingProxy, _ image: GeneratedImage) -> Int64 {
            proxy.sentByteCount(of: image.layer) - proxy.repeatedByteCount(of: image.layer)
        }

        @Test("Ctrl-C ends a pull with 130, and the same command fetches only what is missing")
        func interrupted() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.medium.get()
                let proxy = try sandbox.proxy()
                let reference = image.reference(proxy)
                for part in 1...3 {
                    let pull = try sandbox.start(["pull", reference])
                    let isUnderWay = eventually(seconds: 30) {
                        Self.distinctBytes(proxy, image) > image.layerSize * Int64(part) / 4 || !pull.isRunning
                    }
                    try #require(isUnderWay && pull.isRunning)
                    let started = now()
                    pull.send(SIGINT)
                    let outcome = pull.wait(seconds: 20)
                    #expect(outcome.exitCode == 130, "\(outcome)")
                    #expect(now() - started < 15)
                    #expect(outcome.errors.contains("interrupted"))
                }
                try sandbox.lamina("pull", reference)
                #expect(proxy.sentByteCount(of: image.layer) <= image.layerSize + 3 * Self.allowance)
                let before = proxy.sentByteCount()
                let again: PullReport = try decoded(sandbox.lamina("pull", "--json", reference).output)
                #expect(again.complete && again.fetchedBytes == 0)
                #expect(proxy.sentByteCount(of: image.layer) <= before)
            }
        }
    }
}
