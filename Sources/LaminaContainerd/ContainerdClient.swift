import FoundationEssentials
import GRPCCore
import GRPCNIOTransportHTTP2Posix
public import LaminaSnapshotter
import LaminaStore
import SwiftProtobuf

/// Asks a running containerd, at its own socket, what it knows about a snapshotter.
public struct ContainerdClient: Sendable {
    /// Why it did not answer.
    public struct Failure: Error, CustomStringConvertible {
        /// Whether no containerd is there.
        public var isUnavailable: Bool
        public var description: String
    }

    private let socket: String
    private let snapshotter: String

    /// - Parameter snapshotter: its name in containerd's configuration.
    public init(socket: String, snapshotter: String) { (self.socket, self.snapshotter) = (socket, snapshotter) }

    /// All that containerd knows about the snapshotter, after it has collected what was removed.
    ///
    /// - Throws: `Failure`.
    public func view() async throws -> ContainerdView {
        do {
            // Otherwise the authority would be the socket's path, which HTTP does not allow there.
            let transport = try HTTP2ClientTransport.Posix(
                target: .unixDomainSocket(path: socket, authority: "localhost"), transportSecurity: .plaintext)
            return try await withGRPCClient(transport: transport) { try await view(ContainerdCalls(client: $0)) }
        } catch let error as RPCError {
            throw Failure(isUnavailable: error.code == .unavailable, description: "\(error.code): \(error.message)")
        }
    }

    private func view(_ calls: ContainerdCalls) async throws -> ContainerdView {
        let listed: Lamina_Containerd_ListNamespacesResponse = try await calls.ask(
            "containerd.services.namespaces.v1.Namespaces/List", Lamina_Containerd_ListRequest())
        var view = ContainerdView()
        view.namespaces = listed.namespaces.map(\.name).sorted()
        if let first = view.namespaces.first { try await collectGarbage(calls, namespace: first) }
        for name in view.namespaces {
            view.snapshots += try await snapshots(calls, name)
            view.references += try await containers(calls, name)
            view.references += try await unpacked(calls, name)
        }
        return view
    }

    /// Has containerd collect its garbage and the snapshotter's: containerd forgets at once what was removed, but tells its
    /// snapshotter only then.
    ///
    /// The deletion of a lease, in any namespace, waits for that if it is asked to; `ctr content prune references` does this.
    /// containerd includes the snapshotter only if one of its snapshots is removed, so this makes a snapshot that nothing
    /// holds.
    private func collectGarbage(_ calls: ContainerdCalls, namespace: String) async throws {
        let _: Containerd_Services_Snapshots_V1_PrepareSnapshotResponse = try await calls.ask(
            "containerd.services.snapshots.v1.Snapshots/Prepare",
            Containerd_Services_Snapshots_V1_PrepareSnapshotRequest.with {
                $0.snapshotter = snapshotter
                $0.key = Data("lamina-check-\(UInt64.random(in: 0 ... .max))".utf8)
            }, in: namespace)
        // For the case that this process dies in between.
        let end = Date(timeIntervalSinceNow: 60).formatted(.iso8601)
        let created: Lamina_Containerd_CreateLeaseResponse = try await calls.ask(
            "containerd.services.leases.v1.Leases/Create",
            Lamina_Containerd_CreateLeaseRequest.with { $0.labels = ["containerd.io/gc.expire": end] }, in: namespace)
        // The answer has no fields.
        let _: Lamina_Containerd_ListRequest = try await calls.ask(
            "containerd.services.leases.v1.Leases/Delete",
            Lamina_Containerd_DeleteLeaseRequest.with {
                $0.id = created.lease.id
                $0.sync = true
            }, in: namespace)
    }

    private func snapshots(_ calls: ContainerdCalls, _ namespace: String) async throws -> [ContainerdSnapshot] {
        try await calls.list(
            "containerd.services.snapshots.v1.Snapshots/List",
            Containerd_Services_Snapshots_V1_ListSnapshotsRequest.with { $0.snapshotter = snapshotter }, in: namespace
        ) { (page: Containerd_Services_Snapshots_V1_ListSnapshotsResponse) in
            try page.info.map { try ContainerdSnapshot($0, namespace) }
        }
    }

    /// The snapshots that containers have.
    private func containers(_ calls: ContainerdCalls, _ namespace: String) async throws -> [SnapshotReference] {
        try await calls.list(
            "containerd.services.containers.v1.Containers/ListStream", Lamina_Containerd_ListRequest(), in: namespace
        ) { [snapshotter] (message: Lamina_Containerd_ListContainerMessage) in
            let container = message.container
            guard container.snapshotter == snapshotter, let key = SnapshotKey(ifAny: container.snapshotKey) else {
                return []
            }
            return [SnapshotReference(namespace: namespace, key: key, holder: "the container \(container.id)")]
        }
    }

    /// The snapshots of unpacked images: the configuration's blob is labelled with the chain ID of the top layer, so that the
    /// snapshot stays as long as the image.
    private func unpacked(_ calls: ContainerdCalls, _ namespace: String) async throws -> [SnapshotReference] {
        let label = "containerd.io/gc.ref.snapshot." + snapshotter
        return try await calls.list(
            "containerd.services.content.v1.Content/List",
            Lamina_Containerd_ListRequest.with { $0.filters = ["labels.\"\(label)\""] }, in: namespace
        ) { (page: Lamina_Containerd_ListContentResponse) in
            page.info.compactMap { blob in
                guard let chain = blob.labels[label], !chain.isEmpty else { return nil }
                return SnapshotReference(
                    namespace: namespace, key: SnapshotKey(chain),
                    holder: "an unpacked image (configuration \(blob.digest))")
            }
        }
    }
}

extension ContainerdSnapshot {
    init(_ info: Containerd_Services_Snapshots_V1_Info, _ namespace: String) throws {
        let kind: SnapshotKind
        switch info.kind {
        case .view: kind = .view
        case .active: kind = .active
        case .committed: kind = .committed
        default:
            throw ContainerdClient.Failure(
                isUnavailable: false, description: "containerd lists a snapshot of the kind \(info.kind.rawValue)")
        }
        self.init(
            namespace: namespace, key: SnapshotKey(info.name), parent: SnapshotKey(ifAny: info.parent), kind: kind)
    }
}
