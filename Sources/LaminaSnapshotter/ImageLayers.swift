import Glibc
import LaminaDigest
import LaminaMerge
import LaminaOCI
import LaminaStore
import LaminaSystem
import Synchronization

/// The layers of one image while a client asks for one after the other: the image is resolved once, and each layer is indexed
/// once.
///
/// Clients ask in order and wait for each answer, so the first request begins the work for the next ones. A plain layer that is
/// streamed may take minutes: it goes on while a client waits for a layer of the image, and for a minute after that.
final class ImageLayers: Sendable {
    private enum Progress {
        case waiting
        case running
        /// An error stands until somebody has been told of it, and for a moment: whoever asks after that has it tried again.
        case done(Result<LayerID, any Error>, isTold: Bool, at: ContinuousClock.Instant = .now)
    }

    /// What one kind of work has to do.
    private struct Queue {
        var positions: [Int] = []
        /// Threads that work.
        var workers = 0
    }

    private struct State {
        var image: Result<RemoteImage, any Error>?
        var chains: [String] = []
        var layers: [Int: Progress] = [:]
        var indexing = Queue()
        var streaming = Queue()
        /// Calls that wait for a layer now, and when the last one began or ended.
        var callers = 0
        var lastCall = ContinuousClock.now
        /// The client has been told to get the layers elsewhere.
        var isAbandoned = false
    }

    /// How many requests for one image at a time: the tables of contents are small, and the round trip counts. Streams of all
    /// images share the room for streams, and these threads wait for it.
    private static let workerLimit = 6

    /// How long the streams of an image go on when its client has left: one that comes back soon finds them further.
    static let patience = Duration.seconds(60)

    /// How long the error of a layer that nobody has asked for is the answer.
    private static let errorLimit = Duration.seconds(10)

    private let state = Monitor(State())
    private let isStopping: @Sendable () -> Bool

    init(shouldStop: @escaping @Sendable () -> Bool) { isStopping = shouldStop }

    /// Resolves the image, on the thread of the first caller.
    func begin(_ resolve: () throws -> RemoteImage) {
        let image = Result { try resolve() }
        state.withLock(notify: true) { state in
            if case .success(let image) = image {
                state.chains = LayerNames.chains(image.resolved.diffIDs).map(\.description)
            }
            state.image = image
        }
    }

    /// Whether the registry had the image.
    var isResolved: Bool {
        state.withLock { state in if case .success = state.image { true } else { false } }
    }

    /// Whether a call waits for a layer, or a thread works for one.
    var isBusy: Bool {
        state.withLock { $0.callers > 0 || $0.indexing.workers > 0 || $0.streaming.workers > 0 }
    }

    /// Waits until that is over.
    func waitForEnd(seconds: Double) {
        _ = state.wait(seconds: seconds) {
            $0.callers == 0 && $0.indexing.workers == 0 && $0.streaming.workers == 0 ? () : nil
        }
    }

    /// What the index should know about the image, once it is resolved.
    var image: SnapshotImage? {
        state.withLock { state in
            guard case .success(let image) = state.image else { return nil }
            return SnapshotImage(
                reference: image.resolved.reference.description, manifest: image.resolved.manifestDigest)
        }
    }

    /// Gets the layer with a chain ID into the index; blocks until it is there.
    ///
    /// - Parameters:
    ///   - below: the chain ID of the layer below; nil for the lowest.
    ///   - plain: what becomes of plain layers.
    ///   - isCancelled: whether nobody waits for the answer any more.
    /// - Returns: the layer.
    func layer(
        _ offer: LayerOffer, below: String?, plain: RemoteImage.PlainLayers, isCancelled: () -> Bool
    ) throws -> LayerID {
        let image = try state.wait { $0.image }.get()
        let position = try position(of: offer, below: below, in: image)
        if plain == .refused, image.isPlain(position) {
            throw LayerRefusal(
                "the manifest names no table of contents for the layer \(image.resolved.layers[position].digest), and plain layers are "
                    + "left to containerd here ([snapshotter] plain_layers)")
        }
        // From here up, as far as the client says that it will ask. The same blob may be there twice.
        let wanted = Set(offer.neighbours)
        let ahead = image.resolved.layers.indices[position...].filter {
            ($0 == position || wanted.contains(image.resolved.layers[$0].digest))
                && (plain == .streamed || !image.isPlain($0))
        }
        state.withLock { state in
            state.callers += 1
            state.lastCall = .now
        }
        defer {
            state.withLock(notify: true) { state in
                state.callers -= 1
                state.lastCall = .now
            }
        }
        while true {
            enqueue(ahead, askedFor: position, of: image)
            let result = state.wait(seconds: 0.5) { state -> Result<LayerID, any Error>?? in
                switch state.layers[position] {
                case .done(let result, _, _):
                    state.layers[position] = .done(result, isTold: true)
                    return .some(result)
                // It was given up just before this call came.
                case nil: return .some(nil)
                case .waiting, .running: return nil
                }
            }
            if let result = result ?? nil { return try result.get() }
            if isCancelled() || isStopping() {
                throw SnapshotError(.unavailable, "nobody waits for the layer any more; what has come of it stays")
            }
        }
    }

    private func position(of offer: LayerOffer, below: String?, in image: RemoteImage) throws -> Int {
        let position = try state.withLock { state in
            guard let position = state.chains.firstIndex(of: offer.chain) else {
                throw LayerRefusal(
                    "the image \(image.resolved.reference) of its registry has no layer with the chain ID \(offer.chain): "
                        + "another image has its name now, or it is for another platform")
            }
            guard (position == 0 ? nil : state.chains[position - 1]) == below else {
                throw LayerRefusal("the snapshot below is not the layer below in \(image.resolved.reference)")
            }
            return position
        }
        guard offer.layer == nil || image.resolved.layers[position].digest == offer.layer else {
            throw LayerRefusal("the image \(image.resolved.reference) of its registry has another blob for the layer")
        }
        // An image that says itself which image it is: what it names would be asked for its sake.
        guard
            !image.resolved.layers[position].annotations.keys.contains(where: {
                $0.hasPrefix(LayerOffer.annotationPrefix)
            })
        else { throw LayerRefusal.annotated(image.resolved.reference.description) }
        return position
    }

    /// Has the next question for a layer index it anew: it has gone from the index since.
    func forget(_ layer: LayerID) {
        state.withLock { state in
            for (position, progress) in state.layers {
                if case .done(.success(layer), _, _) = progress { state.layers[position] = nil }
            }
        }
    }

    /// Ends the streams: the client gets a layer elsewhere, and with it all above.
    func abandon() {
        state.withLock(notify: true) { state in
            state.isAbandoned = true
            for position in state.streaming.positions { state.layers[position] = nil }
            state.streaming.positions = []
        }
    }

    /// The image, once it is resolved, and the chain ID of each of its layers.
    func resolved() throws -> (image: RemoteImage, chains: [String]) {
        let image = try state.wait { $0.image }.get()
        return (image, state.withLock { $0.chains })
    }
}

extension ImageLayers {
    private func enqueue(_ positions: [Int], askedFor asked: Int, of image: RemoteImage) {
        let plain = Set(positions.filter(image.isPlain))
        let sizes = image.resolved.layers.map(\.size)
        let starting = state.withLock { state in
            // Another layer may have taken long meanwhile, and the registry may answer now.
            if case .done(.failure, let isTold, let time) = state.layers[asked],
                isTold || .now - time > Self.errorLimit
            {
                state.layers[asked] = nil
            }
            state.isAbandoned = false
            for position in positions where state.layers[position] == nil {
                state.layers[position] = .waiting
                if plain.contains(position) {
                    state.streaming.positions.append(position)
                } else {
                    state.indexing.positions.append(position)
                }
            }
            // The client waits for all of them, so what takes longest begins first.
            state.streaming.positions.sort { (sizes[$1], $0) < (sizes[$0], $1) }
            return (Self.newWorkers(&state.indexing), Self.newWorkers(&state.streaming))
        }
        start(starting.0, \.indexing, .refused, image)
        start(starting.1, \.streaming, .streamed, image)
    }

    /// How many threads are to be started; counts them.
    private static func newWorkers(_ queue: inout Queue) -> Int {
        let count = max(0, min(workerLimit - queue.workers, queue.positions.count))
        queue.workers += count
        return count
    }

    private func start(
        _ count: Int, _ queue: any WritableKeyPath<State, Queue> & Sendable, _ plain: RemoteImage.PlainLayers,
        _ image: RemoteImage
    ) {
        for _ in 0..<count {
            do {
                try startDetached("layers") { self.work(queue, plain, image) }
            } catch {
                // Without a thread the caller does it itself.
                work(queue, plain, image)
            }
        }
    }

    private func work(
        _ queue: any WritableKeyPath<State, Queue> & Sendable, _ plain: RemoteImage.PlainLayers, _ image: RemoteImage
    ) {
        while true {
            let next = state.withLock(notify: true) { state -> Int? in
                guard !state[keyPath: queue].positions.isEmpty, !isStopping() else {
                    state[keyPath: queue].workers -= 1
                    return nil
                }
                let next = state[keyPath: queue].positions.removeFirst()
                state.layers[next] = .running
                return next
            }
            guard let position = next else { return }
            let end = StreamEnd()
            let result = Result {
                try image.index(position, plain: plain, shouldStop: { [self] in end.note(shouldStop) })
            }
            state.withLock(notify: true) { state in
                if case .failure = result, end.hasCome {
                    // The next caller must not get this answer.
                    state.layers[position] = nil
                } else {
                    state.layers[position] = .done(result, isTold: false)
                }
            }
        }
    }

    /// Whether nobody is interested in the layers any more.
    private var shouldStop: Bool {
        isStopping()
            || state.withLock {
                $0.isAbandoned || ($0.callers == 0 && ContinuousClock.now - $0.lastCall > Self.patience)
            }
    }
}

/// Whether work was told to end: what it failed with is no answer then.
private final class StreamEnd: Sendable {
    private let value = Atomic<Bool>(false)
    var hasCome: Bool { value.load(ordering: .relaxed) }

    func note(_ shouldEnd: Bool) -> Bool {
        if shouldEnd { value.store(true, ordering: .relaxed) }
        return shouldEnd
    }
}

/// Why a layer is not made lazy; the sentence is for the log and the index.
struct LayerRefusal: Error, CustomStringConvertible {
    static func annotated(_ image: String) -> LayerRefusal {
        LayerRefusal(
            "the manifest of the layer has the annotations \(LayerOffer.annotationPrefix)* itself, which only clients set (\(image))"
        )
    }

    var description: String
    init(_ description: String) { self.description = description }
}
