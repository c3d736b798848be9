import Synchronization

/// What a connection gives, and how much is asked of it at once therefore.
///
/// A range lasts long enough that the wait for its answer hardly counts, and no longer: a reader of bytes at its end waits for all
/// of it, and it takes its share of the line from what readers ask for meanwhile. Memory does not limit it: bytes are decoded and
/// placed as they come.
struct ConnectionPace: Sendable, Equatable {
    /// Seconds from a request to its first byte; nil before the first answer.
    private(set) var latency: Double?
    /// Of one request, as others run beside it; nil before enough has come to tell.
    private(set) var bytesPerSecond: Double?

    /// What is asked for at once of a connection that nothing is known of, in bytes: 8 MiB would be most of a minute on a
    /// line of a quarter of a megabyte a second.
    static let firstRange = 2 << 20
    /// The bounds of what is asked for at once while nobody waits, in bytes. Less is more requests than bytes deserve; more
    /// brings nothing, as two requests at a time hide each other's latency.
    static let bounds = (1 << 20)...(32 << 20)
    /// More is not asked for where answers come soon, as more brings nothing there, and what two requests have under way is
    /// what a killed pull fetches again.
    private static let longestNearby = 8 << 20
    /// Below this latency, in seconds, a place is nearby.
    private static let nearby = 0.05
    /// The bounds while readers wait.
    static let boundsBesideReaders = (256 << 10)...(8 << 20)

    /// How many times its latency a range is to last: what is lost in waiting is a sixteenth.
    private static let latencyFactor = 16.0
    /// The bounds of how long a range is to last, in seconds. While readers wait it lasts as short as it may: they would
    /// notice more.
    private static let duration = 0.1...1.0
    /// Fewer bytes than this say nothing of a rate: they were on their way before anybody looked.
    private static let leastSample = 128 << 10
    /// The weight of the newest range.
    private static let weight = 0.5

    /// Takes what one range has shown.
    ///
    /// - Parameters:
    ///   - bytes: how many came.
    ///   - latency: seconds until the first of them.
    ///   - seconds: from the first to the last.
    mutating func note(bytes: Int, latency: Double, seconds: Double) {
        guard bytes > 0 else { return }
        self.latency = Self.blended(self.latency, latency)
        guard bytes >= Self.leastSample else { return }
        // Seconds for each byte are blended, not bytes for each second: one range out of a cache does not hide that the
        // others are slow.
        let cost = max(seconds, 1e-6) / Double(bytes)
        bytesPerSecond = 1 / Self.blended(bytesPerSecond.map { 1 / $0 }, cost)
    }

    private static func blended(_ old: Double?, _ new: Double) -> Double {
        old.map { $0 * (1 - weight) + new * weight } ?? new
    }

    /// The compressed bytes of one background request.
    ///
    /// - Parameter besideReaders: whether readers wait for other bytes, or did a moment ago.
    func rangeSize(besideReaders: Bool) -> Int {
        let bounds = besideReaders ? Self.boundsBesideReaders : Self.bounds
        guard let bytesPerSecond, let latency else { return min(Self.firstRange, bounds.upperBound) }
        let (shortest, longest) = (Self.duration.lowerBound, Self.duration.upperBound)
        let duration = besideReaders ? shortest : min(max(Self.latencyFactor * latency, shortest), longest)
        let longestRange = latency < Self.nearby ? min(bounds.upperBound, Self.longestNearby) : bounds.upperBound
        return Int(min(max(bytesPerSecond * duration, Double(bounds.lowerBound)), Double(longestRange)))
    }

    /// How much to fetch ahead of who reads small files in order: what comes in a second.
    func readAheadSize(limit: Int) -> Int {
        bytesPerSecond.map { Int(min($0, Double(limit))) } ?? limit
    }
}

/// The servers that layers come from, and their paces. A server is what a location names before the repository, or a directory.
final class ConnectionPaces: Sendable {
    private struct State {
        var numbers: [Substring: Int] = [:]
        var paces: [Int: ConnectionPace] = [:]
    }

    // A layer has few places, and an engine few registries.
    private static let limit = 256
    private let state = Mutex(State())

    /// The number of a location's server; the same for as long as this object is.
    func server(of location: String) -> Int { state.withLock { Self.server(of: location, &$0) } }

    /// - Parameter server: nil for one that nothing is known of.
    subscript(server server: Int?) -> ConnectionPace {
        state.withLock { state in server.flatMap { state.paces[$0] } ?? ConnectionPace() }
    }

    subscript(source: SourceKey) -> ConnectionPace {
        guard case .server(let number) = source else { return ConnectionPace() }
        return self[server: number]
    }

    /// Measures one read of `location`; `body` tells the watch of each piece as it comes, and when it wants the next one.
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

    /// `https://host:port` of a registry's location; the whole of another one.
    private static func serverName(_ location: String) -> Substring {
        // The third slash ends it: the first two are of "://".
        let slashes = location.indices.lazy.filter { location[$0] == "/" }
        guard location.contains("://"), let third = slashes.dropFirst(2).first else { return location[...] }
        return location[..<third]
    }
}

/// Times one read. What is done with a piece before the next one is asked for is not the connection's time: a busy machine is
/// no slow line.
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

    /// Until the first byte, and from there to now; nil: none came.
    var seconds: (latency: Double, rest: Double)? {
        guard let first else { return nil }
        return ((first - start) / .seconds(1), (clock.now - first - away) / .seconds(1))
    }
}
