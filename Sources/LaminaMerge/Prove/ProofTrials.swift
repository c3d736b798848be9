import LaminaStore
import Synchronization

/// Which layers could not be proven, and when each is looked at again. A layer whose registry refuses what the proof needs, or
/// takes long for it, does not stand before the others.
struct ProofTrials {
    private struct Trial {
        var failures = 0
        var notBefore: ContinuousClock.Instant
    }

    /// A layer that cannot be proven is looked at again after this time, then after twice as long, up to the limit; in seconds.
    static let firstPause = 10.0
    static let longestPause = 600.0
    /// How long the registry may take for one proof the first time, then for twice as long, up to the limit; in seconds. The
    /// others wait for that.
    static let firstRead = 60.0
    static let longestBackgroundRead = 120.0
    /// The same where somebody waits for the proof of this layer, and nobody else does.
    static let longestRead = 600.0

    private var trials: [LayerID: Trial] = [:]

    /// When the next of them is due.
    var next: ContinuousClock.Instant? { trials.values.map(\.notBefore).min() }

    /// Those of the layers that are to be proven now: first the ones that have never failed. Forgets all that are not listed.
    mutating func due(of layers: [LayerID], at now: ContinuousClock.Instant) -> [LayerID] {
        let listed = Set(layers)
        trials = trials.filter { listed.contains($0.key) }
        let late = layers.filter { layer in trials[layer].map { $0.notBefore <= now } ?? false }
        return layers.filter { trials[$0] == nil } + late
    }

    /// How long the registry of a layer may take this time, in seconds.
    func readLimit(of layer: LayerID) -> Double {
        min(Self.firstRead * Self.factor(trials[layer]?.failures ?? 0), Self.longestBackgroundRead)
    }

    /// - Returns: after how many seconds the layer is looked at again.
    mutating func failed(_ layer: LayerID, at now: ContinuousClock.Instant) -> Double {
        let failures = trials[layer]?.failures ?? 0
        let pause = min(Self.firstPause * Self.factor(failures), Self.longestPause)
        trials[layer] = Trial(failures: failures + 1, notBefore: now + .seconds(pause))
        return pause
    }

    /// Looks at a layer again after a while, though it has not failed.
    mutating func postpone(_ layer: LayerID, at now: ContinuousClock.Instant) {
        trials[layer] = Trial(failures: trials[layer]?.failures ?? 0, notBefore: now + .seconds(Self.firstPause))
    }

    mutating func succeeded(_ layer: LayerID) { trials[layer] = nil }

    private static func factor(_ failures: Int) -> Double { Double(1 << min(failures, 10)) }
}

/// How long the reads of one proof take: they end when nothing comes for a while, and when all of them together take too long,
/// because a registry that gives a byte now and then never stalls.
final class ProofReads: Sendable {
    private struct State {
        /// What earlier reads took.
        var spent = Duration.zero
        var began: ContinuousClock.Instant?
        var lastBytes: ContinuousClock.Instant?
    }

    /// How long nothing may come.
    static let stallLimit: Duration = .seconds(30)

    private let limit: Duration
    private let state = Mutex(State())

    /// - Parameter seconds: what all reads may take together.
    init(seconds: Double) { limit = .seconds(seconds) }

    /// A source is asked.
    func begin(at now: ContinuousClock.Instant) {
        state.withLock { state in
            state.began = now
            state.lastBytes = now
        }
    }

    func arrived(at now: ContinuousClock.Instant) { state.withLock { $0.lastBytes = now } }

    /// A source has given everything, or has failed.
    func end(at now: ContinuousClock.Instant) {
        state.withLock { state in
            if let began = state.began { state.spent += now - began }
            state.began = nil
            state.lastBytes = nil
        }
    }

    /// Whether the source that is being read brings nothing.
    func isStalled(at now: ContinuousClock.Instant) -> Bool {
        state.withLock { state in state.lastBytes.map { now - $0 > Self.stallLimit } ?? false }
    }

    /// Whether no other source is asked either.
    func isOver(at now: ContinuousClock.Instant) -> Bool {
        state.withLock { state in state.spent + (state.began.map { now - $0 } ?? .zero) > limit }
    }
}
