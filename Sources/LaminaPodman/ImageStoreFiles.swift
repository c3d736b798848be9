import Glibc
import LaminaDigest
import LaminaOCI
import LaminaSystem

/// The files of an image store. Each is written beside its place and renamed; what names others is written after them, and what they
/// name is removed after it; so is the order of the two lists.
struct ImageStoreFiles {
    let directory: String

    /// By which lamina knows its own.
    private static let marker = "lamina-image-store"
    private static let layersFile = "overlay-layers/layers.json"
    private static let imagesFile = "overlay-images/images.json"
    /// Of the list of images, in bytes.
    private static let imagesLimit = 256 << 20
    /// The graph roots that had records.
    private static let graphRoots = "graph-roots"
    private static let layersLock = "overlay-layers/layers.lock"
    private static let imagesLock = "overlay-images/images.lock"

    /// The lock of an image store: podman, buildah and CRI-O read nothing of it meanwhile.
    final class Lock {
        fileprivate let layers: File
        fileprivate let images: File
        fileprivate init(layers: File, images: File) { (self.layers, self.images) = (layers, images) }
    }

    // MARK: The directory

    /// Makes the directories, and files that podman reads before there is an image.
    func prepare() throws {
        try createDirectories(directory, mode: 0o700)
        // What a kill in the first moment leaves is lamina's, too.
        let names = try File.names(inDirectory: directory).filter {
            !["lost+found", Self.marker + ".new"].contains($0)
        }
        guard names.isEmpty || names.contains(Self.marker) else { throw PodmanError.foreign(directory) }
        if names.isEmpty {
            try replaceFile(
                path(Self.marker),
                with: Array(
                    "What podman sees of lamina's store: made by lamina, and made again when it starts.\n".utf8),
                mode: 0o600)
        }
        for name in ["overlay", "overlay/l", "overlay-layers", "overlay-images", "overlay-containers"] {
            try createDirectories(path(name), mode: 0o700)
        }
        for name in [Self.layersLock, Self.imagesLock, "overlay-containers/containers.lock", "storage.lock"] {
            let file = try File(path(name), O_RDWR | O_CREAT | O_NOFOLLOW, mode: 0o600)
            if try file.size() == 0 { try touch(file) }
        }
        for name in [Self.layersFile, Self.imagesFile] where access(path(name), F_OK) != 0 {
            try replaceFile(path(name), with: Array("[]".utf8), mode: 0o600)
        }
    }

    private func path(_ name: String) -> String { "\(directory)/\(name)" }

    // MARK: The lock

    /// Waits for podman's locks, which podman has as long as it unpacks a layer.
    ///
    /// - Parameter patience: how long, in seconds.
    /// - Returns: nil where podman has one still.
    func lock(patience: Double, shouldStop: () -> Bool = { false }) throws -> Lock? {
        let deadline = monotonicSeconds() + patience
        while true {
            // Both or none: podman takes them in either order.
            let images = try File(path(Self.imagesLock), O_RDWR | O_NOFOLLOW)
            let layers = try File(path(Self.layersLock), O_RDWR | O_NOFOLLOW)
            if try images.tryWriteLock(), try layers.tryWriteLock() { return Lock(layers: layers, images: images) }
            guard monotonicSeconds() < deadline, !shouldStop() else { return nil }
            usleep(20_000)
        }
    }

    /// New bytes in a lock tell those who have read what it locks to read that again (`lockfile`, `Touch`).
    private func touch(_ lock: File) throws {
        var bytes: [UInt8] = []
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<8 { withUnsafeBytes(of: generator.next()) { bytes += $0 } }
        try bytes.withUnsafeBytes { try lock.write($0, at: 0) }
    }

    // MARK: Graph roots

    /// The graph roots in which podman had something, so that one that is missing is known from one that has never been.
    func knownGraphRoots() throws(PodmanError) -> [String] {
        let file = path(Self.graphRoots)
        let bytes: [UInt8]
        do throws(SystemError) {
            bytes = try readFile(file)
        } catch {
            if error.code == ENOENT { return [] }
            throw PodmanError.unreadable(file, "\(error)")
        }
        guard case .array(let items)? = try? JSON.parse(bytes) else {
            throw PodmanError.unreadable(file, "it is no JSON array")
        }
        return items.compactMap { if case .string(let path) = $0 { path } else { nil } }
    }

    func noteGraphRoots(_ paths: [String]) throws {
        _ = try replace(Self.graphRoots, JSON.array(paths.map { .string($0) }).sortedBytes())
    }

    // MARK: What is in it

    /// Writes what differs, and removes what is not there any more.
    func write(_ layers: [ShownLayer], _ images: [ShownImage]) throws {
        for layer in layers { try write(layer) }
        for image in images { try write(image) }
        // At each moment the images have their layers: an image that goes is gone before its layers, a new one comes after them.
        let old = shownImages()
        if !old.isSubset(of: images.map(\.id.hex)) { try replaceImages(images.filter { old.contains($0.id.hex) }) }
        if try replace(Self.layersFile, StorageDocuments.layers(layers)) {
            try touch(try File(path(Self.layersLock), O_RDWR | O_NOFOLLOW))
        }
        try replaceImages(images)
        try removeOthers(layers, images)
    }

    private func replaceImages(_ images: [ShownImage]) throws {
        guard try replace(Self.imagesFile, StorageDocuments.images(images)) else { return }
        try touch(try File(path(Self.imagesLock), O_RDWR | O_NOFOLLOW))
    }

    /// The ids of the images that podman sees now; of a file that is none, whatever it shows is to go.
    private func shownImages() -> Set<String> {
        guard let bytes = try? readFile(path(Self.imagesFile), limit: Self.imagesLimit),
            case .array(let items)? = try? JSON.parse(bytes)
        else { return [""] }
        return Set(items.map { if case .string(let id)? = $0["id"] { id } else { "" } })
    }

    private func write(_ layer: ShownLayer) throws {
        let place = "overlay/\(layer.id.hex)"
        try createDirectories(path(place), mode: 0o755)
        try link("\(place)/diff", to: layer.directory)
        try replace("\(place)/link", Array(layer.link.utf8))
        if layer.lowers.isEmpty {
            unlink(path("\(place)/lower"))
        } else {
            try replace("\(place)/lower", Array(layer.lowers.joined(separator: ":").utf8))
        }
        try link("overlay/l/\(layer.link)", to: "../\(layer.id.hex)/diff")
        let tarSplit = "overlay-layers/\(layer.id.hex).tar-split.gz"
        if let target = layer.tarSplit { try link(tarSplit, to: target) } else { unlink(path(tarSplit)) }
    }

    private func write(_ image: ShownImage) throws {
        let place = "overlay-images/\(image.id.hex)"
        try createDirectories(path(place), mode: 0o700)
        for (key, bytes) in image.bigData { try replace("\(place)/\(StorageNames.bigData(key))", bytes) }
    }

    /// - Returns: whether it was another file, or none.
    @discardableResult
    private func replace(_ name: String, _ bytes: [UInt8]) throws -> Bool {
        if let old = try? readFile(path(name), limit: bytes.count), old == bytes { return false }
        try replaceFile(path(name), with: bytes, mode: 0o600)
        return true
    }

    private func link(_ name: String, to target: String) throws {
        if File.linkTarget(of: path(name)) == target { return }
        let provisional = path(name) + ".new"
        unlink(provisional)
        guard symlink(target, provisional) == 0 else { throw SystemError.last("link", provisional) }
        guard rename(provisional, path(name)) == 0 else { throw SystemError.last("rename", provisional) }
    }

    private func removeOthers(_ layers: [ShownLayer], _ images: [ShownImage]) throws {
        let (ids, links) = (Set(layers.map(\.id.hex)), Set(layers.map(\.link)))
        for name in try File.names(inDirectory: path("overlay/l")) where name.count >= 26 && !links.contains(name) {
            unlink(path("overlay/l/\(name)"))
        }
        for name in try File.names(inDirectory: path("overlay")) where Digest(hex: name) != nil && !ids.contains(name) {
            let files = try? File.names(inDirectory: path("overlay/\(name)"))
            for file in files ?? [] where ["diff", "link", "lower"].contains(file) || file.hasSuffix(".new") {
                unlink(path("overlay/\(name)/\(file)"))
            }
            removeEmpty("overlay/\(name)")
        }
        for name in try File.names(inDirectory: path("overlay-layers")) {
            guard let id = name.split(separator: ".").first, Digest(hex: id) != nil, !ids.contains(String(id)) else {
                continue
            }
            unlink(path("overlay-layers/\(name)"))
        }
        let shown = Set(images.map(\.id.hex))
        for name in try File.names(inDirectory: path("overlay-images"))
        where Digest(hex: name) != nil && !shown.contains(name) {
            for file in try File.names(inDirectory: path("overlay-images/\(name)")) {
                unlink(path("overlay-images/\(name)/\(file)"))
            }
            removeEmpty("overlay-images/\(name)")
        }
    }

    private func removeEmpty(_ name: String) { rmdir(path(name)) }
}
