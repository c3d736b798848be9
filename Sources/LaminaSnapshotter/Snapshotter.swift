import Glibc
import LaminaDigest
public import LaminaMerge
public import LaminaStore
import LaminaSystem
public import Logging
import Synchronization

/// A mount in the form that containerd gets.
public struct SnapshotMount: Sendable, Equatable {
    public var type: String
    public var source: String
    public var options: [String]
}

/// Does what containerd asks of a snapshotter, with the store: overlayfs directories for what is unpacked, views of layers for
/// what need not be unpacked. All calls block; many may come at once.
///
/// The contract of each call is in containerd's `snapshots/snapshotter.go`; containerd's own test suite runs against this.
public final class Snapshotter: Sendable {
    /// Shows all layers of a snapshot as one directory, so that the kernel needs no process for them. Calls may mount
    /// something.
    public struct Sealing: Sendable {
        /// The chain for these views (bottom first), mounted, and kept so until `release`; nil if there is none.
        public var hold: @Sendable ([ViewID]) -> SealedID? = { _ in nil }
        public var release: @Sendable (SealedID) -> Void = { _ in }
        /// Mounts a chain where it is not mounted, after a restart of the machine; the value of `lowerdir` for an overlay above it,
        /// or nil if it cannot be mounted any more.
        public var attach: @Sendable (SealedID) throws -> String? = { _ in nil }
        /// Says that a chain may be used no more, or that one may be wanted.
        public var changed: @Sendable () -> Void = {}
        public init() {}
    }

    public struct Options: Sendable {
        /// What of a layer is fetched behind the containers that run from it, unless its image says otherwise.
        public var fetching = LayerFetching()
        /// Whether a registry (given by a reference to an image in it) is spoken to without TLS.
        public var speaksPlainHTTP: @Sendable (String) -> Bool = { _ in false }
        /// Called when the file system has a new view.
        public var viewsChanged: @Sendable () -> Void = {}
        /// Called by `cleanup` if lazy layers that nothing else holds may have been removed.
        public var collectGarbage: @Sendable () throws -> Void = {}
        public var sealing = Sealing()
        /// Whether a plain layer is streamed for a client in a namespace of containerd's; otherwise containerd unpacks it.
        public var streamsPlain: @Sendable (_ namespace: String, _ reference: String) -> Bool = { _, _ in false }
        /// Whether a chain is committed for an image only when its tars were hashed.
        public var requiresProof: @Sendable (_ reference: String) -> Bool = { _ in false }
        /// Whether the manifests that containerd has of a chain's layer say nothing that only clients say: throws, with the reason, where
        /// one does or where nobody can tell. Asked before anything is asked of what labels name.
        public var vouchForLabels: @Sendable (_ namespace: String, _ chain: String) throws -> Void = { _, _ in }
        public init() {}
    }

    let store: Store
    let log: Logger
    let layers: LazyLayers
    let merge: MergeEngine
    let requiresProof: @Sendable (String) -> Bool
    let streamsPlain: @Sendable (String, String) -> Bool
    private let vouchForLabels: @Sendable (String, String) throws -> Void
    private let kept: KeptLayers
    private let directories: SnapshotDirectories
    private let background: BackgroundMerge
    private let fetching: LayerFetching
    private let layerUsage: LayerUsage
    let viewsChanged: @Sendable () -> Void
    private let collectGarbage: @Sendable () throws -> Void
    let sealing: Sealing
    /// Whether snapshots were removed since garbage was collected; of a process before this one that is not known.
    private let hasRemoved = Atomic<Bool>(true)

    /// - Throws: `StoreError` if the directory of the snapshots cannot be made.
    public init(store: Store, merge: MergeEngine, options: Options, log: Logger) throws {
        self.store = store
        self.log = log
        self.merge = merge
        requiresProof = options.requiresProof
        vouchForLabels = options.vouchForLabels
        streamsPlain = options.streamsPlain
        let kept = KeptLayers(store)
        kept.keep(try store.index.unheldPlainLayers())
        self.kept = kept
        directories = try SnapshotDirectories(store: store)
        layers = LazyLayers(merge: merge, speaksPlainHTTP: options.speaksPlainHTTP)
        background = try BackgroundMerge(merge: merge, log: log)
        fetching = options.fetching
        layerUsage = LayerUsage(store: store)
        viewsChanged = options.viewsChanged
        collectGarbage = options.collectGarbage
        sealing = options.sealing
        for known in try store.index.unmergedSnapshotLayers() {
            background.add(known.layer, of: known.image, LayerFetching(labels: known.labels, standard: fetching))
        }
    }

    /// Ends the background work. Calls that wait for the network end with an error.
    public func stop() {
        layers.stop()
        background.stop()
    }

    // MARK: Making

    /// Makes an active snapshot, or a layer that need not be unpacked.
    ///
    /// A plain layer is ready when it has come as a whole: then this blocks for as long as that takes.
    ///
    /// - Parameter isCancelled: whether the client has left; asked while a layer comes.
    /// - Throws: `SnapshotError`; `alreadyExists` also if the layer is ready: its client then asks for it by its chain ID.
    public func prepare(
        _ key: SnapshotKey, parent: SnapshotKey?, labels: [String: String],
        isCancelled: @escaping @Sendable () -> Bool = { false }
    ) throws -> [SnapshotMount] {
        guard let offer = LayerOffer(labels: labels) else {
            return try create(key, parent: parent, kind: .active, labels: labels)
        }
        if try store.index.snapshot(key) != nil { throw SnapshotError(.alreadyExists, "the snapshot \(key) exists") }
        do {
            try makeLazy(offer, key, parent: parent, labels: labels, isCancelled)
        } catch let error as SnapshotError {
            throw error
        } catch let error as MergeError where error.code == .wrongDigest {
            // containerd would download all of it to find the same.
            log.error(
                "a layer is another one than its image says", metadata: ["key": "\(key)", "error": "\(error)"])
            throw SnapshotError(.failedPrecondition, "\(error)")
        } catch {
            // The next server goes on, and so need not containerd begin anew.
            if layers.hasStopped { throw SnapshotError(.unavailable, "the server ends; the next one goes on") }
            kept.letGo(offer.layers)
            let reason = error is LayerRefusal ? "\(error)" : "the layer cannot be mounted: \(error)"
            report(offer, key, refusal: reason)
            return try create(key, parent: parent, kind: .active, labels: labels, refusal: reason)
        }
        report(offer, key, refusal: nil)
        throw SnapshotError(.alreadyExists, "the layer \(offer.chain) is there and need not be downloaded")
    }

    /// Makes a snapshot that nothing is written to.
    public func view(_ key: SnapshotKey, parent: SnapshotKey?, labels: [String: String]) throws -> [SnapshotMount] {
        try create(key, parent: parent, kind: .view, labels: labels)
    }

    private func create(
        _ key: SnapshotKey, parent: SnapshotKey?, kind: SnapshotKind, labels: [String: String], refusal: String? = nil
    ) throws -> [SnapshotMount] {
        if let parent { try refuseQuarantined(parent) }
        let sealed = try parent.flatMap { try sealedChain(above: $0, labels) }
        defer { sealed.map(sealing.release) }
        // `cleanup` removes what a failed call leaves.
        let chain = try store.createSnapshot(
            key, parent: parent, kind: kind, labels: labels, refusal: refusal, sealed: sealed
        ) {
            try directories.make($0, kind: kind, below: $1)
        }
        return mounts(of: chain)
    }

    /// The sealed chain below a new snapshot; nil if it is made of layers and directories.
    private func sealedChain(above parent: SnapshotKey, _ labels: [String: String]) throws -> SealedID? {
        // overlayfs cannot be a lower directory whose owners are mapped, but FUSE can.
        if labels.keys.contains(where: { Self.mappings.contains($0) }) { return nil }
        guard let views = try store.index.views(upTo: parent) else { return nil }
        let chain = sealing.hold(views)
        // It was wanted: next time it will be there.
        if chain == nil { sealing.changed() }
        return chain
    }

    /// containerd's labels of a snapshot of a user namespace (core/snapshots/snapshotter.go).
    private static let mappings: Set = [
        "containerd.io/snapshot/uidmapping", "containerd.io/snapshot/gidmapping",
    ]

    /// Refuses labels that whoever wrote the image may have written, before anything is asked of what they name. That is also of CRI's:
    /// nobody knows whether containerd is told to put its own in their place.
    private func checkLabels(_ offer: LayerOffer, _ key: SnapshotKey) throws {
        guard offer.layer != nil else { throw LayerRefusal("the client's labels name no layer") }
        do {
            try vouchForLabels(key.namespace, offer.chain)
        } catch {
            throw LayerRefusal("what image the layer is of is not believed: \(error)")
        }
    }

    private func makeLazy(
        _ offer: LayerOffer, _ key: SnapshotKey, parent: SnapshotKey?, labels: [String: String],
        _ isCancelled: @escaping @Sendable () -> Bool
    ) throws {
        let streams = offer.reference.map { streamsPlain(key.namespace, $0) } ?? false
        let below = try parent.map { parent in
            guard let chain = try store.index.lazyChain(of: parent) else {
                throw LayerRefusal("the layer below was unpacked, and layers above it cannot be had otherwise")
            }
            return chain
        }
        let name = LayerNames.committed(chain: offer.chain, parent: parent)
        // containerd is asked once, and where nothing depends on it not at all.
        var checked: Result<Void, any Error>?
        func checkedLabels() -> Result<Void, any Error> {
            let result = checked ?? Result { try checkLabels(offer, key) }
            checked = result
            return result
        }
        func areLabelsBelieved() -> Bool {
            guard offer.reference != nil, case .success = checkedLabels() else { return false }
            return true
        }
        // lamina asks no registry again for a layer that it has. A second namespace gets this same snapshot.
        if let known = try store.index.snapshot(name), let layer = known.layer,
            known.labels[snapshotChainLabel] == offer.chain,
            try stands(layer, for: meant(by: offer, isBelieved: areLabelsBelieved()), of: offer.reference),
            try streams || !store.index.ledger(of: layer).isPlain
        {
            kept.letGo(offer.layer.map { [$0] } ?? [])
            return
        }
        if offer.reference != nil { try checkedLabels().get() }
        // Until a snapshot holds them.
        let hold = store.hold(offer.layers)
        defer { withExtendedLifetime(hold) {} }
        if streams { kept.keep(offer.layers) }
        for _ in 0..<2 {
            let (layer, image) = try layers.layer(
                offer, below: below, plain: streams ? .streamed : .refused, isCancelled: isCancelled)
            let source = image.image
            if try store.index.lazyChain(of: name) == offer.chain {
                if let standing = try store.index.snapshot(name)?.layer, try isAlike(standing, layer, for: offer) {
                    return
                }
                try replace(offer, by: layer, of: source)
                return
            }
            if requiresProof(offer.reference ?? "") { try requireProof(of: layer, offer) }
            if let id = try store.commitLayer(layer, as: name, parent: parent, labels: labels, image: source) {
                viewsChanged()
                kept.letGo(offer.layer.map { [$0] } ?? [])
                background.add(id, of: source, LayerFetching(labels: labels, standard: fetching))
                return
            }
            if let found = try store.index.quarantine().first(where: { $0.layer == layer }) {
                throw LayerRefusal("nothing of the layer is served: \(found.reason)")
            }
            // Between indexing and here it was collected: nothing referred to it.
            image.forget(layer)
        }
        throw LayerRefusal("the layer went from the store as soon as it was there")
    }

    /// The field that operators of lazy snapshotters look for.
    private func report(_ offer: LayerOffer, _ key: SnapshotKey, refusal: String?) {
        var fields: Logger.Metadata = [
            "remote-snapshot-prepared": refusal == nil ? "true" : "false", "chain": "\(offer.chain)", "key": "\(key)",
        ]
        if let reference = offer.reference { fields["image"] = "\(reference)" }
        if let layer = offer.layer { fields["layer"] = "\(layer)" }
        if let refusal {
            fields["reason"] = "\(refusal)"
            log.warning("a layer is left to containerd to unpack", metadata: fields)
        } else {
            log.info("a layer is ready without being unpacked", metadata: fields)
        }
    }

    // MARK: Changing

    /// Turns an active snapshot into a committed one under another name.
    public func commit(_ key: SnapshotKey, as name: SnapshotKey, labels: [String: String]) throws {
        guard let record = try store.index.snapshot(key) else {
            throw SnapshotError(.notFound, "the snapshot \(key) does not exist")
        }
        // Measured before the transaction, because other calls wait for that. The transaction itself reports a snapshot that is
        // not active.
        let usage =
            record.kind == .active ? try directories.usage(of: record.id) : SnapshotUsage(bytes: 0, inodes: 0)
        try store.commitSnapshot(key, as: name, labels: labels, usage: usage)
    }

    /// Forgets a snapshot; its files are removed by `cleanup`.
    public func remove(_ key: SnapshotKey) throws {
        try store.removeSnapshot(key)
        sealing.changed()
        hasRemoved.store(true, ordering: .relaxed)
    }

    /// Changes labels, which is all that can be changed.
    ///
    /// - Parameter paths: `labels` or none: all of them; `labels.NAME`: only that one, which is removed if `labels` does not
    ///   have it or has it empty.
    public func update(_ key: SnapshotKey, labels: [String: String], paths: [String]) throws -> SnapshotRecord {
        var named: [String: String?] = [:]
        var isWhole = paths.isEmpty
        for path in paths {
            if path == "labels" {
                isWhole = true
            } else if path.hasPrefix("labels."), path.utf8.count > "labels.".utf8.count {
                let name = String(path.dropFirst("labels.".count))
                named[name] = .some(labels[name].flatMap { $0.isEmpty ? nil : $0 })
            } else {
                throw SnapshotError(
                    .invalidArgument, "'\(path.prefix(200))' of a snapshot cannot be changed: only labels can")
            }
        }
        return try store.updateSnapshot(key, isWhole ? .replace(labels) : .set(named))
    }

    /// Removes the directories that belong to no snapshot any more, and the layers that nothing holds. May take long.
    public func cleanup() throws {
        try directories.removeAbandoned(log)
        if kept.letGoOld() { hasRemoved.store(true, ordering: .relaxed) }
        guard hasRemoved.exchange(false, ordering: .relaxed) else { return }
        do {
            try collectGarbage()
        } catch {
            hasRemoved.store(true, ordering: .relaxed)
            throw error
        }
    }

    /// Lets go of what interrupted pulls would go on from: the next collection of garbage removes it.
    public func forgetInterruptedPulls() {
        if kept.letGoOld(all: true) { hasRemoved.store(true, ordering: .relaxed) }
    }

    // MARK: Asking

    /// What a snapshot is mounted with.
    public func mounts(_ key: SnapshotKey) throws -> [SnapshotMount] {
        guard let chain = try store.index.snapshotChain(key) else {
            throw SnapshotError(.notFound, "the snapshot \(key) does not exist")
        }
        guard chain.kind != .committed else {
            throw SnapshotError(
                .failedPrecondition, "the snapshot \(key) is committed: only active ones and views are mounted")
        }
        try refuseQuarantined(key)
        return mounts(of: chain)
    }

    /// What is known of a snapshot.
    public func stat(_ key: SnapshotKey) throws -> SnapshotRecord {
        guard let record = try store.index.snapshot(key) else {
            throw SnapshotError(.notFound, "the snapshot \(key) does not exist")
        }
        return record
    }

    /// How many bytes and files a snapshot adds to the store.
    public func usage(_ key: SnapshotKey) throws -> SnapshotUsage {
        let record = try stat(key)
        if let layer = record.layer { return try layerUsage.usage(of: layer, for: record.id) }
        switch record.kind {
        case .committed: return record.usage ?? SnapshotUsage(bytes: 0, inodes: 0)
        case .active: return try directories.usage(of: record.id)
        case .view: return SnapshotUsage(bytes: 0, inodes: 0)
        }
    }

    /// How many snapshots are read at a time: containerd's own service answers in such batches.
    public static let pageSize = 100

    /// A page of the snapshots that pass the filters, and where the next page begins; nil at the end. Nothing is locked between
    /// two pages: snapshots that come and go meanwhile may be in them or not.
    public func list(
        _ filters: SnapshotFilters, after: SnapshotID?
    ) throws -> (records: [SnapshotRecord], next: SnapshotID?) {
        let page = try store.index.snapshots(after: after, limit: Self.pageSize, chain: filters.chain)
        return (page.filter(filters.matches), page.count < Self.pageSize ? nil : page.last?.id)
    }

    private func mounts(of chain: SnapshotChain) -> [SnapshotMount] {
        var chain = chain
        if let sealed = chain.sealed {
            do {
                if let lower = try sealing.attach(sealed) {
                    return SnapshotMounts.make(chain, root: store.root, sealed: lower)
                }
                log.warning(
                    "a sealed image is gone, and its container goes by way of FUSE",
                    metadata: ["snapshot": "\(chain.id)"])
            } catch {
                log.warning(
                    "a sealed image cannot be mounted, and its container goes by way of FUSE",
                    metadata: ["snapshot": "\(chain.id)", "error": "\(error)"])
            }
            chain.sealed = nil
        }
        return SnapshotMounts.make(chain, root: store.root)
    }
}
