import LaminaDigest
import LaminaFormats
public import LaminaOCI
public import LaminaStore
import LaminaSystem
import Synchronization

/// Pulls an image: resolve, index every layer, record the image; then merge what the store does not have.
public final class ImagePull {
    public enum Stage: String, Sendable, Codable {
        case resolving, indexing
        /// A layer without a table of contents is read as a whole: it must be, before the image can be mounted.
        case streaming
        case merging, done
    }

    /// How far a pull is.
    public struct Progress: Sendable {
        public var stage = Stage.resolving
        public var layers = 0
        public var indexedLayers = 0
        /// Uncompressed bytes of the image's distinct contents, known once it is indexed; while streaming, the compressed bytes
        /// of the current layer.
        public var bytes: Int64 = 0
        /// Those of them that the store has.
        public var landedBytes: Int64 = 0
        /// Compressed bytes that this pull fetched.
        public var fetchedBytes: Int64 = 0
        /// What it works on: a layer's digest.
        public var current: String?
        /// What the image takes on disk that the store does not have yet, and how much is free there; known before it is
        /// merged.
        public var room: RoomForImage?
    }

    /// Called before a layer is read as a whole, when only its compressed size is known, and before an image is merged; throws
    /// if there is no room.
    public struct RoomCheck {
        /// Of the layers that are read as streams, what is still to be fetched.
        public var ofLayers: (_ compressedBytes: Int64) throws -> Void
        public var ofImage: (RoomForImage) throws -> Void

        public init(
            ofLayers: @escaping (_ compressedBytes: Int64) throws -> Void,
            ofImage: @escaping (RoomForImage) throws -> Void
        ) {
            self.ofLayers = ofLayers
            self.ofImage = ofImage
        }
    }

    /// How often progress is reported while merging, in seconds.
    private static let interval = 0.2

    private let engine: MergeEngine
    private let report: (Progress) -> Void
    private let shouldStop: @Sendable () -> Bool
    private var progress = Progress()
    /// Holds the layers while they have no image yet, or are merged.
    private var hold: LayerHold?

    private let roomCheck: RoomCheck?
    /// The layers that are not indexed yet, from the current one on.
    private var ahead: ArraySlice<Descriptor> = []
    /// The repository that they are of, as the index names it.
    private var origin = ""

    public init(
        _ engine: MergeEngine, roomCheck: RoomCheck? = nil, shouldStop: @escaping @Sendable () -> Bool,
        report: @escaping (Progress) -> Void
    ) {
        self.engine = engine
        self.roomCheck = roomCheck
        self.shouldStop = shouldStop
        self.report = report
    }

    /// Makes an image mountable: after this, the index has all of its layers.
    ///
    /// - Parameter reference: as the index names the image.
    /// - Throws: `OCIError`, `FormatError`, `MergeError`, `StoreError`; the image is in the index as a whole or not at all;
    ///   layers that were indexed before an error stay for the next try.
    public func index(_ reference: ImageReference, platform: Platform?, plainHTTP: Bool) throws -> ImageRecord {
        report(progress)
        let source = try reference.openSource(plainHTTP: plainHTTP, registries: engine.options.registries)
        let image = try ImageResolver.resolve(
            reference, platform: platform, source: source, shouldStop: shouldStop,
            knownConfig: { try? self.engine.store.index.configuration(ofManifest: $0) })
        engine.sources.add(source)
        origin = source.location
        let blobs = ForeignLayersSource.around(source, for: image.layers, registries: engine.options.registries)
        hold = engine.store.hold(image.layers.map(\.digest))
        progress.stage = .indexing
        progress.layers = image.layers.count
        report(progress)
        let budget = EntryBudget(limit: engine.options.imageEntries)
        let indexer = LayerIndexer(
            store: engine.store, source: blobs, tag: reference.tag, requiresDiffID: engine.options.requiresDiffID,
            keepsTarSplits: engine.options.keepsTarSplits, space: engine.space,
            refusesUnproven: engine.options.refusesUnproven,
            limits: engine.options.formatLimits, entries: budget, memory: engine.tocMemory, shouldStop: shouldStop,
            stream: { [self] in try stream($0, from: blobs, diffID: $1, format: $2, budget) },
            didFetch: { [self] in progress.fetchedBytes += Int64($0) }, importing: engine.importing,
            isolates: engine.options.isolates)
        var layers: [LayerID] = []
        for (number, descriptor) in image.layers.enumerated() {
            if shouldStop() { throw MergeError.stopped }
            progress.current = descriptor.digest.description
            ahead = image.layers[number...]
            let diffID = number < image.diffIDs.count ? image.diffIDs[number] : nil
            layers.append(try index(descriptor, diffID, by: indexer, from: blobs))
            if let elsewhere = (blobs as? ForeignLayersSource)?.location(of: descriptor.digest), let layer = layers.last
            {
                try engine.store.addSource(elsewhere, to: layer)
            }
            progress.indexedLayers += 1
            report(progress)
        }
        // Known layers may have a new source.
        engine.sources.add(source)
        let store = engine.store
        let found = (image.listedPlatform ?? image.platform).normalized
        let id = try store.addImage(
            reference: reference.description, manifest: image.manifestDigest, manifestBytes: image.manifestBytes,
            platform: found.description, config: image.configBytes, layers: layers, views: try store.views(of: layers),
            replacing: try outdated(reference, by: found, for: platform ?? .host))
        guard let record = try store.index.image(id) else {
            throw MergeError(.index, "\(reference) is not in the index after it was put there")
        }
        return record
    }

    /// The store's images of a reference that fit this machine better than what the reference has now: the reference no longer
    /// has them.
    private func outdated(
        _ reference: ImageReference, by found: Platform, for wanted: Platform
    ) throws -> [ImageID] {
        let rank = wanted.rank(of: found) ?? .max
        return try engine.store.index.images(named: reference.description).filter { image in
            guard image.platform != found.description else { return false }
            // An image without a known platform may be for any.
            guard let platform = try? Platform(parsing: image.platform) else { return true }
            return (wanted.rank(of: platform) ?? .max) < rank
        }.map(\.id)
    }

    /// Indexes a layer; if its bytes were wrong, it asks other sources as long as there is one.
    private func index(
        _ descriptor: Descriptor, _ diffID: Digest?, by indexer: LayerIndexer, from source: any BlobSource
    ) throws -> LayerID {
        // A server that is wrong by this image's table of contents may be right by another image's.
        let source = source.trusting(try TOCClaims(descriptor).identity)
        var indexer = indexer
        indexer.source = source
        while true {
            do {
                return try indexer.index(descriptor, diffID: diffID)
            } catch let error as MergeError where error.isOfImage || error.code == .unsupportedLayer {
                if shouldStop() { throw MergeError.stopped }
                guard source.distrust(descriptor.digest) else { throw error }
                engine.recorder.report(MergeError(error.code, "asking another server", cause: error))
            }
        }
    }

    /// Compressed bytes of the layers ahead that are likely streams, without what the index has or a stream has read already.
    private func bytesToStream() throws -> Int64 {
        var seen: Set<Digest> = []
        return try ahead.reduce(0) { sum, layer in
            guard seen.insert(layer.digest).inserted, (try? TOCClaims(layer))?.isVouchedFor == false,
                try engine.store.index.layers(of: layer.digest).isEmpty
            else { return sum }
            return try sum + engine.store.bytesToStream(of: layer, origin: origin)
        }
    }

    /// Reads a layer without a table of contents, or the rest of it.
    private func stream(
        _ descriptor: Descriptor, from source: any BlobSource, diffID: Digest?, format: LayerFormat?,
        _ budget: EntryBudget
    ) throws -> LayerID {
        guard let diffID else {
            throw MergeError(
                .badImage,
                "the image's configuration has no diff ID for layer \(descriptor.digest), which nothing else can prove")
        }
        try roomCheck?.ofLayers(bytesToStream())
        let fetchedBefore = progress.fetchedBytes
        var reported = ContinuousClock.now
        (progress.stage, progress.bytes, progress.landedBytes) = (.streaming, descriptor.size, 0)
        defer { (progress.stage, progress.bytes, progress.landedBytes) = (.indexing, 0, 0) }
        report(progress)
        let stream = LayerStream(
            engine: engine, source: source, descriptor: descriptor, diffID: diffID, format: format,
            entries: budget, shouldStop: shouldStop
        ) { [self] fetched, placed in
            progress.fetchedBytes = fetchedBefore + fetched
            progress.landedBytes = placed
            guard ContinuousClock.now - reported >= .seconds(Self.interval) else { return }
            reported = ContinuousClock.now
            report(progress)
        }
        return try stream.run()
    }

    /// Merges everything of an image that the store does not have, and makes it durable.
    ///
    /// - Throws: `MergeError`; what landed before it stays, and the next pull goes on from there.
    public func merge(_ image: ImageRecord) throws {
        let totals = try engine.store.index.totals(of: image.id)
        try requireRoom(for: image, totals)
        progress.stage = .merging
        progress.bytes = totals.bytes
        progress.landedBytes = totals.landedBytes
        report(progress)
        let landedBefore = progress.landedBytes
        let fetchedBefore = (progress.fetchedBytes, engine.totalFetchedBytes)
        // What the index refused before, as on a full disk, is tried again first: there may be room by now, and what still cannot be recorded
        // is told when it stands in the way.
        try? engine.recorder.flush()
        // A layer that an image has twice is merged once.
        var seen: Set<LayerID> = []
        let layers = image.layers.filter { seen.insert($0).inserted }
        var pulls: [LayerPull] = []
        // If this ends early, so do the pulls.
        defer { for pull in pulls { pull.cancel() } }
        func update() {
            progress.landedBytes = landedBefore + pulls.reduce(0) { $0 + $1.landedBytes }
            progress.fetchedBytes = fetchedBefore.0 + Int64(engine.totalFetchedBytes - fetchedBefore.1)
        }
        var failure: MergeError?
        func run(_ new: [LayerPull]) throws {
            pulls += new
            engine.context.begin(new)
            for pull in new {
                progress.current = try engine.store.index.blob(of: pull.layer)?.digest.description
                while true {
                    if shouldStop() { throw MergeError.stopped }
                    let result = pull.wait(seconds: Self.interval)
                    update()
                    report(progress)
                    guard let result else { continue }
                    if case .failure(let error) = result, failure == nil { failure = error }
                    break
                }
            }
        }
        // What was opened first the last time comes first now.
        let opened = try engine.store.index.opened(of: image)
        if !opened.isEmpty {
            let time = engine.context.board.time
            let first = try engine.store.index.unmergedOpened(opened, in: image.layers)
            try run(
                layers.compactMap { layer in first[layer].map { LayerPull(layer: layer, first: $0, readAt: time) } })
        }
        if failure == nil { try run(layers.map { LayerPull(layer: $0) }) }
        do {
            try engine.recorder.flush()
            try engine.recorder.sync()
        } catch {
            throw failure ?? MergeError(.index, "what has landed cannot be recorded", cause: error)
        }
        if let failure { throw failure }
        // Everything that the index was told, by any code: what it says is whole must be whole after a power cut.
        try engine.store.commitDurably()
        // The image is whole without it: if something cannot be proven now, the ledger says so.
        do { try engine.prover.proveDiffIDs(image) } catch {
            if shouldStop() { throw MergeError.stopped }
            engine.recorder.report(error)
        }
        update()
        // What was copied from other contents was not counted by the pulls.
        progress.landedBytes = try engine.store.index.totals(of: image.id).landedBytes
        progress.stage = .done
        progress.current = nil
        report(progress)
    }

    /// Checks whether there is room. Usually there is, and the totals show it; if they do not, each file is looked at.
    private func requireRoom(for image: ImageRecord, _ totals: ImageTotals) throws {
        guard let roomCheck else { return }
        if engine.options.maxBytes == nil {
            let room = engine.store.roomAtMost(for: totals)
            progress.room = room
            if let free = room.free, room.missing <= free { return }
        }
        let room = try engine.store.room(for: image.id)
        progress.room = room
        try roomCheck.ofImage(room)
    }

    /// How far it is now.
    public var current: Progress { progress }
}
