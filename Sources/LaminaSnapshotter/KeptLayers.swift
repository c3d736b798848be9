import LaminaDigest
import LaminaStore
import Synchronization

/// What came of plain layers for pulls that have not asked for it yet: the layers above the one that a client waits for, and
/// those of a pull that was interrupted. Nothing in the index holds them, and each costs a download to have again.
final class KeptLayers: Sendable {
    private struct Entry {
        var hold: LayerHold
        var until: ContinuousClock.Instant
    }

    /// How long an interrupted pull may take to come again: kubelet waits at most five minutes between two tries.
    private static let time = Duration.seconds(3600)

    private let store: Store
    private let entries = Mutex<[Digest: Entry]>([:])

    init(_ store: Store) { self.store = store }

    func keep(_ layers: [Digest]) {
        let until = ContinuousClock.now + Self.time
        entries.withLock { entries in
            for layer in layers {
                entries[layer] = Entry(hold: entries[layer]?.hold ?? store.hold([layer]), until: until)
            }
        }
    }

    /// Snapshots hold them now, or nobody wants them.
    func letGo(_ layers: [Digest]) { entries.withLock { for layer in layers { $0[layer] = nil } } }

    /// Lets go of what was kept too long; all of it, if asked to.
    ///
    /// - Returns: whether there was any.
    func letGoOld(all: Bool = false) -> Bool {
        entries.withLock { entries in
            let count = entries.count
            entries = all ? [:] : entries.filter { $0.value.until > .now }
            return entries.count < count
        }
    }
}
