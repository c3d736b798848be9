import LaminaOCI
import LaminaStore
import Synchronization

/// Opens the places where layers can be had, once each.
final class SourceCache: Sendable {
    private struct State {
        var blobs: [LayerID: LayerBlob] = [:]
        var sources: [String: any BlobSource] = [:]
    }

    private let index: Index
    private let state = Mutex(State())

    init(index: Index) { self.index = index }

    /// A layer's blob and the sources that have it.
    func sources(of layer: LayerID) throws -> (blob: LayerBlob, sources: [any BlobSource]) {
        let known = state.withLock { $0.blobs[layer] }
        guard let blob = try known ?? index.blob(of: layer) else {
            throw MergeError(.index, "\(layer) is not in the index")
        }
        state.withLock { $0.blobs[layer] = blob }
        return (blob, try blob.locations.map { try source(at: $0) })
    }

    /// Uses an open source for its location from now on, and looks up the layers' locations anew.
    func add(_ source: any BlobSource) {
        state.withLock { state in
            state.sources[source.location] = source
            state.blobs = [:]
        }
    }

    private func source(at location: String) throws -> any BlobSource {
        if let known = state.withLock({ $0.sources[location] }) { return known }
        let opened = try BlobSources.open(location)
        return state.withLock { state in
            let source = state.sources[location] ?? opened
            state.sources[location] = source
            return source
        }
    }
}
