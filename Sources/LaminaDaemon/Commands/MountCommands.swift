import Glibc
import LaminaOCI
import LaminaStore
import LaminaSystem

/// `lamina mount`: an image becomes a directory.
public struct MountCommand: Sendable {
    public var reference: String
    public var target: String
    public var upper: String?
    public var platform: String?
    public var plainHTTP: Bool
    public var credentialsFile: String?
    /// Whether the mount must need no server.
    public var sealed: Bool
    /// Whether set-user-ID programs of the image gain rights, and its device files open devices.
    public var suid: Bool
    public var dev: Bool

    public init(
        reference: String, target: String, upper: String?, platform: String?, plainHTTP: Bool,
        credentialsFile: String? = nil, sealed: Bool = false, suid: Bool = false, dev: Bool = false
    ) {
        self.sealed = sealed
        (self.suid, self.dev) = (suid, dev)
        self.credentialsFile = credentialsFile
        self.reference = reference
        self.target = target
        self.upper = upper
        self.platform = platform
        self.plainHTTP = plainHTTP
    }

    public func run(_ context: CommandContext) throws {
        let request = try makeRequest(context)
        try context.requireRoot(for: "mounting")
        Interrupts.install()
        let display = ProgressDisplay(output: context.output)
        let result = try stoppable("mount") {
            defer { display.end() }
            return try mount(request, context) { progress in
                // What takes no time is not reported.
                if sealed || progress.stage == .streaming { display.show(progress) }
            }
        }
        guard MountNamespaces.isSeen(result.target, root: context.root) else {
            let server = try? context.client.status().pid
            _ = try? context.client.unmount(UnmountRequest(target: result.target))
            throw MountNamespaces.unseen(result.target, server: server)
        }
        if let warning = result.warning { context.output.warn(warning) }
        try context.output.show(result) {
            "\(result.target): \(result.reference), \(counted(result.layers, "layer"))"
                + (result.writable.map { ", writes go to \($0)" } ?? ", read-only")
                + (result.sealed == true ? ", sealed: no server is needed for it" : "")
        }
    }

    /// Checks the user's input before any request; relative paths become absolute.
    func makeRequest(_ context: CommandContext) throws -> MountRequest {
        var request = MountRequest(
            reference: try ImageReference(parsing: reference).description, target: try Self.directory(target, "DIR"),
            upper: try upper.map { try Self.directory($0, "--rw") },
            platform: try platform.map { try Platform(parsing: $0).description },
            plainHTTP: plainHTTP || context.configuration.speaksPlainHTTP(reference),
            credentialsFile: credentialsFile.map(absolutePath), sealed: sealed ? true : nil,
            rights: MountRights(setUserID: suid, devices: dev))
        request.targetIdentity = MountNamespaces.identity(of: request.target)
        request.upperIdentity = request.upper.flatMap(MountNamespaces.identity)
        return request
    }

    /// The real path, as the kernel will show it.
    private static func directory(_ path: String, _ name: String) throws(DaemonError) -> String {
        guard let real = realPath(path) else {
            throw DaemonError(.notFound, "\(name) \(path): \(SystemError.text(of: errno)); make the directory first")
        }
        guard ImageReference.isDirectory(real) else { throw DaemonError(.usage, "\(name) \(path) is no directory") }
        return real
    }

    private func mount(
        _ request: MountRequest, _ context: CommandContext, progress: (PullProgress) -> Void
    ) throws -> MountResult {
        let deadline = monotonicSeconds() + EngineAccess.patience
        while true {
            do {
                return try context.client.mount(request, progress: progress)
            } catch let error as DaemonError where error.code == .noServer {
                do {
                    try ServerLauncher(context: context).launch()
                } catch let error as DaemonError where error.code == .remote(exitCode: ExitStatus.tryAgain.rawValue) {
                    // A process has the store: perhaps a server that another command has just started, or one that is ending.
                    let served = try context.client.isServed()
                    guard served || error.message.contains("lamina serve"), monotonicSeconds() < deadline else {
                        throw error
                    }
                    usleep(50_000)
                }
            }
        }
    }
}

/// `lamina umount`: a mount ends.
public struct UnmountCommand: Sendable {
    public var target: String

    public init(target: String) { self.target = target }

    public func run(_ context: CommandContext) throws {
        try context.requireRoot(for: "unmounting")
        // Only by its links: a mount whose server is gone cannot be looked at.
        let request = UnmountRequest(target: resolvedPath(absolutePath(target)))
        let result: MountListing
        do {
            result = try context.client.unmount(request)
            try MountNamespaces.endCopy(at: request.target, root: context.root)
        } catch let error as DaemonError where error.code == .noServer {
            if let ended = try endSealed(request.target, context) { return try show(ended, context) }
            throw DaemonError(
                .noServer,
                "no lamina server runs for \(context.root), so \(request.target) is no mount of it; "
                    + "'umount \(request.target)' ends what another left")
        }
        try show(result, context)
    }

    private func show(_ result: MountListing, _ context: CommandContext) throws {
        try context.output.show(result) { "\(result.target): unmounted" }
    }

    /// Ends a mount that needs no server, if none runs.
    ///
    /// - Returns: nil if the store has no such mount there.
    private func endSealed(_ target: String, _ context: CommandContext) throws -> MountListing? {
        let known: MountRecord?
        do {
            known = try Index(root: context.root).mounts().first { $0.target == target && $0.sealed != nil }
        } catch let error as StoreError where error.code == .missing {
            // Without a store there are no mounts.
            return nil
        }
        guard let known else { return nil }
        let engine = try Engine(root: context.root, configuration: context.configuration, log: context.log)
        defer { engine.shutdown(unmount: false) }
        try engine.unmount(target, isAlone: true)
        try engine.tidySeals()
        return MountListing(target: target, reference: known.reference, writable: known.upper, sealed: true)
    }
}
