import LaminaStore

/// Holds what containerd says of its snapshots against the index.
///
/// containerd calls a snapshot by its client's name, and tells a proxy plugin `NAMESPACE/NUMBER/NAME`; the number is nowhere to be
/// asked for. A layer that was not downloaded it calls by the chain ID, and lamina by `LayerNames`, in all namespaces alike. So
/// snapshots are found from the bottom: by the name, and by the one below.
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
    /// Those of containerd's snapshots, without their reasons.
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

    /// What containerd calls a snapshot that it told lamina to make: `NAMESPACE/NUMBER/NAME`, of which the name may be anything.
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

    /// lamina's record of what containerd calls so.
    private mutating func record(of name: Name) -> SnapshotRecord? {
        // Down to what is found already or has nothing below, then up. What containerd says may be a ring.
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

    /// Of several the one that is what containerd says: an earlier one of the name may not have been collected yet, and a lazy
    /// layer may be there upon different ones.
    private func choose(for name: Name, _ snapshot: ContainerdSnapshot, below: SnapshotKey?) -> SnapshotRecord? {
        let candidates = (byName[name] ?? []) + (byChain[name.key] ?? [])
        return candidates.first { $0.kind == snapshot.kind && $0.parent == below } ?? candidates.first
    }

    /// Once for each snapshot, whoever needs it.
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
