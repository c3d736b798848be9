import Glibc
import LaminaStore
import LaminaSystem

/// Compares containerd's snapshots, the index, the directories and the mounts.
public enum SnapshotCheck {
    /// Snapshots that are made or removed meanwhile differ for a moment: only what differs at each of these looks counts.
    private static let looks = 3
    private static let pauseMicroseconds: UInt32 = 500_000

    /// Blocks: some milliseconds if everything agrees, and seconds if it does not.
    ///
    /// - Parameters:
    ///   - report: the report, with what was asked.
    ///   - isServed: whether a server answers for the store.
    ///   - view: asks containerd again each time.
    public static func run(
        _ report: SnapshotReport, isServed: Bool, view: () throws -> ContainerdView
    ) throws -> SnapshotReport {
        let index = try Index(root: report.root)
        var (result, lasting) = (report, Set<SnapshotDifference>())
        for look in 0..<looks {
            // Asked first: what containerd removes, it forgets before lamina does.
            let theirs = try view()
            let ours = try index.allSnapshots()
            let places = try SnapshotPlaces(
                root: report.root, index: index, records: ours, mounts: Mount.all(), isServed: isServed)
            result.namespaces = theirs.namespaces.count
            result.containerdSnapshots = theirs.snapshots.count
            result.snapshots = ours.count
            result.lazyLayers = ours.count { $0.view != nil }
            result.mounts = places.mountCount
            let differences = SnapshotComparison.differences(of: theirs, and: ours) + places.differences
            lasting = look == 0 ? Set(differences) : lasting.intersection(differences)
            result.differences = differences.filter(lasting.contains)
            if lasting.isEmpty { break }
            if look < looks - 1 { usleep(pauseMicroseconds) }
        }
        return result
    }
}

extension Index {
    /// All snapshots, in the order in which they were made.
    fileprivate func allSnapshots() throws -> [SnapshotRecord] {
        var all: [SnapshotRecord] = []
        while true {
            let page = try snapshots(after: all.last?.id, limit: 1000)
            all += page
            if page.count < 1000 { return all }
        }
    }
}
