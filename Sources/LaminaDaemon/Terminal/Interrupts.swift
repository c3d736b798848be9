import Glibc
import Synchronization

/// SIGINT and SIGTERM in a command: the first asks the work to stop where it can go on later, the second ends the process.
public enum Interrupts {
    /// The signal that came; 0 before.
    private static let received = Atomic<Int32>(0)

    /// Takes over both signals. Calls that block are interrupted by them (no SA_RESTART).
    public static func install() {
        // The handler may only read what exists already: a static is made at its first use, under a lock.
        _ = received.load(ordering: .relaxed)
        var action = sigaction()
        action.__sigaction_handler.sa_handler = { number in
            guard Interrupts.received.compareExchange(expected: 0, desired: number, ordering: .relaxed).exchanged else {
                _exit(ExitStatus.interrupted.rawValue)
            }
        }
        sigaction(SIGINT, &action, nil)
        sigaction(SIGTERM, &action, nil)
    }

    /// Whether the work should stop.
    public static var requested: Bool { signal != nil }

    /// The signal that came first.
    public static var signal: Int32? {
        let number = received.load(ordering: .relaxed)
        return number == 0 ? nil : number
    }
}
