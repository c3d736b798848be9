import Glibc
import LaminaFilesystem
import LaminaSeal
import LaminaStore
import LaminaSystem
import Logging

/// Owns the sealed chains of a store: has a chain's image written when all of the chain has landed, mounts the chain when it is
/// wanted, and ends the mounts that are not wanted any more.
///
/// Its knowledge is in the index, and in the kernel: the next process finds everything that a killed one leaves. The mounts go
/// on without any process.
final class SealKeeper: Sendable {
    /// Whether this machine can mount sealed chains.
    enum Ability: Sendable, Equatable {
        case on(SealedMount.Way)
        /// Why not.
        case off(String)
    }

    private struct State {
        var ability: Ability?
        /// Chains whose use is about to be recorded.
        var holds: [SealedID: Int] = [:]
        /// Chains that cannot be sealed, and why.
        var refusals: [[ViewID]: String] = [:]
        var isWanted = true
        var isStopping = false
    }

    /// Seconds between two looks at what has landed, and at what is not in use any more.
    private static let interval = 3.0

    private let store: Store
    private let mode: Configuration.Seal.Mode
    private let log: Logger
    private let state = Monitor(State())
    /// Mounting and unmounting chains, one at a time, because each uses the same directory for a moment.
    private let mounting = Monitor(())
    private let thread = Monitor<Thread?>(nil)

    init(store: Store, mode: Configuration.Seal.Mode, log: Logger) {
        self.store = store
        self.mode = mode
        self.log = log
    }

    private var root: String { store.root }
    private var namesPath: String { "sealed/names" }

    // MARK: The beginning and the end

    /// Finds out what this machine can do, removes what an earlier boot or a killed process left, and begins to work.
    func start() throws {
        try store.forgetSealedMountsOfOtherBoots()
        while (try? Mount.unmount("\(root)/\(namesPath)", detach: true)) != nil {}
        if case .off(let reason) = ability() {
            log.info("images are not sealed", metadata: ["reason": "\(reason)"])
        }
        let thread = try Thread("seal") { [self] in work() }
        self.thread.withLock { $0 = thread }
    }

    /// Ends the work; mounts stay.
    func stop() {
        state.withLock(notify: true) { $0.isStopping = true }
        thread.withLock { $0.take() }?.join()
    }

    /// Whether images are sealed, and mounted sealed, without a request.
    var isAutomatic: Bool { mode == .auto }

    /// What this machine can do: tried once.
    func ability() -> Ability {
        if let known = state.withLock({ $0.ability }) { return known }
        return mounting.withLock { _ in
            if let known = state.withLock({ $0.ability }) { return known }
            let ability = attempt()
            state.withLock { $0.ability = ability }
            return ability
        }
    }

    private func attempt() -> Ability {
        if mode == .off { return .off("[seal] mode is \"off\"") }
        do {
            try createDirectories("\(root)/\(namesPath)", mode: 0o700)
        } catch {
            return .off("\(error)")
        }
        return switch SealTrial.run(in: root + "/sealed/trial") {
        case .works(let way): .on(way)
        case .fails(let reason): .off(reason)
        }
    }

    /// Has it look at once: something landed, or is not in use any more.
    func poke() { state.withLock(notify: true) { $0.isWanted = true } }

    // MARK: Sealing

    /// Writes the image of a chain, if it has none.
    ///
    /// - Returns: nil if something of the chain has not landed.
    func seal(_ views: [ViewID]) throws -> SealedChain? {
        do {
            let isKnown = try store.index.sealed(views) != nil
            let chain = try store.seal(views)
            if let chain, !isKnown {
                log.info(
                    "an image is sealed",
                    metadata: [
                        "directory": "sealed/\(chain.id)", "layers": "\(chain.views.count)", "files": "\(chain.inodes)",
                        "bytes": "\(chain.bytes)",
                    ])
            }
            return chain
        } catch let error as SealError {
            state.withLock { $0.refusals[views] = error.message }
            throw StoreError(.conflict, "the image cannot be sealed: \(error.message)", cause: error)
        }
    }

    private func work() {
        Thread.yieldToOthers()
        var version: UInt64?
        while true {
            let isStopping = state.wait(seconds: Self.interval) { state -> Bool? in
                if state.isStopping { return true }
                return state.isWanted ? false : nil
            }
            if isStopping == true { return }
            state.withLock { $0.isWanted = false }
            do {
                let current = store.index.contentVersion
                if version != current {
                    version = current
                    try sealWhatHasLanded()
                }
                try tidy()
            } catch {
                log.warning("sealed images are not kept for now", metadata: ["error": "\(error)"])
            }
        }
    }

    /// Writes the images that are wanted and can be written, and forgets those that are not wanted.
    private func sealWhatHasLanded() throws {
        guard isAutomatic, case .on = ability() else { return }
        let wanted = try store.index.chainsToSeal()
        for views in wanted where !state.withLock({ $0.isStopping || $0.refusals[views] != nil }) {
            do {
                _ = try seal(views)
            } catch {
                log.warning("an image stays on FUSE", metadata: ["reason": "\(error)"])
            }
        }
        let kept = Set(wanted)
        state.withLock { $0.refusals = $0.refusals.filter { kept.contains($0.key) } }
        for chain in try store.index.sealedChains() where !chain.isUsed && !kept.contains(chain.views) {
            try mounting.withLock { _ in
                if state.withLock({ $0.holds[chain.id] == nil }) { try store.forget(chain.id) }
            }
        }
    }

    // MARK: Mounting

    /// A chain that is mounted.
    struct Held: Sendable {
        var id: SealedID
        var form: SealedMount.Form
    }

    /// The mounted chain of these views, for a caller that records a use of it before it calls `release`; nil where it is not
    /// sealed, or cannot be mounted: it goes by way of FUSE then.
    func hold(_ views: [ViewID]) -> Held? {
        guard case .on = ability() else { return nil }
        do {
            // What is in quarantine is not mounted.
            guard try store.index.quarantine(of: views).isEmpty, let chain = try store.index.sealed(views) else {
                return nil
            }
            state.withLock { $0.holds[chain.id, default: 0] += 1 }
            if let form = try attach(chain.id) { return Held(id: chain.id, form: form) }
            release(chain.id)
        } catch {
            log.warning("a sealed image cannot be mounted", metadata: ["error": "\(error)"])
        }
        return nil
    }

    func release(_ id: SealedID) {
        state.withLock(notify: true) { state in
            let left = (state.holds[id] ?? 1) - 1
            state.holds[id] = left > 0 ? left : nil
        }
    }

    /// Mounts a chain at its directory, if it is not mounted.
    ///
    /// - Returns: what is mounted there, which may be what an earlier version made; nil where the chain is gone, or something of it is
    ///   missing.
    func attach(_ id: SealedID) throws -> SealedMount.Form? {
        try mounting.withLock { _ in
            if let form = try mountedChains()[id] { return form }
            guard case .on(let way) = state.withLock({ $0.ability }) else { return nil }
            guard let row = try store.beginSealedMount(id) else { return nil }
            do {
                try store.settleSealedMount(row, device: try mount(id, way))
                return way.form
            } catch {
                try store.settleSealedMount(row, device: nil)
                throw error
            }
        }
    }

    private func mount(_ id: SealedID, _ way: SealedMount.Way) throws -> String {
        let image = Store.imagePath(of: id)
        let directory = "\(root)/\(Store.directoryPath(of: id))"
        if access("\(root)/\(image)", F_OK) != 0, let chain = try store.index.sealed(id) {
            try store.rewriteImage(of: chain)
        }
        try createDirectories(directory, mode: 0o755)
        do {
            return try SealedMount.mount(
                SealedMount.Place(base: root, image: image, content: Store.contentPath, names: namesPath),
                at: directory,
                source: ImageMount.sealedSource(root: root), way: way)
        } catch {
            // A mount of an earlier answer then finds nothing, and not an empty directory.
            rmdir(directory)
            throw error
        }
    }

    /// The chains that are mounted at their directories, in this mount namespace.
    private func mountedChains() throws -> [SealedID: SealedMount.Form] {
        let prefix = "\(root)/sealed/"
        var chains: [SealedID: SealedMount.Form] = [:]
        // The topmost mount of a directory comes last.
        for mount in try Mount.all() where mount.directory.hasPrefix(prefix) {
            guard let id = Int64(mount.directory.dropFirst(prefix.count)) else { continue }
            chains[SealedID(id)] = SealedMount.form(of: mount)
        }
        return chains
    }

    /// Ends the mounts that nothing uses, and forgets those that the kernel has ended.
    func tidy() throws {
        try mounting.withLock { _ in
            let answered = try store.index.answeredChains()
            var mounted = try mountedChains()
            for id in mounted.keys where !answered.contains(id) && state.withLock({ $0.holds[id] == nil }) {
                let directory = "\(root)/\(Store.directoryPath(of: id))"
                // Perhaps in use by hand: it is tried again next time.
                guard (try? Mount.unmount(directory)) != nil else { continue }
                rmdir(directory)
                mounted[id] = nil
            }
            for mount in try store.index.sealedMounts() {
                // A process was killed before it recorded the mount's name. The mount counts as alive while the mount table shows it.
                let isAlive = mount.device.map(SealedMount.isAlive) ?? (mounted[mount.sealed] != nil)
                if isAlive { continue }
                try store.noteUse(of: mount.sealed)
                try store.settleSealedMount(mount.row, device: nil)
            }
            try store.removeUnknownImages()
        }
    }

    // MARK: Facts

    func status() -> SealStatus {
        let (ability, refusals) = state.withLock { ($0.ability, $0.refusals.count) }
        let chains = (try? store.index.sealedChains()) ?? []
        var status = SealStatus(
            on: false, chains: chains.count, mounts: (try? mountedChains().count) ?? 0, refused: refusals)
        switch ability {
        case .on(let way): (status.on, status.way, status.form) = (true, way.backing.rawValue, way.form.rawValue)
        case .off(let reason): status.reason = reason
        case nil: status.reason = "it was not tried yet"
        }
        return status
    }
}

/// What a server says about sealed images.
public struct SealStatus: Sendable, Codable, Equatable {
    /// Whether this machine mounts them.
    public var on: Bool
    /// Why not.
    public var reason: String?
    /// `file` or `loop`: what the kernel reads the images from.
    public var way: String?
    /// `names` or `overlay`: what stands at a chain's own directory (`SealedMount.Form`).
    public var form: String?
    /// Chains of layers that have an image.
    public var chains: Int
    /// How many of them are mounted.
    public var mounts: Int
    /// Chains that cannot be sealed.
    public var refused: Int

    public init(
        on: Bool, reason: String? = nil, way: String? = nil, form: String? = nil, chains: Int = 0, mounts: Int = 0,
        refused: Int = 0
    ) {
        self.on = on
        self.reason = reason
        self.way = way
        self.form = form
        self.chains = chains
        self.mounts = mounts
        self.refused = refused
    }
}
