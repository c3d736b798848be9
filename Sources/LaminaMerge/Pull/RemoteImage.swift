import Glibc
import LaminaDigest
import LaminaFormats
public import LaminaOCI
public import LaminaStore
import LaminaSystem

/// An image in its registry, whose layers are put into the index one at a time, as a snapshotter is asked for them.
public struct RemoteImage: Sendable {
    private let engine: MergeEngine
    private let source: any BlobSource
    private let tag: String?
    private let entries: EntryBudget
    /// Manifest, configuration and descriptors, each verified by its digest.
    public let resolved: ResolvedImage

    /// Resolves a reference; blocks on the network.
    ///
    /// - Parameter platform: which one of an index; by default this machine's.
    public init(
        _ engine: MergeEngine, _ reference: ImageReference, platform: Platform? = nil, plainHTTP: Bool,
        shouldStop: @Sendable () -> Bool
    ) throws {
        self.engine = engine
        entries = EntryBudget(limit: engine.options.imageEntries)
        source = try reference.openSource(plainHTTP: plainHTTP, registries: engine.options.registries)
        tag = reference.tag
        resolved = try ImageResolver.resolve(
            reference, platform: platform, source: source, shouldStop: shouldStop,
            knownConfig: { try? engine.store.index.configuration(ofManifest: $0) })
    }

    /// What becomes of a layer without a table of contents that its manifest proves.
    public enum PlainLayers: Sendable {
        case refused
        /// It is read as a whole, and its blob and its tar are hashed, before it is in the index.
        case streamed
    }

    /// Whether a layer is plain: only all of its bytes can prove what is in it. One whose annotations make no sense is not: `index` says
    /// what is wrong with it.
    public func isPlain(_ position: Int) -> Bool {
        guard let claims = try? TOCClaims(resolved.layers[position]) else { return false }
        return !claims.isVouchedFor
    }

    /// The table of contents that the manifest names for the layer at a position. Annotations that make no sense name none.
    public func namedTOC(_ position: Int) -> NamedTOC {
        guard let claims = try? TOCClaims(resolved.layers[position]) else { return NamedTOC() }
        return NamedTOC(digest: claims.tocDigest, checksum: claims.checksum)
    }

    /// The repository that the image is of, as the index names it.
    public var location: String { source.location }

    /// The layer at a position, from the bottom; put into the index if the store does not have it.
    ///
    /// Of a layer with a table of contents it fetches only that; a plain one that is to be streamed comes whole.
    /// - Throws: `MergeError.unsupportedLayer` for a plain layer that is refused; `.wrongDigest` where a layer that came as a whole is
    ///   another one than the image says.
    public func index(
        _ position: Int, plain: PlainLayers = .refused, shouldStop: @escaping @Sendable () -> Bool
    ) throws -> LayerID {
        let descriptor = resolved.layers[position]
        // A server that is wrong by this image's table of contents may be right by another image's.
        let source = source.trusting(try TOCClaims(descriptor).identity)
        let indexer = LayerIndexer(
            store: engine.store, source: source, tag: tag, requiresDiffID: engine.options.requiresDiffID,
            keepsTarSplits: engine.options.keepsTarSplits, space: engine.space,
            refusesUnproven: engine.options.refusesUnproven,
            limits: engine.options.formatLimits, entries: entries, memory: engine.tocMemory,
            unvouched: plain == .streamed ? .streamed : .refused, shouldStop: shouldStop,
            stream: { try stream($0, from: source, diffID: $1, format: $2, shouldStop) },
            didFetch: { [engine] in engine.countFetched(Int64($0)) }, importing: engine.importing,
            isolates: engine.options.isolates)
        return try asking(source, for: descriptor.digest, shouldStop) {
            try indexer.index(descriptor, diffID: resolved.diffIDs[position])
        }
    }

    /// The layer at a position as what its blob holds, whatever a table of contents says of it: it is read as a whole, and its blob and its
    /// tar are hashed, before it is in the index.
    ///
    /// - Throws: `MergeError.wrongDigest` where it is another one than the image says.
    public func stream(_ position: Int, shouldStop: @escaping @Sendable () -> Bool) throws -> LayerID {
        let descriptor = resolved.layers[position]
        let source = source.trusting(nil)
        return try asking(source, for: descriptor.digest, shouldStop) {
            try stream(descriptor, from: source, diffID: resolved.diffIDs[position], format: nil, shouldStop)
        }
    }

    /// Has one server after the other asked for a layer, as long as their bytes are wrong and there is another one.
    private func asking(
        _ source: any BlobSource, for layer: Digest, _ shouldStop: () -> Bool, _ body: () throws -> LayerID
    ) throws -> LayerID {
        while true {
            do {
                engine.sources.add(source)
                // A known layer may have a new source.
                defer { engine.sources.add(source) }
                return try body()
            } catch let error as MergeError where error.isOfImage {
                // Where the bytes were wrong, they are asked for elsewhere as long as there is an elsewhere.
                if shouldStop() { throw MergeError.stopped }
                guard source.distrust(layer) else { throw error }
                engine.recorder.report(MergeError(error.code, "asking another server", cause: error))
            }
        }
    }

    private func stream(
        _ descriptor: Descriptor, from source: any BlobSource, diffID: Digest?, format: LayerFormat?,
        _ shouldStop: @escaping @Sendable () -> Bool
    ) throws -> LayerID {
        guard let diffID else {
            throw MergeError(
                .badImage,
                "the image's configuration has no diff ID for layer \(descriptor.digest), which nothing else can prove")
        }
        try requireRoom(for: descriptor, at: source.location)
        return try LayerStream(
            engine: engine, source: source, descriptor: descriptor, diffID: diffID, format: format,
            entries: entries, shouldStop: shouldStop, report: { _, _ in }
        ).run()
    }
}

extension RemoteImage {
    /// Looks whether a stream can fit, by what is left of it, compressed, before anything is given up for it.
    private func requireRoom(for layer: Descriptor, at origin: String) throws {
        let bytes = try engine.store.bytesToStream(of: layer, origin: origin)
        let left: Int64
        let place: String
        switch try engine.store.roomForStream(of: bytes).shortage(limit: engine.options.maxBytes) {
        case nil: return
        case .disk(let free): (left, place) = (free, "on the store's disk")
        case .limit(let rest): (left, place) = (rest, "below [store] max_bytes")
        }
        throw MergeError(
            .write, "layer \(layer.digest) needs \(bytes) bytes, compressed, and \(left) are left \(place)",
            cause: SystemError(code: ENOSPC, operation: "make room in", subject: "the store"))
    }
}

extension MergeEngine {
    /// The repository of an image, as the index names it; nil where the configuration of registries makes no sense.
    public func location(of reference: ImageReference, plainHTTP: Bool) -> String? {
        try? reference.openSource(plainHTTP: plainHTTP, registries: options.registries).location
    }

    /// Whether the files of layers from a place (a source's location) are its repository's alone.
    public func isolates(_ location: String) -> Bool { options.isolates(location) }

    /// Begins to merge what the store does not have of a layer; readers go first.
    public func pull(_ layer: LayerID) -> LayerPull {
        let pull = LayerPull(layer: layer)
        context.begin([pull])
        return pull
    }

    /// Begins to merge what is wanted first of a layer: what was opened first in an earlier container of its image or of the
    /// version before, then what the image itself marks.
    ///
    /// - Returns: nil if the store has all of it.
    public func pullFirst(_ layer: LayerID, of image: SnapshotImage?) throws -> LayerPull? {
        let time = context.board.time
        var contents: [UnmergedContent] = []
        if let image {
            // A layer above may have another file with the name. That is not known yet; at worst it fetches a file that is not
            // opened.
            contents = try store.index.unmergedOpened(store.index.opened(of: image), in: [layer])[layer] ?? []
        }
        if let end = try store.index.blob(of: layer)?.prioritizedEnd {
            var seen = Set(contents.map(\.content.id))
            var position: ChunkPlace?
            while true {
                let page = try store.index.unmerged(in: layer, after: position, before: end, limit: 1024)
                guard let last = page.last else { break }
                contents += page.filter { seen.insert($0.content.id).inserted }
                position = last.firstChunk
            }
        }
        guard !contents.isEmpty else { return nil }
        let pull = LayerPull(layer: layer, first: contents, readAt: time)
        context.begin([pull])
        return pull
    }
}
