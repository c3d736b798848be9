import LaminaOCI
public import LaminaSystem
import Synchronization

/// What a merge engine does, and what it did since it started. Counters never go down while the process lives; each may lag
/// behind by what is being done at the moment.
public struct MergeStatistics: Sendable {
    /// What readers ask for and no fetcher has started.
    public var queued = 0
    /// Contents of which something is on its way or requested.
    public var running = 0
    /// Uncompressed bytes that were verified and written to backing files.
    public var landedBytes: UInt64 = 0
    /// Compressed bytes that were fetched.
    public var fetchedBytes: UInt64 = 0
    /// Compressed and uncompressed bytes between source and store now.
    public var inFlightBytes = 0
    /// Seconds from a content's first request until it was whole, for those that were merged.
    public var durations: Histogram.Snapshot
    /// Bytes that could not be fetched, or were wrong, by cause; every cause is listed.
    public var failures: [FetchFailure: UInt64]
}

/// Why bytes could not be fetched: causes that an operator would look into, and few enough for a dashboard.
public enum FetchFailure: String, Sendable, CaseIterable {
    /// The blob, manifest or tag does not exist any more.
    case notFound = "not_found"
    case unauthorized
    /// No connection, or one that broke.
    case network
    /// Nothing, or too little, came during the time that lamina waits.
    case stalled
    /// The server said "later" (429, 5xx) for too long.
    case unavailable
    /// The server's answer made no sense.
    case http
    /// The bytes do not have their digest, do not decompress, or are too few or too many.
    case wrongBytes = "wrong_bytes"
    /// The disk, the configuration, the image.
    case other

    /// nil for what is no failure: the caller asked it to stop.
    public init?(_ error: any Error) {
        switch error {
        case let error as OCIError:
            switch error.code {
            case .interrupted: return nil
            case .notFound: self = .notFound
            case .unauthorized: self = .unauthorized
            case .network, .tls: self = .network
            case .stalled, .slow: self = .stalled
            case .unavailable: self = .unavailable
            case .http: self = .http
            case .sizeMismatch, .digestMismatch: self = .wrongBytes
            case .badReference, .badConfiguration, .badManifest, .badLayout, .unsupported, .noPlatform, .io:
                self = .other
            }
        case let error as MergeError:
            switch error.code {
            case .interrupted: return nil
            case .digestMismatch, .disproven, .corrupt: self = .wrongBytes
            case .fetch:
                guard let cause = error.cause else {
                    self = .other
                    return
                }
                self.init(cause)
            case .write, .unsupportedLayer, .badImage, .wrongDigest, .index: self = .other
            }
        default: self = .other
        }
    }
}

/// What is counted as it happens.
final class MergeCounters: Sendable {
    let durations = Histogram(bounds: Histogram.seconds)
    let landedBytes = Atomic<UInt64>(0)
    let fetchedBytes = Atomic<UInt64>(0)
    private let failures = Mutex<[FetchFailure: UInt64]>([:])

    func count(_ failure: FetchFailure?) {
        guard let failure else { return }
        failures.withLock { $0[failure, default: 0] += 1 }
    }

    var failureCounts: [FetchFailure: UInt64] {
        let counts = failures.withLock { $0 }
        return Dictionary(uniqueKeysWithValues: FetchFailure.allCases.map { ($0, counts[$0] ?? 0) })
    }

    /// Counts compressed bytes that were fetched.
    func countFetched(_ bytes: Int64) { fetchedBytes.add(UInt64(bytes), ordering: .relaxed) }
}

extension MergeEngine {
    public var statistics: MergeStatistics {
        let (queued, running) = context.board.counts
        let counters = context.counters
        return MergeStatistics(
            queued: queued, running: running, landedBytes: counters.landedBytes.load(ordering: .relaxed),
            fetchedBytes: totalFetchedBytes, inFlightBytes: inFlightBytes, durations: counters.durations.snapshot,
            failures: counters.failureCounts)
    }

    /// Counts a failure outside the fetchers, such as that of a request for a manifest.
    public func countFailure(_ error: any Error) { context.counters.count(FetchFailure(error)) }

    /// Counts bytes that were fetched outside the fetchers.
    func countFetched(_ bytes: Int64) { context.counters.countFetched(bytes) }
}
