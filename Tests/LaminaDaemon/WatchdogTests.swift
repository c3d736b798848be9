import Glibc
import LaminaSystem
import Logging
import Synchronization
import Testing

@testable import LaminaDaemon

@Suite("the watchdog")
struct WatchdogTests {
    private static func watchdog(
        limit: Double = 3, _ answer: @escaping @Sendable (Int32) throws -> Int32?,
        progress: @escaping @Sendable () -> UInt64, alive: @escaping @Sendable () -> Void = {}
    ) -> Watchdog {
        Watchdog(limit: limit, ask: answer, progress: progress, alive: alive, log: Logger(label: "test"))
    }

    @Test("a mount that answers is alive, and each question has a third of the limit")
    func answers() {
        let asked = Atomic<Int>(0)
        let watchdog = Self.watchdog { milliseconds in
            asked.store(Int(milliseconds), ordering: .relaxed)
            return ENOENT
        } progress: {
            0
        }
        #expect(watchdog.answers())
        #expect(asked.load(ordering: .relaxed) == 1000)
    }

    @Test("one that does not answer is alive as long as it is done with other requests, and no longer")
    func progress() {
        let count = Atomic<UInt64>(0)
        let step = Atomic<UInt64>(1)
        let watchdog = Self.watchdog { _ in
            count.add(step.load(ordering: .relaxed), ordering: .relaxed)
            return nil
        } progress: {
            count.load(ordering: .relaxed)
        }
        #expect(watchdog.answers() && watchdog.answers())
        step.store(0, ordering: .relaxed)
        #expect(!watchdog.answers())
    }

    @Test("another answer than that there is no such name is none")
    func wrongAnswer() {
        let count = Atomic<UInt64>(0)
        let watchdog = Self.watchdog { _ in
            count.add(1, ordering: .relaxed)
            return ENOTCONN
        } progress: {
            count.load(ordering: .relaxed)
        }
        #expect(!watchdog.answers())
    }

    @Test("the manager is told again and again, until the watchdog is stopped or the mount stops answering")
    func told() {
        let count = Monitor(0)
        let isStuck = Atomic<Bool>(false)
        let watchdog = Self.watchdog(limit: 0.03) { _ in
            isStuck.load(ordering: .relaxed) ? nil : ENOENT
        } progress: {
            0
        } alive: {
            count.withLock(notify: true) { $0 += 1 }
        }
        watchdog.start()
        #expect(count.wait(seconds: 30) { $0 > 5 ? () : nil } != nil)
        isStuck.store(true, ordering: .relaxed)
        usleep(100_000)
        let told = count.withLock { $0 }
        usleep(100_000)
        #expect(count.withLock { $0 } == told)
        watchdog.stop()
    }
}
