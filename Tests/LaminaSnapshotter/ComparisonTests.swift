import Testing

@testable import LaminaSnapshotter
@testable import LaminaStore

@Suite("containerd's snapshots against lamina's")
struct ComparisonTests {
    /// What lamina has: two lazy layers that two namespaces share, an unpacked one, and a container's above each.
    private static let records = [
        record(1, "lamina-layer/sha256:a", layer: true),
        record(2, lazy("sha256:b", on: "lamina-layer/sha256:a"), on: "lamina-layer/sha256:a", layer: true),
        record(3, "k8s.io/7/sha256:plain"),
        record(4, "k8s.io/9/web one/1", on: lazy("sha256:b", on: "lamina-layer/sha256:a"), .active),
        record(5, "default/9/web one/1", on: "k8s.io/7/sha256:plain", .view),
    ]

    private static let view: ContainerdView = {
        var view = ContainerdView()
        view.namespaces = ["default", "k8s.io"]
        view.snapshots = [
            // Not in the order of parents.
            snapshot("k8s.io", "web one/1", on: "sha256:b", .active), snapshot("k8s.io", "sha256:b", on: "sha256:a"),
            snapshot("k8s.io", "sha256:a"), snapshot("k8s.io", "sha256:plain"), snapshot("default", "sha256:a"),
            snapshot("default", "sha256:b", on: "sha256:a"),
        ]
        return view
    }()

    private static func lazy(_ chain: String, on parent: String) -> String {
        String(decoding: LayerNames.committed(chain: chain, parent: SnapshotKey(parent)).bytes, as: UTF8.self)
    }

    private static func record(
        _ id: Int64, _ key: String, on parent: String? = nil, _ kind: SnapshotKind = .committed, layer: Bool = false
    ) -> SnapshotRecord {
        SnapshotRecord(
            id: SnapshotID(id), key: SnapshotKey(key), parent: parent.map { SnapshotKey($0) }, kind: kind,
            layer: layer ? LayerID(id) : nil, view: layer ? ViewID(id) : nil, usage: nil, createdAt: 0, updatedAt: 0,
            labels: [:])
    }

    private static func snapshot(
        _ namespace: String, _ key: String, on parent: String? = nil, _ kind: SnapshotKind = .committed
    ) -> ContainerdSnapshot {
        ContainerdSnapshot(
            namespace: namespace, key: SnapshotKey(key), parent: parent.map { SnapshotKey($0) }, kind: kind)
    }

    /// The differences, as `kind namespace name`.
    private func differences(_ view: ContainerdView, _ records: [SnapshotRecord]) -> [String] {
        SnapshotComparison.differences(of: view, and: records).map {
            "\($0.kind.rawValue) \($0.namespace ?? "-") \($0.name)"
        }
    }

    @Test(
        "agree where each is found by its name and by what is below it; only what containerd does not list is left over"
    )
    func agreement() {
        #expect(differences(Self.view, Self.records) == ["unknown - default/9/web one/1"])
        #expect(differences(Self.view, Array(Self.records.dropLast())) == [])
        #expect(differences(ContainerdView(), []) == [])
    }

    @Test(
        "one that containerd lists, that a child is made upon, that a container or an image needs, and that is not there"
    )
    func missing() {
        let records = Array(Self.records.dropLast())
        var view = Self.view
        view.snapshots.append(Self.snapshot("default", "own", .active))
        #expect(differences(view, records) == ["missing default own"])

        view = Self.view
        view.snapshots.removeAll { $0.namespace == "k8s.io" && $0.key == SnapshotKey("sha256:plain") }
        #expect(differences(view, records) == ["unknown - k8s.io/7/sha256:plain"])

        // containerd does not list what lamina does not have.
        view = Self.view
        view.snapshots.removeAll { $0.key == SnapshotKey("sha256:a") }
        #expect(
            differences(view, Array(records.dropFirst())).contains("missing k8s.io sha256:a"),
            "\(differences(view, Array(records.dropFirst())))")

        view = Self.view
        view.references = [
            SnapshotReference(namespace: "default", key: SnapshotKey("web one/1"), holder: "the container web"),
            SnapshotReference(namespace: "k8s.io", key: SnapshotKey("web one/1"), holder: "the container web"),
            SnapshotReference(namespace: "default", key: SnapshotKey("sha256:c"), holder: "an unpacked image"),
        ]
        #expect(differences(view, records) == ["missing default web one/1", "missing default sha256:c"])
    }

    @Test("one of another kind, or upon another parent")
    func others() {
        var records = Array(Self.records.dropLast())
        records[3] = Self.record(4, "k8s.io/9/web one/1", on: "k8s.io/7/sha256:plain", .view)
        #expect(differences(Self.view, records) == ["kind k8s.io web one/1", "parent k8s.io web one/1"])
        records[3] = Self.record(4, "k8s.io/9/web one/1", .active)
        #expect(differences(Self.view, records) == ["parent k8s.io web one/1"])
    }

    @Test("of two of one name, the one that is meant is found, and the other one is left over")
    func older() {
        let records =
            Array(Self.records.dropLast()) + [
                Self.record(8, "k8s.io/3/web one/1", on: "k8s.io/7/sha256:plain", .active)
            ]
        #expect(differences(Self.view, records) == ["unknown - k8s.io/3/web one/1"])
    }

    @Test("a ring, which is no chain of snapshots, does not hang it")
    func ring() {
        var view = ContainerdView()
        view.snapshots = [Self.snapshot("n", "a", on: "b"), Self.snapshot("n", "b", on: "a")]
        let records = [Self.record(1, "n/1/a", on: "n/2/b"), Self.record(2, "n/2/b", on: "n/1/a")]
        _ = differences(view, records)
        #expect(differences(view, []).count == 2)
    }

    @Test("names that are no names of containerd's belong to nobody")
    func names() {
        let records = ["", "a", "a/b", "a/b/c", "a//c", "/1", "a/1x/c"].enumerated().map {
            Self.record(Int64($0.offset + 1), $0.element)
        }
        #expect(differences(ContainerdView(), records).count == records.count)
    }
}
