import FoundationEssentials
import GRPCCore
import LaminaSnapshotter
import LaminaStore
import LaminaSystem
import SwiftProtobuf

/// `containerd.services.snapshots.v1.Snapshots` for a snapshotter: takes requests, gives answers and containerd's error codes.
///
/// The name of the snapshotter in each request is the proxy plugin's and is ignored. Each call blocks on its own thread.
struct SnapshotsService: Containerd_Services_Snapshots_V1_Snapshots.SimpleServiceProtocol {
    let snapshotter: Snapshotter

    func prepare(
        request: Containerd_Services_Snapshots_V1_PrepareSnapshotRequest, context: ServerContext
    ) async throws -> Containerd_Services_Snapshots_V1_PrepareSnapshotResponse {
        let cancellation = context.cancellation
        let mounts = try await answer("prepare") {
            try snapshotter.prepare(
                SnapshotKey(request.key), parent: SnapshotKey(ifAny: request.parent), labels: request.labels,
                isCancelled: { cancellation.isCancelled })
        }
        return .with { $0.mounts = mounts.map(\.message) }
    }

    func view(
        request: Containerd_Services_Snapshots_V1_ViewSnapshotRequest, context: ServerContext
    ) async throws -> Containerd_Services_Snapshots_V1_ViewSnapshotResponse {
        let mounts = try await answer("view") {
            try snapshotter.view(
                SnapshotKey(request.key), parent: SnapshotKey(ifAny: request.parent), labels: request.labels)
        }
        return .with { $0.mounts = mounts.map(\.message) }
    }

    func mounts(
        request: Containerd_Services_Snapshots_V1_MountsRequest, context: ServerContext
    ) async throws -> Containerd_Services_Snapshots_V1_MountsResponse {
        let mounts = try await answer("mounts") { try snapshotter.mounts(SnapshotKey(request.key)) }
        return .with { $0.mounts = mounts.map(\.message) }
    }

    func commit(
        request: Containerd_Services_Snapshots_V1_CommitSnapshotRequest, context: ServerContext
    ) async throws -> Google_Protobuf_Empty {
        try await answer("commit") {
            let key = SnapshotKey(request.key)
            // Only a snapshotter that claims `rebase` is asked for another parent; this one does not claim it.
            if let parent = SnapshotKey(ifAny: request.parent), try snapshotter.stat(key).parent != parent {
                throw SnapshotError(.invalidArgument, "the parent of the snapshot \(key) cannot be changed")
            }
            try snapshotter.commit(key, as: SnapshotKey(request.name), labels: request.labels)
        }
        return Google_Protobuf_Empty()
    }

    func remove(
        request: Containerd_Services_Snapshots_V1_RemoveSnapshotRequest, context: ServerContext
    ) async throws -> Google_Protobuf_Empty {
        try await answer("remove") { try snapshotter.remove(SnapshotKey(request.key)) }
        return Google_Protobuf_Empty()
    }

    func stat(
        request: Containerd_Services_Snapshots_V1_StatSnapshotRequest, context: ServerContext
    ) async throws -> Containerd_Services_Snapshots_V1_StatSnapshotResponse {
        let record = try await answer("stat") { try snapshotter.stat(SnapshotKey(request.key)) }
        return .with { $0.info = record.message }
    }

    func update(
        request: Containerd_Services_Snapshots_V1_UpdateSnapshotRequest, context: ServerContext
    ) async throws -> Containerd_Services_Snapshots_V1_UpdateSnapshotResponse {
        // Other fields of the request's info (a kind, times in the year 1) are junk of the client's language.
        let record = try await answer("update") {
            try snapshotter.update(
                SnapshotKey(request.info.name), labels: request.info.labels, paths: request.updateMask.paths)
        }
        return .with { $0.info = record.message }
    }

    func list(
        request: Containerd_Services_Snapshots_V1_ListSnapshotsRequest,
        response: RPCWriter<Containerd_Services_Snapshots_V1_ListSnapshotsResponse>, context: ServerContext
    ) async throws {
        let filters = try await answer("list") { try SnapshotFilters(parsing: request.filters) }
        var next: SnapshotID?
        repeat {
            let after = next
            let page = try await answer("list") { try snapshotter.list(filters, after: after) }
            if !page.records.isEmpty { try await response.write(.with { $0.info = page.records.map(\.message) }) }
            next = page.next
        } while next != nil
    }

    func usage(
        request: Containerd_Services_Snapshots_V1_UsageRequest, context: ServerContext
    ) async throws -> Containerd_Services_Snapshots_V1_UsageResponse {
        let usage = try await answer("usage") { try snapshotter.usage(SnapshotKey(request.key)) }
        return .with {
            $0.size = usage.bytes
            $0.inodes = usage.inodes
        }
    }

    func cleanup(
        request: Containerd_Services_Snapshots_V1_CleanupRequest, context: ServerContext
    ) async throws -> Google_Protobuf_Empty {
        try await answer("cleanup") { try snapshotter.cleanup() }
        return Google_Protobuf_Empty()
    }

    /// Runs a call outside Swift's pool; its errors become gRPC codes, one to one with containerd's errors.
    private func answer<Value: Sendable>(
        _ name: String, _ body: @escaping @Sendable () throws -> Value
    ) async throws -> Value {
        do {
            return try await onThread(name, body)
        } catch let error as SnapshotError {
            throw RPCError(code: RPCError.Code(error.code), message: error.message)
        } catch {
            throw RPCError(code: .unknown, message: "\(error)")
        }
    }
}

extension RPCError.Code {
    init(_ code: SnapshotError.Code) {
        self =
            switch code {
            case .notFound: .notFound
            case .alreadyExists: .alreadyExists
            case .invalidArgument: .invalidArgument
            case .failedPrecondition: .failedPrecondition
            case .unavailable: .unavailable
            }
    }
}

extension SnapshotKey {
    /// nil for no bytes, which mean no parent.
    init?(ifAny bytes: Data) {
        guard !bytes.isEmpty else { return nil }
        self.init(bytes)
    }
}

extension SnapshotMount {
    var message: Containerd_Services_Snapshots_V1_Mount {
        .with {
            $0.type = type
            $0.source = source
            $0.options = options
        }
    }
}

extension SnapshotRecord {
    var message: Containerd_Services_Snapshots_V1_Info {
        .with {
            $0.name = Data(key.bytes)
            if let parent { $0.parent = Data(parent.bytes) }
            $0.kind =
                switch kind {
                case .view: .view
                case .active: .active
                case .committed: .committed
                }
            $0.createdAt = Self.timestamp(createdAt)
            $0.updatedAt = Self.timestamp(updatedAt)
            $0.labels = labels
        }
    }

    private static func timestamp(_ nanoseconds: Int64) -> Google_Protobuf_Timestamp {
        .with {
            $0.seconds = nanoseconds / 1_000_000_000
            $0.nanos = Int32(nanoseconds % 1_000_000_000)
        }
    }
}
