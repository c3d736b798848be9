import Glibc

/// How a session is set up.
public struct FUSEConfiguration: Sendable {
    /// The subtype: `lamina` shows as `fuse.lamina` in `/proc/mounts`.
    public var subtype = "lamina"
    /// The source that `/proc/mounts` shows; no comma.
    public var source = "lamina"
    /// Whether to ask the kernel for passthrough.
    public var wantsPassthrough = true
    /// While requests come in quick succession: whether the processors are kept from falling asleep (PM QoS, by
    /// /dev/cpu_dma_latency, if the process may), and a thread looks out for the next request. A call through FUSE sleeps
    /// twice. If waking an idle processor takes 40 µs, as on virtual machines, that is most of the call's time.
    public var busyWait = true
    /// Threads that take requests. One a core, because sleeping threads cost nothing; at least four, because one or the other
    /// may wait for the disk; and at most 32, because the kernel hands out requests one by one.
    public var threadCount = min(max(4, Int(sysconf(Int32(_SC_NPROCESSORS_ONLN)))), 32)
    /// Whether other users than the one who mounts may access it.
    public var allowsOtherUsers = true
    /// Read-ahead requests in flight at once, for the whole mount. Parked reads of one file that is still being fetched count
    /// too, and must not keep the kernel (whose own limit is 12) from asking for others.
    public var backgroundRequestLimit: UInt16 = 512
    /// How far the kernel reads ahead in a file that is opened in cached mode, in bytes. The kernel's own default is the
    /// fastest: 1.9 GB/s from the page cache beneath, against 1.4 with 1 MiB, whose replies no longer fit the processor's
    /// cache.
    public var readAhead = 128 << 10
    /// Whether a reply that is dropped unanswered stops a debug build. It answers EIO in any case.
    public var stopsAtDroppedReplies = true

    public init() {}
}
