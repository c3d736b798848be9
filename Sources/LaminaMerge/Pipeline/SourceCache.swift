import LaminaFormats
import LaminaOCI
import LaminaStore
import Synchronization

/// Opens the sources of layers, each once.
final class SourceCache: Sendable {
    private struct State {
        var blobs: [LayerID: LayerBlob] = [:]
        var sources: [String: any BlobSource] = [:]
        /// The repositories, by their locations.
        var origins: [String: Origin] = [:]
        /// Counts how often `blobs` was emptied.
        var generation = 0
    }

    private let index: Index
    private let registries: Registries
    private let state = Mutex(State())

    init(index: Index, registries: Registries) {
        self.index = index
        self.registries = registries
    }

    /// A layer's blob and the sources that have it.
    func sources(of layer: LayerID) throws -> (blob: LayerBlob, sources: [any BlobSource]) {
        let (known, generation) = state.withLock { ($0.blobs[layer], $0.generation) }
        guard let blob = try known ?? index.blob(of: layer) else {
            throw MergeError(.index, "\(layer) is not in the index")
        }
        // Not if it was read before a source was added.
        state.withLock { if $0.generation == generation { $0.blobs[layer] = blob } }
        var failure: (any Error)?
        let sources = blob.locations.compactMap { location -> (any BlobSource)? in
            do {
                return try source(at: location)
            } catch {
                failure = error
                return nil
            }
        }
        // One source that cannot be used is no reason not to use the others.
        if sources.isEmpty, let failure { throw failure }
        // Who was wrong by one table of contents may be right by another.
        return (blob, sources.map { $0.trusting(blob.tocDigest) })
    }

    /// For whose images a layer is. Reads the index once for each layer.
    func origin(of layer: LayerID) -> Origin {
        let (known, generation) = state.withLock { ($0.blobs[layer], $0.generation) }
        guard let blob = known ?? (try? index.blob(of: layer)) else { return .any }
        return state.withLock { state in
            if state.generation == generation { state.blobs[layer] = blob }
            if let origin = state.origins[blob.origin] { return origin }
            // Never given to another one: a content that is on its way for the one must not pass for the other's.
            let origin = Origin(number: state.origins.count + 1)
            state.origins[blob.origin] = origin
            return origin
        }
    }

    /// How the members of a layer's blob are compressed, and whether what they hold besides files is kept. The layer was
    /// fetched from, so it is known.
    func decoding(of layer: LayerID) -> (compression: StreamDecompressor.Compression, keepsTarParts: Bool) {
        let blob = state.withLock { $0.blobs[layer] } ?? (try? index.blob(of: layer))
        let format = blob.flatMap { LayerFormat(rawValue: Int32(clamping: $0.format)) }
        return (format?.compression ?? .gzip, blob?.keepsTarParts ?? false)
    }

    /// How a layer's blob is built; nil for one that the index does not have.
    func format(of layer: LayerID) -> LayerFormat? {
        let known = state.withLock { $0.blobs[layer]?.format } ?? (try? index.blob(of: layer))?.format
        return known.flatMap { LayerFormat(rawValue: Int32(clamping: $0)) }
    }

    /// Uses an open source for its location from now on, and looks up the layers' locations again.
    func add(_ source: any BlobSource) {
        state.withLock { state in
            state.sources[source.location] = source
            state.blobs = [:]
            state.generation += 1
        }
    }

    private func source(at location: String) throws -> any BlobSource {
        if let known = state.withLock({ $0.sources[location] }) { return known }
        let opened = try BlobSources.open(location, registries: registries)
        return state.withLock { state in
            let source = state.sources[location] ?? opened
            state.sources[location] = source
            return source
        }
    }
}
