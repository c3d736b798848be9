import Synchronization

/// What a connection delivers, and how much is therefore requested of it at once.
///
/// A range lasts long enough that the wait for its answer hardly counts, and no longer: a reader that needs bytes at its end
/// waits for all of it, and it takes its share of the line from what readers ask for meanwhile. Memory does not limit it: bytes
/// are decoded and placed as they come.
struct ConnectionPace: Sendable, Equatable {
    /// Seconds from a request to its first byte; nil before the first answer.
    private(set) var latency: Double?
    /// Of one request, because others run beside it; nil before enough bytes have come.
    private(set) var bytesPerSecond: Double?

    /// How much is requested at once from a connection that is not known yet, in bytes: 8 MiB would take most of a minute on a
    /// line of a quarter of a megabyte a second.
    static let firstRange = 2 << 20
    /// The bounds of what is requested at once while no reader waits, in bytes. Less means too many requests; more brings
    /// nothing, because two requests at a time hide each other's latency.
    static let bounds = (1 << 20)...(32 << 20)
    /// The most that is requested if answers come soon: more brings nothing there, and a killed pull fetches again what its two
    /// requests had on their way.
    private static let longestNearby = 8 << 20
    /// Below this latency, in seconds, a server is nearby.
    private static let nearby = 0.05
    /// The bounds while readers wait.
    static let boundsBesideReaders = (256 << 10)...(8 << 20)

    /// How many times its latency a range should last: a sixteenth is lost in waiting.
    private static let latencyFactor = 16.0
    /// The bounds of how long a range should last, in seconds. While readers wait it is as short as possible: they would notice
    /// more.
    private static let duration = 0.1...1.0
    /// Fewer bytes than this say nothing about a rate: they were on their way before the measurement began.
    private static let leastSample = 128 << 10
    /// The weight of the newest range.
    private static let weight = 0.5

    /// Takes the measurement of one range.
    ///
    /// - Parameters:
    ///   - bytes: how many came.
    ///   - latency: seconds until the first of them.
    ///   - seconds: from the first to the last.
    mutating func note(bytes: Int, latency: Double, seconds: Double) {
        guard bytes > 0 else { return }
        self.latency = Self.blended(self.latency, latency)
        guard bytes >= Self.leastSample else { return }
        // It averages seconds for each byte, not bytes for each second: one range from a cache then does not hide that the
        // others are slow.
        let cost = max(seconds, 1e-6) / Double(bytes)
        bytesPerSecond = 1 / Self.blended(bytesPerSecond.map { 1 / $0 }, cost)
    }

    private static func blended(_ old: Double?, _ new: Double) -> Double {
        old.map { $0 * (1 - weight) + new * weight } ?? new
    }

    /// The compressed bytes of one background request.
    ///
    /// - Parameter besideReaders: whether readers wait for other bytes, or waited a moment ago.
    func rangeSize(besideReaders: Bool) -> Int {
        let bounds = besideReaders ? Self.boundsBesideReaders : Self.bounds
        guard let bytesPerSecond, let latency else { return min(Self.firstRange, bounds.upperBound) }
        let (shortest, longest) = (Self.duration.lowerBound, Self.duration.upperBound)
        let duration = besideReaders ? shortest : min(max(Self.latencyFactor * latency, shortest), longest)
        let longestRange = latency < Self.nearby ? min(bounds.upperBound, Self.longestNearby) : bounds.upperBound
        return Int(min(max(bytesPerSecond * duration, Double(bounds.lowerBound)), Double(longestRange)))
    }

    /// How much to fetch ahead of a reader that reads small files in order: what comes in a second.
    func readAheadSize(limit: Int) -> Int {
        bytesPerSecond.map { Int(min($0, Double(limit))) } ?? limit
    }
}

/// The servers that layers come from, and their paces. A server is the part of a location before the repository, or a
/// directory.
final class ConnectionPaces: Sendable {
    private struct State {
        var numbers: [Substring: Int] = [:]
        var paces: [Int: ConnectionPace] = [:]
    }

    // A layer has few places, and an engine few registries.
    private static let limit = 256
    private let state = Mutex(State())

    /// The number of a location's server; it is the same as long as this object exists.
    func server(of location: String) -> Int { state.withLock { Self.server(of: location, &$0) } }

    /// - Parameter server: nil for one that is not known.
    subscript(server server: Int?) -> ConnectionPace {
        state.withLock { state in server.flatMap { state.paces[$0] } ?? ConnectionPace() }
    }

    subscript(source: SourceKey) -> ConnectionPace {
        guard case .server(let number) = source else { return ConnectionPace() }
        return self[server: number]
    }

    /// Measures one read of `location`; `body` tells the watch about each piece as it comes, and when it wants the next one.
    func measure<Result>(_ location: String, _ body: (PaceWatch) throws -> Result) rethrows -> Result {
        let watch = PaceWatch()
        defer {
            if let (latency, seconds) = watch.seconds {
                state.withLock { state in
                    let server = Self.server(of: location, &state)
                    if state.paces.count >= Self.limit, state.paces[server] == nil { state.paces = [:] }
                    state.paces[server, default: ConnectionPace()].note(
                        bytes: watch.bytes, latency: latency, seconds: seconds)
                }
            }
        }
        return try body(watch)
    }

    private static func server(of location: String, _ state: inout State) -> Int {
        let name = serverName(location)
        if let known = state.numbers[name] { return known }
        let number = state.numbers.count
        state.numbers[name] = number
        return number
    }

    /// `https://host:port` of a registry's location; the whole of any other location.
    static func serverName(_ location: String) -> Substring {
        // It ends at the third slash: the first two belong to "://".
        let slashes = location.indices.lazy.filter { location[$0] == "/" }
        guard location.contains("://"), let third = slashes.dropFirst(2).first else { return location[...] }
        return location[..<third]
    }
}

/// Times one read. The time between a piece and the request for the next one is not the connection's: a busy machine is no slow
/// line.
final class PaceWatch {
    private let clock = ContinuousClock()
    private let start: ContinuousClock.Instant
    private var first: ContinuousClock.Instant?
    private var arrival: ContinuousClock.Instant?
    private var away = Duration.zero
    private(set) var bytes = 0

    init() { start = clock.now }

    func arrived(_ count: Int) {
        let now = clock.now
        if first == nil { first = now }
        arrival = now
        bytes += count
    }

    func goesOn() {
        if let arrival { away += clock.now - arrival }
        arrival = nil
    }

    /// Until the first byte, and from there to now; nil: no byte came.
    var seconds: (latency: Double, rest: Double)? {
        guard let first else { return nil }
        return ((first - start) / .seconds(1), (clock.now - first - away) / .seconds(1))
    }
}
