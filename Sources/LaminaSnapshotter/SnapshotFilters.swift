public import LaminaStore

/// The filters of a List: a snapshot that passes one of them is listed; without filters, all are.
///
/// containerd's grammar (`filters/parser.go`): `selector ("," selector)*`; a selector is a field path and, unless it only asks
/// for presence, an operator and a value.
public struct SnapshotFilters: Sendable {
    /// What one selector compares.
    struct Selector: Sendable {
        enum Test: Sendable {
            case present
            case equal([UInt8])
            case different([UInt8])
            /// nil: it is not a pattern, and matches nothing, as in containerd.
            case matches(Pattern?)
        }

        var path: [[UInt8]]
        var test: Test
    }

    /// One of these must match, and of each all parts.
    let alternatives: [[Selector]]

    /// - Throws: `SnapshotError.invalidArgument`.
    public init(parsing texts: [String]) throws {
        guard texts.count <= Self.countLimit else {
            throw SnapshotError(.invalidArgument, "\(texts.count) filters are more than \(Self.countLimit)")
        }
        // An empty filter lets everything pass.
        if texts.contains("") {
            alternatives = []
        } else {
            alternatives = try texts.map { try FilterParser.parse($0) }
        }
    }

    private static let countLimit = 1000

    /// Whether a snapshot passes.
    public func matches(_ record: SnapshotRecord) -> Bool {
        alternatives.isEmpty || alternatives.contains { $0.allSatisfy { $0.matches(record) } }
    }

    /// The chain ID that all passing snapshots must have, if it is one; containerd asks for it after each lazy layer.
    var chain: String? {
        let label = [Array("labels".utf8), Array(snapshotChainLabel.utf8)]
        var result: [UInt8]?
        for selectors in alternatives {
            let wanted = selectors.lazy.compactMap { selector -> [UInt8]? in
                guard selector.path == label, case .equal(let value) = selector.test else { return nil }
                return value
            }.first
            guard let wanted, result == nil || result == wanted else { return nil }
            result = wanted
        }
        return result.flatMap { String(validating: $0, as: UTF8.self) }
    }
}

extension SnapshotFilters.Selector {
    func matches(_ record: SnapshotRecord) -> Bool {
        let value = value(of: record)
        switch test {
        case .present: return value != nil
        case .equal(let wanted): return value == wanted
        case .different(let unwanted): return value ?? [] != unwanted
        case .matches(let pattern): return pattern?.matches(value ?? []) ?? false
        }
    }

    /// The field of a snapshot; nil if it has no such field (containerd's `snapshots/storage`: adaptSnapshot).
    private func value(of record: SnapshotRecord) -> [UInt8]? {
        switch String(decoding: path[0], as: UTF8.self) {
        case "name": return record.key.bytes
        case "parent": return record.parent?.bytes ?? []
        case "kind":
            switch record.kind {
            case .active: return Array("active".utf8)
            case .view: return Array("view".utf8)
            case .committed: return Array("committed".utf8)
            }
        case "labels":
            // The rest is one name: `labels."a/b"` and `labels.a.b` alike.
            let name = String(
                decoding: Array(path.dropFirst().joined(separator: [UInt8(ascii: ".")])), as: UTF8.self)
            return record.labels[name].map { Array($0.utf8) }
        default: return nil
        }
    }
}
