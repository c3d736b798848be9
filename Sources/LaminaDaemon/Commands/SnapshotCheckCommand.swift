import LaminaSnapshotter
import LaminaSystem

#if Containerd
    import LaminaContainerd
#endif

/// `lamina check --containerd`: compares containerd's snapshots with the index, the directories and the mounts.
public struct SnapshotCheckCommand: Sendable {
    /// Where containerd listens by default.
    public static let defaultSocket = "/run/containerd/containerd.sock"
    public static let defaultSnapshotter = "lamina"

    private let socket: String
    private let snapshotter: String

    /// - Parameters:
    ///   - socket: containerd's own.
    ///   - snapshotter: lamina's name in containerd's configuration.
    public init(socket: String, snapshotter: String) {
        self.socket = absolutePath(socket)
        self.snapshotter = snapshotter
    }

    /// - Returns: `damaged` if something differs.
    public func run(_ context: CommandContext) throws -> ExitStatus {
        try context.requireRoot(for: "asking containerd")
        let report = try SnapshotCheck.run(
            SnapshotReport(root: context.root, containerd: socket, snapshotter: snapshotter),
            isServed: context.client.isServed(), view: askContainerd)
        try context.output.show(report) { Self.text(report) }
        return report.differences.isEmpty ? .success : .damaged
    }

    private func askContainerd() throws -> ContainerdView {
        #if Containerd
            // Waits on this thread, which does not belong to Swift's pool.
            let answer = Monitor<Result<ContainerdView, any Error>?>(nil)
            Task { [client = ContainerdClient(socket: socket, snapshotter: snapshotter)] in
                let result: Result<ContainerdView, any Error>
                do { result = .success(try await client.view()) } catch { result = .failure(error) }
                answer.withLock(notify: true) { $0 = result }
            }
            do {
                return try answer.wait { $0 }.get()
            } catch let failure as ContainerdClient.Failure {
                throw DaemonError(
                    failure.isUnavailable ? .noServer : .serverFailed,
                    failure.isUnavailable
                        ? "no containerd answers at \(socket); '--containerd SOCKET' names another one"
                        : "containerd at \(socket) does not say what it has", cause: failure)
            }
        #else
            throw DaemonError(
                .configuration, "this lamina was built without the snapshotter for containerd: build it by 'make build'"
            )
        #endif
    }

    // MARK: Words

    static func text(_ report: SnapshotReport) -> String {
        var lines = report.differences.map { difference in
            let name = printable((difference.namespace.map { $0 + ": " } ?? "") + difference.name)
            return "\(words(difference.kind)): \(name): \(printable(difference.reason))"
        }
        lines.append(
            "\(counted(report.containerdSnapshots, "snapshot")) of containerd in "
                + "\(counted(report.namespaces, "namespace")), \(counted(report.snapshots, "snapshot")) of the store "
                + "(\(report.lazyLayers) lazy), \(counted(report.mounts, "mount")) of them: "
                + (report.differences.isEmpty ? "all agree" : "\(counted(report.differences.count, "difference"))"))
        return lines.joined(separator: "\n")
    }

    private static func words(_ kind: SnapshotDifference.Kind) -> String {
        switch kind {
        case .missing: "missing snapshot"
        case .unknown: "unknown snapshot"
        case .kind: "snapshot of another kind"
        case .parent: "snapshot with another parent"
        case .directory: "directory"
        case .mount: "mount"
        }
    }
}
