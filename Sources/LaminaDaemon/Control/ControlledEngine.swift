public import LaminaMerge
public import LaminaStore

/// What the control server asks of the engine: tests use another engine here, without store and kernel.
///
/// All calls block.
public protocol ControlledEngine: Sendable {
    func pull(
        _ reference: String, platform: String?, plainHTTP: Bool, lazy: Bool, pin: Bool?,
        progress: @escaping @Sendable (PullProgress) -> Void, shouldStop: @escaping @Sendable () -> Bool
    ) throws -> PullResult
    func mount(
        _ reference: String, at target: String, upper: String?, platform: String?, plainHTTP: Bool,
        sealed: Bool, rights: MountRights, progress: @escaping @Sendable (PullProgress) -> Void,
        shouldStop: @escaping @Sendable () -> Bool
    ) throws -> MountResult
    func seal(
        _ reference: String, platform: String?, plainHTTP: Bool,
        progress: @escaping @Sendable (PullProgress) -> Void, shouldStop: @escaping @Sendable () -> Bool
    ) throws -> SealResult
    func check(
        _ options: CheckOptions, progress: @escaping @Sendable (PullProgress) -> Void,
        shouldStop: @escaping @Sendable () -> Bool
    ) throws -> CheckReport
    func use(credentialsFile: String, for reference: String) throws
    func unmount(_ target: String) throws
    func mounts() throws -> [MountListing]
    func removeImage(_ reference: String, collects: Bool) throws -> RemoveResult
    func collectGarbage(dryRun: Bool) throws -> GarbageReport
    func pin(_ reference: String, _ isPinned: Bool) throws -> PinResult
    /// Whether the kernel has ended the file system, now that no image is mounted: it is not needed elsewhere.
    func release() throws -> Bool
    func status() -> ServerStatus
    /// In the text format of Prometheus.
    func metrics() throws -> String
    /// Why clients and mounts are not answered; nil if they are.
    func whyNotReady() -> String?
    /// How many requests of the file system were finished: as long as the number grows, it answers.
    var requestProgress: UInt64 { get }
    func shutdown(unmount: Bool)
}

extension Engine: ControlledEngine {
    public func mounts() throws -> [MountListing] {
        try activeMounts().map {
            MountListing(
                target: $0.target, reference: $0.reference, writable: $0.upper, sealed: $0.sealed == nil ? nil : true)
        }
    }
}
