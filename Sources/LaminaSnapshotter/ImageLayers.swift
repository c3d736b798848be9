import Glibc
import LaminaDigest
import LaminaMerge
import LaminaOCI
import LaminaStore
import LaminaSystem

/// The layers of one image while a client asks for one after the other: the image is resolved once, and each layer is indexed
/// once.
///
/// Clients ask in order and wait for each answer, so the first request begins the work for the next ones.
final class ImageLayers: Sendable {
    private enum Progress {
        case waiting
        case running
        /// An error stands until somebody has been told of it; whoever asks after that has it tried again.
        case done(Result<LayerID, any Error>, isTold: Bool)
    }

    private struct State {
        var image: Result<RemoteImage, any Error>?
        var chains: [String] = []
        var layers: [Int: Progress] = [:]
        /// Threads that index.
        var workers = 0
        var queue: [Int] = []
    }

    /// How many requests for one image at a time: the tables of contents are small, and the round trip counts.
    private static let workerLimit = 6

    private let state = Monitor(State())
    private let shouldStop: @Sendable () -> Bool

    init(shouldStop: @escaping @Sendable () -> Bool) { self.shouldStop = shouldStop }

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
    /// - Parameter below: the chain ID of the layer below; nil for the lowest.
    /// - Returns: the layer.
    func layer(_ offer: LayerOffer, below: String?) throws -> LayerID {
        let image = try state.wait { $0.image }.get()
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
        // From here up, as far as the client says that it will ask. The same blob may be there twice.
        let wanted = Set(offer.neighbours)
        let ahead = image.resolved.layers.indices[position...].filter {
            $0 == position || wanted.contains(image.resolved.layers[$0].digest)
        }
        enqueue(ahead, askedFor: position, of: image)
        return try state.wait { state -> Result<LayerID, any Error>? in
            guard case .done(let result, _) = state.layers[position] else { return nil }
            state.layers[position] = .done(result, isTold: true)
            return result
        }.get()
    }

    /// Has the next question for a layer index it anew: it has gone from the index since.
    func forget(_ layer: LayerID) {
        state.withLock { state in
            for (position, progress) in state.layers {
                if case .done(.success(layer), _) = progress { state.layers[position] = nil }
            }
        }
    }

    /// The image, once it is resolved, and the chain ID of each of its layers.
    func resolved() throws -> (image: RemoteImage, chains: [String]) {
        let image = try state.wait { $0.image }.get()
        return (image, state.withLock { $0.chains })
    }

    private func enqueue(_ positions: [Int], askedFor asked: Int, of image: RemoteImage) {
        let starting = state.withLock { state in
            if case .done(.failure, isTold: true) = state.layers[asked] { state.layers[asked] = nil }
            for position in positions where state.layers[position] == nil {
                state.layers[position] = .waiting
                state.queue.append(position)
            }
            let count = min(Self.workerLimit - state.workers, state.queue.count)
            state.workers += max(0, count)
            return max(0, count)
        }
        for _ in 0..<starting {
            do {
                try startDetached("index") { self.work(image) }
            } catch {
                // Without a thread the caller does it itself.
                work(image)
            }
        }
    }

    private func work(_ image: RemoteImage) {
        while true {
            let next = state.withLock { state -> Int? in
                guard !state.queue.isEmpty else {
                    state.workers -= 1
                    return nil
                }
                let next = state.queue.removeFirst()
                state.layers[next] = .running
                return next
            }
            guard let position = next else { return }
            let result = Result { try image.index(position, shouldStop: shouldStop) }
            state.withLock(notify: true) { $0.layers[position] = .done(result, isTold: false) }
        }
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
