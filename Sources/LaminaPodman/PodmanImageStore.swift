import Glibc
import LaminaDigest
import LaminaOCI
public import LaminaStore
import LaminaSystem
import Synchronization

/// An additional image store of containers/storage, for podman, buildah, skopeo and CRI-O: a directory of plain files that says which images
/// lamina has, and whose layers are links to lamina's views.
///
/// It is made of the index, and made again whenever that changes. What podman has something upon stays: the image store knows that
/// from podman's own records, which it reads while it holds the lock without which podman makes nothing new upon it.
///
/// Calls block; one at a time does something.
public final class PodmanImageStore: Sendable {
    public struct Options: Sendable {
        /// Whether the diff IDs of an image's layers are taken as its author says them, before they are proven.
        public var believes: @Sendable (_ reference: String) -> Bool = { _ in false }
        /// Where podman, buildah and CRI-O keep what is their own, besides what their configuration says.
        public var graphRoots: [String] = []
        /// podman's own configuration: the first of these files that is there counts. Read each time, as others change it.
        public var storageFiles = StorageConfiguration.places
        /// Where the kernel shows its processes.
        var proc = "/proc"

        public init() {}
    }

    let store: Store
    /// Absolute, and without symbolic links.
    public let directory: String
    private let options: Options
    private let report: @Sendable (String) -> Void

    private struct State {
        var fingerprint: Digest?
        var absences: [String: PodmanAbsence] = [:]
        var images = 0
        /// Whether what is no longer wanted is still there, because podman needs it.
        var keepsMore = false
    }
    private let state = Mutex(State())
    private let updating = Monitor(())

    /// - Parameter report: gets a sentence about what does not stop the work.
    /// - Throws: `PodmanError` for a directory that cannot be one.
    public init(
        store: Store, directory: String, options: Options, report: @escaping @Sendable (String) -> Void
    ) throws {
        for path in [directory, store.root]
        where path.utf8.contains(where: { $0 == UInt8(ascii: ":") || $0 == UInt8(ascii: ",") }) {
            throw PodmanError.path(path)
        }
        self.store = store
        self.directory = directory
        self.options = options
        self.report = report
        try ImageStoreFiles(directory: directory).prepare()
    }

    /// Makes the directory of an image store, without images: podman fails where one that it is told of is not there.
    public static func prepare(_ directory: String) throws { try ImageStoreFiles(directory: directory).prepare() }

    /// How many images it shows.
    public var imageCount: Int { state.withLock { $0.images } }

    /// Whether something of it is there only because podman needs it: it goes with a later update.
    public var keepsMore: Bool { state.withLock { $0.keepsMore } }

    /// Why it does not show an image; nil where it does.
    public func absence(of reference: String) -> PodmanAbsence? { state.withLock { $0.absences[reference] } }

    /// Whether podman has a name for images of this reference.
    public static func canShow(_ reference: String) -> Bool { ImageStorePlan.name(reference) != nil }

    /// How long an update waits for podman's locks where nobody has patience, in seconds.
    private static let shortPatience = 0.2

    /// Brings it to what the index has now, if that has changed since the last time.
    ///
    /// - Parameters:
    ///   - force: also if it has not: each file is looked at, and podman's records are, for what stayed because of them.
    ///   - patience: how long podman may have its locks, in seconds, where something is to be taken away. Then that stays until later.
    ///   - shouldStop: ends that wait.
    /// - Throws: `PodmanError`, `StoreError`, `SystemError`; what it showed before is whole then.
    public func update(
        force: Bool = false, patience: Double = 0, shouldStop: () -> Bool = { false }
    ) throws {
        let isBusy = try updating.withLock { _ in try bringUp(force: force, nil) }
        guard isBusy, patience > 0 else { return }
        // Without `updating`, so that a pull need not wait for it.
        guard let lock = try ImageStoreFiles(directory: directory).lock(patience: patience, shouldStop: shouldStop)
        else {
            report("podman is at work: what it does has to end before something is taken out of \(directory)")
            return
        }
        _ = try updating.withLock { _ in try bringUp(force: true, lock) }
    }

    /// - Returns: whether something is there only because podman has its locks.
    private func bringUp(force: Bool, _ lock: ImageStoreFiles.Lock?) throws -> Bool {
        let fingerprint = try store.index.podmanFingerprint()
        if !force, state.withLock({ $0.fingerprint }) == fingerprint { return false }
        let (plan, isBusy) = try publish(lock)
        state.withLock {
            $0.fingerprint = fingerprint
            $0.absences = plan.absences
            $0.images = plan.images.count
            $0.keepsMore = plan.keepsMore || isBusy
        }
        return isBusy
    }

    /// What podman has upon an image that would go with its reference.
    ///
    /// - Throws: `PodmanError.unreadable` where podman's records cannot be read.
    public func uses(of reference: String) throws -> [PodmanUse] {
        try updating.withLock { _ in
            let rows = try knownRows()
            // What is there for podman alone is in neither: it goes with no reference.
            let (with, without) = (try plan(rows), try plan(rows, without: reference))
            let goneLayers = Set(with.layers.keys).subtracting(without.layers.keys)
            let goneImages = Set(with.images.keys).subtracting(without.images.keys)
            if goneLayers.isEmpty, goneImages.isEmpty { return [] }
            return try uses(rows).filter { use in
                use.layer.map { goneLayers.contains($0) } == true || use.image.map { goneImages.contains($0) } == true
            }
        }
    }

    /// Lets go of what an image store held that is wanted no more, so that it can be collected.
    ///
    /// What a mount stands upon stays until there is no mount. All of it stays while podman's configuration names the directory: podman
    /// goes on to make containers of what it sees there.
    ///
    /// - Parameter storageFiles: podman's own configuration.
    /// - Returns: why something stays; nil where nothing does.
    /// - Throws: `PodmanError.unreadable` where that cannot be known, `StoreError`.
    public static func release(
        _ store: Store, storageFiles: [String] = StorageConfiguration.places
    ) throws -> String? { try release(store, storageFiles: storageFiles, proc: "/proc") }

    static func release(_ store: Store, storageFiles: [String], proc: String) throws -> String? {
        let rows = try store.index.podmanLayers()
        guard !rows.isEmpty else { return nil }
        let found = try StorageConfiguration.ofMachine(storageFiles)
        for place in found?.imageStores ?? []
        where rows.contains(where: { File.linkTarget(of: "\(place)/overlay/l/\(StorageNames.link($0.id))") != nil }) {
            return "\(found?.path ?? "") names \(place), where podman sees it: 'lamina setup podman --undo' ends that"
        }
        let uses = try LayerMounts.uses(of: rows.map(\.id), proc: proc)
        let parents = Dictionary(uniqueKeysWithValues: rows.map { ($0.id, $0.parent) })
        var kept: Set<Digest> = []
        for use in uses {
            var next = use.layer
            while let id = next, let parent = parents[id], kept.insert(id).inserted { next = parent }
        }
        try store.forgetForPodman(
            layers: Set(parents.keys).subtracting(kept), images: Set(try store.index.podmanImages().map(\.id)))
        return uses.first.map { "it is in use by \($0.text)" }
    }

    // MARK: The work

    private func knownRows() throws -> [Digest: PodmanLayerRow] {
        Dictionary(uniqueKeysWithValues: try store.index.podmanLayers().map { ($0.id, $0) })
    }

    private func plan(_ rows: [Digest: PodmanLayerRow], without reference: String? = nil) throws -> ImageStorePlan {
        let references = Set(try store.index.images().map(\.reference))
        return ImageStorePlan(
            try store.index.podmanCandidates().filter { $0.image.reference != reference }, references: references,
            known: rows, believes: options.believes)
    }

    private func publish(_ given: ImageStoreFiles.Lock?) throws -> (plan: ImageStorePlan, isBusy: Bool) {
        let rows = try knownRows()
        let oldImages = Dictionary(uniqueKeysWithValues: try store.index.podmanImages().map { ($0.id, $0) })
        let wanted = try self.plan(rows)
        var plan = wanted
        let files = ImageStoreFiles(directory: directory)
        // Somebody may have taken the directory away.
        try files.prepare()
        // For what is only added none is needed: each file is replaced at once.
        var lock = given
        defer { withExtendedLifetime(lock) {} }
        var isBusy = false
        if plan.takesAway(rows, oldImages) {
            // What is used now stays, whatever podman does meanwhile. Mostly that is all, and podman is not stopped.
            if lock == nil { try keepWhatIsUsed(&plan, rows, oldImages) }
            if lock == nil, plan.takesAway(rows, oldImages) {
                lock = try? files.lock(patience: Self.shortPatience)
                isBusy = lock == nil
                plan = wanted
                if isBusy { try keep(&plan, rows, oldImages, Set(rows.keys), Set(oldImages.keys)) }
            }
            // From here on podman makes nothing new upon it; what it had made until now is looked at once more.
            if lock != nil { try keepWhatIsUsed(&plan, rows, oldImages) }
        }
        // Held before podman can see it.
        let images = plan.images.values.map {
            PodmanImageRow(id: $0.id, top: $0.top, manifest: $0.manifest, config: $0.config)
        }
        let newRows = plan.layers.values.map(\.row).filter { rows[$0.id] != $0 }
        let newImages = images.filter { oldImages[$0.id] != $0 }
        if !newRows.isEmpty || !newImages.isEmpty { try store.holdForPodman(newRows, newImages) }
        try files.write(
            try shown(plan), plan.images.values.sorted { $0.id.hex < $1.id.hex })
        // Let go of when podman can see it no more.
        try store.forgetForPodman(
            layers: Set(rows.keys).subtracting(plan.layers.keys),
            images: Set(oldImages.keys).subtracting(plan.images.keys))
        return (plan, isBusy)
    }

    private func keepWhatIsUsed(
        _ plan: inout ImageStorePlan, _ rows: [Digest: PodmanLayerRow], _ images: [Digest: PodmanImageRow]
    ) throws {
        var (layers, used): (Set<Digest>, Set<Digest>) = ([], [])
        do {
            for use in try uses(rows) {
                if let layer = use.layer { layers.insert(layer) }
                if let image = use.image { used.insert(image) }
            }
        } catch {
            // What cannot be known is taken to be used.
            report("nothing is taken out of \(directory) for now: \(error)")
            (layers, used) = (Set(rows.keys), Set(images.keys))
        }
        try keep(&plan, rows, images, layers, used)
    }

    private func keep(
        _ plan: inout ImageStorePlan, _ rows: [Digest: PodmanLayerRow], _ images: [Digest: PodmanImageRow],
        _ layers: Set<Digest>, _ used: Set<Digest>
    ) throws {
        try plan.keep(rows, images, layers: layers, images: used) { try store.index.podmanFacts($0.layer, $0.view) }
    }

    /// Everything that stands upon the image store's layers and images: podman's records, and mounts.
    private func uses(_ rows: [Digest: PodmanLayerRow]) throws -> [PodmanUse] {
        try recordedUses() + LayerMounts.uses(of: rows.keys, proc: options.proc)
    }

    /// What podman's records say.
    private func recordedUses() throws -> [PodmanUse] {
        let files = ImageStoreFiles(directory: directory)
        let roots = try StorageConfiguration.records(options.graphRoots, places: options.storageFiles)
        let known = try files.knownGraphRoots()
        let paths = Set(roots.map(\.path))
        // A root that is not configured any more counts as long as its records are there.
        let former = known.filter { !paths.contains($0) }.map { GraphRoot(path: $0) }.filter(\.isThere)
        var uses: [PodmanUse] = []
        var used = former.map(\.path)
        for root in roots + former {
            guard root.isThere || !known.contains(root.path) else {
                throw PodmanError.unreadable(
                    root.path,
                    "podman had something there, and it is not there now: mount it, or have 'podman info' make it anew"
                )
            }
            let found = try root.uses()
            uses += found
            if paths.contains(root.path), !found.isEmpty || known.contains(root.path) { used.append(root.path) }
        }
        if Set(used) != Set(known) { try files.noteGraphRoots(used.sorted()) }
        return uses
    }

    /// Parents before children.
    private func shown(_ plan: ImageStorePlan) throws -> [ShownLayer] {
        var shown: [ShownLayer] = []
        var done: [Digest: [String]] = [:]
        func add(_ id: Digest) throws -> [String]? {
            if let known = done[id] { return known }
            guard let layer = plan.layers[id] else { return nil }
            var lowers: [String] = []
            if let parent = layer.row.parent {
                // Without all below it a layer is nothing.
                guard let below = try add(parent) else { return nil }
                lowers = below
            }
            let tarSplit = store.tarSplitPath(of: layer.diffID)
            let hasTarSplit = try store.hasTarSplit(of: layer.diffID)
            let size = hasTarSplit ? layer.facts.tarSize : nil
            let one = ShownLayer(
                id: id, parent: layer.row.parent, lowers: lowers, directory: "\(store.root)/fs/\(layer.row.view)",
                diffID: layer.diffID, tarSize: try size ?? store.index.estimatedTarSize(of: layer.row.layer),
                // A blob of which only ranges were seen may be another one: then podman downloads it, and finds that out.
                blob: layer.facts.isBlobProven && layer.facts.state == .proven ? layer.facts.digest : nil,
                blobSize: layer.facts.size, compression: Self.compression(layer.facts.format),
                tarSplit: hasTarSplit ? tarSplit : nil)
            shown.append(one)
            let result = ["l/\(one.link)"] + lowers
            done[id] = result
            return result
        }
        for id in plan.layers.keys.sorted(by: { $0.hex < $1.hex }) { _ = try add(id) }
        return shown
    }

    private static func compression(_ format: Int) -> Int64 {
        switch format {
        case 2, 6: 4
        case 7: 0
        default: 2
        }
    }
}
