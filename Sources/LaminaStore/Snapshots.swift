import Glibc
import LaminaDigest
import LaminaSQLite
import LaminaSystem
import Synchronization

/// The label with the chain ID of a layer's snapshot; containerd finds lazy layers by it.
public let snapshotChainLabel = "containerd.io/snapshot.ref"

// The changes that clients of containerd's snapshots service make. Each call is one transaction, on disk before it returns:
// containerd syncs its own records of it, and the two must not disagree after a power cut.

extension Store {
    /// Makes an active snapshot or a view.
    ///
    /// - Parameters:
    ///   - refusal: why it is no lazy layer, although it could have been.
    ///   - sealed: what its mounts are made of; by default the places of its parents.
    ///   - makeDirectory: called with the number of the new snapshot and the place of its parent, before any other code can see it;
    ///     an error undoes everything.
    /// - Throws: `SnapshotError`: `alreadyExists`, `notFound` and `invalidArgument` about the parent.
    public func createSnapshot(
        _ key: SnapshotKey, parent: SnapshotKey?, kind: SnapshotKind, labels: [String: String], refusal: String? = nil,
        sealed: SealedID? = nil, makeDirectory: (SnapshotID, SnapshotPlace?) throws -> Void
    ) throws -> SnapshotChain {
        try writeSnapshots { writer in
            let parent = try parent.map { try writer.committedParent($0) }
            try writer.requireFree(key)
            let now = Self.now()
            let insert = try writer.connection.cached(
                """
                INSERT INTO snapshot (key, parent, kind, refusal, created_at, updated_at, sealed) VALUES (?, ?, ?, ?, ?, ?, ?)
                """)
            try insert.bind(1, blob: key.bytes).bind(2, parent?.row).bind(3, kind.rawValue).bind(4, text: refusal)
                .bind(5, now).bind(6, now).bind(7, sealed?.row).run()
            let id = SnapshotID(writer.connection.lastInsertedRow)
            try writer.addLabels(labels, to: id)
            let parents = try writer.connection.places(from: parent)
            try makeDirectory(id, parents.first)
            return SnapshotChain(id: id, kind: kind, parents: parents, sealed: sealed)
        }
    }

    /// Makes a committed snapshot of a layer that the store has: nothing is unpacked, and overlayfs gets its view.
    ///
    /// A second call with the same arguments changes nothing.
    /// - Parameters:
    ///   - layer: which of those that its blob is known as.
    ///   - parent: a lazy layer, or nil for the lowest.
    ///   - image: the image with which it is requested.
    /// - Returns: the layer; nil if the store does not have it, or not any more.
    /// - Throws: `SnapshotError.failedPrecondition` if the parent is no lazy layer: then the attributes of directories that the
    ///   layer does not list would be unknown.
    public func commitLayer(
        _ layer: LayerID, as name: SnapshotKey, parent: SnapshotKey?, labels: [String: String],
        image: SnapshotImage? = nil
    ) throws -> LayerID? {
        try writeSnapshots { writer in
            let isThere = try writer.connection.cached("SELECT 1 FROM layer WHERE id = ? AND quarantined_at IS NULL")
                .bind(1, layer.row).first { _ in true }
            guard isThere != nil else { return nil }
            let parent = try parent.map { try writer.committedParent($0) }
            let known = try writer.connection.cached("SELECT parent, layer FROM snapshot WHERE key = ?")
                .bind(1, blob: name.bytes).first { ($0.integer(0), $0.integer(1)) }
            if let (knownParent, knownLayer) = known {
                if knownParent == parent?.row ?? 0, knownLayer == layer.row { return layer }
                throw SnapshotError(.alreadyExists, "the snapshot \(name) exists, and is another one")
            }
            var above: [ViewID] = []
            for place in try writer.connection.places(from: parent).reversed() {
                guard case .layer(let view) = place else {
                    throw SnapshotError(.failedPrecondition, "the layer below \(name) is not lazy")
                }
                above.append(view)
            }
            let view = try writer.view(of: layer, above: above)
            let now = Self.now()
            try writer.connection.cached(
                """
                INSERT INTO snapshot (key, parent, kind, layer, view, created_at, updated_at, reference, manifest_digest)
                VALUES (?, ?, 3, ?, ?, ?, ?, ?, ?)
                """
            ).bind(1, blob: name.bytes).bind(2, parent?.row).bind(3, layer.row).bind(4, view.row).bind(5, now)
                .bind(6, now).bind(7, text: image?.reference).bind(8, digest: image?.manifest).run()
            try writer.addLabels(labels, to: SnapshotID(writer.connection.lastInsertedRow))
            return layer
        }
    }

    /// Turns an active snapshot into a committed one under another name: `key` disappears, `name` appears.
    ///
    /// - Parameter labels: all that it has from now on.
    public func commitSnapshot(
        _ key: SnapshotKey, as name: SnapshotKey, labels: [String: String], usage: SnapshotUsage
    ) throws {
        try writeSnapshots { writer in
            let (id, kind) = try writer.requireSnapshot(key)
            guard kind == .active else {
                throw SnapshotError(.failedPrecondition, "the snapshot \(key) is not active: it cannot be committed")
            }
            try writer.requireFree(name)
            let now = Self.now()
            try writer.connection.cached(
                """
                UPDATE snapshot SET key = ?2, kind = 3, bytes = ?3, inodes = ?4, created_at = ?5, updated_at = ?5, sealed = NULL
                WHERE id = ?1
                """
            ).bind(1, id.row).bind(2, blob: name.bytes).bind(3, usage.bytes).bind(4, usage.inodes).bind(5, now).run()
            try writer.connection.cached("DELETE FROM snapshot_label WHERE snapshot = ?").bind(1, id.row).run()
            try writer.addLabels(labels, to: id)
        }
    }

    /// Forgets a snapshot. Nothing refers to its directory any more; `takeAbandoned` removes it.
    public func removeSnapshot(_ key: SnapshotKey) throws {
        try writeSnapshots { writer in
            let (id, _) = try writer.requireSnapshot(key)
            let hasChild = try writer.connection.cached("SELECT 1 FROM snapshot WHERE parent = ? LIMIT 1")
                .bind(1, id.row).first { _ in true }
            guard hasChild == nil else {
                throw SnapshotError(.failedPrecondition, "cannot remove the snapshot \(key): it has children")
            }
            try writer.connection.cached("DELETE FROM snapshot WHERE id = ?").bind(1, id.row).run()
        }
    }

    /// Changes the labels of a snapshot; nothing else of it ever changes.
    public func updateSnapshot(_ key: SnapshotKey, _ change: LabelChange) throws -> SnapshotRecord {
        try writeSnapshots { writer in
            let (id, _) = try writer.requireSnapshot(key)
            let database = writer.connection
            switch change {
            case .replace(let labels):
                try database.cached("DELETE FROM snapshot_label WHERE snapshot = ?").bind(1, id.row).run()
                try writer.addLabels(labels, to: id)
            case .set(let labels):
                for (name, value) in labels {
                    if let value {
                        try writer.addLabels([name: value], to: id)
                    } else {
                        try database.cached("DELETE FROM snapshot_label WHERE snapshot = ? AND name = ?")
                            .bind(1, id.row).bind(2, text: name).run()
                    }
                }
            }
            try database.cached("UPDATE snapshot SET updated_at = ? WHERE id = ?").bind(1, Self.now()).bind(2, id.row)
                .run()
            guard let record = try database.snapshot(key) else {
                throw SnapshotError(.notFound, "the snapshot \(key) does not exist")
            }
            return record
        }
    }

    /// Calls `body` with the numbers of all snapshots that have directories; meanwhile none can be made or removed.
    public func withSnapshotDirectories<Result>(_ body: (Set<SnapshotID>) throws -> Result) throws -> Result {
        try write { writer in
            let known = try writer.connection.cached("SELECT id FROM snapshot WHERE view IS NULL")
                .map { SnapshotID($0.integer(0)) }
            return try body(Set(known))
        }
    }

    /// Nanoseconds since 1970.
    private static func now() -> Int64 {
        var now = timespec()
        clock_gettime(CLOCK_REALTIME, &now)
        return Int64(now.tv_sec) * 1_000_000_000 + Int64(now.tv_nsec)
    }

    private func writeSnapshots<Result>(_ body: (Writer) throws -> Result) throws -> Result {
        try writeDurably(changesContents: false, body)
    }
}

extension Writer {
    fileprivate func requireSnapshot(_ key: SnapshotKey) throws -> (SnapshotID, SnapshotKind) {
        let found = try connection.cached("SELECT id, kind FROM snapshot WHERE key = ?")
            .bind(1, blob: key.bytes).first { ($0.integer(0), SnapshotKind(rawValue: $0.integer(1))) }
        guard let (id, kind) = found, let kind else {
            throw SnapshotError(.notFound, "the snapshot \(key) does not exist")
        }
        return (SnapshotID(id), kind)
    }

    fileprivate func committedParent(_ key: SnapshotKey) throws -> SnapshotID {
        let found = try connection.cached("SELECT id, kind FROM snapshot WHERE key = ?").bind(1, blob: key.bytes)
            .first { (SnapshotID($0.integer(0)), $0.integer(1)) }
        guard let (id, kind) = found else {
            throw SnapshotError(.notFound, "the parent snapshot \(key) does not exist")
        }
        guard kind == SnapshotKind.committed.rawValue else {
            throw SnapshotError(.invalidArgument, "the parent snapshot \(key) is not committed")
        }
        return id
    }

    fileprivate func requireFree(_ key: SnapshotKey) throws {
        guard !key.bytes.isEmpty else { throw SnapshotError(.invalidArgument, "a snapshot needs a key") }
        let taken = try connection.cached("SELECT 1 FROM snapshot WHERE key = ?").bind(1, blob: key.bytes)
            .first { _ in true }
        guard taken == nil else { throw SnapshotError(.alreadyExists, "the snapshot \(key) exists") }
    }

    fileprivate func addLabels(_ labels: [String: String], to id: SnapshotID) throws {
        for (name, value) in labels {
            try connection.cached("INSERT OR REPLACE INTO snapshot_label (snapshot, name, value) VALUES (?, ?, ?)")
                .bind(1, id.row).bind(2, text: name).bind(3, text: value).run()
        }
    }
}
