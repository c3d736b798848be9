import LaminaStore

/// Compares what containerd says about its snapshots with the index.
///
/// containerd uses the client's name for a snapshot, and tells a proxy plugin `NAMESPACE/NUMBER/NAME`; there is no way to ask
/// for the number. For a layer that was not downloaded, containerd uses the chain ID, and lamina uses `LayerNames`, the same in
/// all namespaces. So snapshots are found from the bottom: by the name, and by the parent.
struct SnapshotComparison {
    private struct Name: Hashable {
        var namespace: String
        var key: SnapshotKey
    }

    private let listed: [Name: ContainerdSnapshot]
    private let byName: [Name: [SnapshotRecord]]
    private let byChain: [SnapshotKey: [SnapshotRecord]]
    private var found: [Name: SnapshotRecord] = [:]
    private var matched: Set<SnapshotID> = []
    private var differences: [SnapshotDifference] = []
    /// containerd's snapshots, without their reasons.
    private var told: Set<SnapshotDifference> = []

    /// What differs, in containerd's order, then in the index's.
    static func differences(of view: ContainerdView, and records: [SnapshotRecord]) -> [SnapshotDifference] {
        var comparison = SnapshotComparison(view, records)
        for snapshot in view.snapshots { comparison.compare(snapshot) }
        for reference in view.references { comparison.look(for: reference) }
        for record in records where !comparison.matched.contains(record.id) {
            comparison.differences.append(
                SnapshotDifference(
                    .unknown, name: record.key.text,
                    reason: "containerd does not know it, and has not had it removed when it collected its garbage"))
        }
        return comparison.differences
    }

    private init(_ view: ContainerdView, _ records: [SnapshotRecord]) {
        listed = Dictionary(
            view.snapshots.map { (Name(namespace: $0.namespace, key: $0.key), $0) }, uniquingKeysWith: { $1 })
        byName = Self.grouped(records.filter { $0.view == nil }) { Self.name(of: $0.key) }
        byChain = Self.grouped(records.filter { $0.view != nil }) {
            LayerNames.chain(of: $0.key).map { SnapshotKey($0) }
        }
    }

    private static func grouped<Key: Hashable>(
        _ records: [SnapshotRecord], by key: (SnapshotRecord) -> Key?
    ) -> [Key: [SnapshotRecord]] {
        records.reduce(into: [:]) { result, record in
            if let key = key(record) { result[key, default: []].append(record) }
        }
    }

    /// containerd's name for a snapshot that it told lamina to make: `NAMESPACE/NUMBER/NAME`; the name may be anything.
    private static func name(of key: SnapshotKey) -> Name? {
        let parts = key.bytes.split(separator: UInt8(ascii: "/"), maxSplits: 2, omittingEmptySubsequences: false)
        guard parts.count == 3, !parts[1].isEmpty, parts[1].allSatisfy({ (0x30...0x39).contains($0) }) else {
            return nil
        }
        return Name(namespace: String(decoding: parts[0], as: UTF8.self), key: SnapshotKey(parts[2]))
    }

    private mutating func compare(_ snapshot: ContainerdSnapshot) {
        let below = snapshot.parent.flatMap { record(of: Name(namespace: snapshot.namespace, key: $0)) }
        if let parent = snapshot.parent, below == nil {
            add(
                .missing, snapshot.namespace, parent,
                "lamina does not have it, and the snapshot \(snapshot.key) is made upon it")
        }
        guard let record = record(of: Name(namespace: snapshot.namespace, key: snapshot.key)) else {
            return add(
                .missing, snapshot.namespace, snapshot.key,
                "the store does not have it: is it the store that containerd's snapshotter is of?")
        }
        matched.insert(record.id)
        if record.kind != snapshot.kind {
            add(.kind, snapshot.namespace, snapshot.key, "it is \(snapshot.kind) to containerd and \(record.kind) here")
        }
        if record.parent != below?.key, snapshot.parent == nil || below != nil {
            let (theirs, ours) = (snapshot.parent.map(\.description), record.parent.map(\.description))
            add(
                .parent, snapshot.namespace, snapshot.key,
                "it is made upon \(theirs ?? "nothing") to containerd and upon \(ours ?? "nothing") here")
        }
    }

    private mutating func look(for reference: SnapshotReference) {
        let name = Name(namespace: reference.namespace, key: reference.key)
        guard listed[name] == nil else { return }
        add(.missing, reference.namespace, reference.key, "\(reference.holder) needs it")
    }

    /// lamina's record of the snapshot with this name in containerd.
    private mutating func record(of name: Name) -> SnapshotRecord? {
        // Down to one that was found already or has no parent, then up. What containerd says may be a cycle.
        var chain: [Name] = []
        var seen: Set<Name> = []
        var next: Name? = name
        while let current = next, found[current] == nil, seen.insert(current).inserted {
            chain.append(current)
            next = listed[current]?.parent.map { Name(namespace: name.namespace, key: $0) }
        }
        for current in chain.reversed() {
            guard let snapshot = listed[current] else { continue }
            let below = snapshot.parent.flatMap { found[Name(namespace: name.namespace, key: $0)] }
            found[current] = choose(for: current, snapshot, below: below?.key)
        }
        return found[name]
    }

    /// If there are several, the one that agrees with containerd: an earlier one of the name may not have been collected yet,
    /// and a lazy layer may exist with different parents.
    private func choose(for name: Name, _ snapshot: ContainerdSnapshot, below: SnapshotKey?) -> SnapshotRecord? {
        let candidates = (byName[name] ?? []) + (byChain[name.key] ?? [])
        return candidates.first { $0.kind == snapshot.kind && $0.parent == below } ?? candidates.first
    }

    /// Once for each snapshot, whatever needs it.
    private mutating func add(
        _ kind: SnapshotDifference.Kind, _ namespace: String, _ key: SnapshotKey, _ reason: String
    ) {
        var new = SnapshotDifference(kind, namespace: namespace, name: key.text, reason: "")
        guard told.insert(new).inserted else { return }
        new.reason = reason
        differences.append(new)
    }
}

extension SnapshotKey {
    /// For people; keys need not be text.
    var text: String { String(decoding: bytes, as: UTF8.self) }
}
