import Glibc
import LaminaDigest
import LaminaOCI
import LaminaSystem

/// Something of podman's that stands upon what the image store shows.
public struct PodmanUse: Sendable, Hashable {
    public enum Kind: String, Sendable, Hashable {
        case container, image, layer, mount
    }

    public var kind: Kind
    /// Its name, where it has one, else the beginning of its id.
    public var name: String
    /// The graph root that it is in; of a mount, the process that has it.
    public var place: String
    /// The layer that it needs, with all below.
    var layer: Digest?
    /// The image that it was made of.
    var image: Digest?

    /// As in a sentence: `podman's container web (in /var/lib/containers/storage)`.
    public var text: String {
        kind == .mount ? "a mount of \(place)" : "podman's \(kind.rawValue) \(name) (in \(place))"
    }
}

/// A directory in which podman, buildah or CRI-O keep layers, images and containers of their own (`graphroot`): read to know what they
/// have upon others' layers. Only looked at, and without their locks: who takes something away has the lock of the image store meanwhile,
/// without which they make nothing new upon it.
package struct GraphRoot {
    var path: String
    /// Further directories whose records belong to it.
    var others: [String] = []
    /// Gives the bytes of a file; nil where there is none.
    var read: (_ file: String) throws(PodmanError) -> [UInt8]? = { file throws(PodmanError) in
        try GraphRoot.bytes(of: file)
    }

    init(path: String) { self.path = path }

    /// What stands upon what, where these bytes are in each of its files.
    package static func uses(reading bytes: [UInt8]) throws -> [PodmanUse] {
        var root = GraphRoot(path: "/")
        root.read = { _ in bytes }
        return try root.uses()
    }

    /// The bytes of one of its files.
    private static let byteLimit = 256 << 20

    /// Whether podman has ever kept something there. A directory upon which its file system is not mounted yet has nothing.
    var isThere: Bool {
        access("\(path)/overlay-layers", F_OK) == 0 || ![ENOENT, ENOTDIR].contains(errno)
    }

    /// What is in it, by what it stands upon.
    ///
    /// - Throws: `PodmanError.unreadable` for a file that is there and cannot be read: then nothing is known.
    func uses() throws -> [PodmanUse] {
        var uses: [PodmanUse] = []
        var layers: [PodmanUse] = []
        // What each of its own layers stands upon.
        var parents: [String: JSON] = [:]
        for file in ["overlay-layers/layers.json", "overlay-layers/volatile-layers.json"] {
            for item in try items(file) {
                layers.append(use(.layer, item, layer: item["parent"], image: nil))
                if case .string(let id)? = item["id"], let parent = item["parent"] { parents[id] = parent }
            }
        }
        /// Goes down through this graph root's own layers to the first layer that is another store's. A user is told of the image or container
        /// that needs it, not of each layer in between.
        func ground(_ layer: JSON?) -> JSON? {
            var (layer, seen) = (layer, Set<String>())
            while case .string(let id)? = layer, let parent = parents[id], seen.insert(id).inserted { layer = parent }
            return layer
        }
        // containers/storage keeps what ends with a restart in a file of its own.
        for file in ["overlay-containers/containers.json", "overlay-containers/volatile-containers.json"] {
            for item in try items(file) {
                uses.append(use(.container, item, layer: ground(item["layer"]), image: item["image"]))
            }
        }
        for item in try items("overlay-images/images.json") {
            uses.append(use(.image, item, layer: ground(item["layer"]), image: item["id"]))
            if case .array(let mapped)? = item["mapped-layers"] {
                for layer in mapped { uses.append(use(.image, item, layer: ground(layer), image: nil)) }
            }
        }
        return (uses + layers).filter { $0.layer != nil || $0.image != nil }
    }

    private func use(_ kind: PodmanUse.Kind, _ item: JSON, layer: JSON?, image: JSON?) -> PodmanUse {
        func id(_ value: JSON?) -> Digest? {
            if case .string(let text)? = value { Digest(hex: text) } else { nil }
        }
        var name = "?"
        if case .string(let text)? = item["id"] { name = String(text.prefix(12)) }
        if case .array(let names)? = item["names"], case .string(let first)? = names.first { name = first }
        return PodmanUse(
            kind: kind, name: String(name.prefix(300)), place: path, layer: id(layer), image: id(image))
    }

    private func items(_ file: String) throws(PodmanError) -> [JSON] {
        var items: [JSON] = []
        for directory in [path] + others {
            let file = "\(directory)/\(file)"
            guard let bytes = try read(file), !bytes.isEmpty else { continue }
            switch try? JSON.parse(bytes) {
            case .array(let found)?: items += found
            case .null?: continue
            default: throw PodmanError.unreadable(file, "it is no JSON array")
            }
        }
        return items
    }

    private static func bytes(of file: String) throws(PodmanError) -> [UInt8]? {
        do throws(SystemError) {
            return try readFile(file, limit: byteLimit)
        } catch {
            if error.code == ENOENT || error.code == ENOTDIR { return nil }
            throw PodmanError.unreadable(file, "\(error)")
        }
    }
}

/// What is wrong with an image store, or with what it is held against.
public enum PodmanError: Error, Sendable, CustomStringConvertible {
    case unreadable(String, String)
    /// The directory is somebody else's.
    case foreign(String)
    case path(String)

    public var description: String {
        switch self {
        case .unreadable(let path, let reason): "\(path) cannot be read: \(reason)"
        case .foreign(let path):
            "\(path) is not empty, and lamina has not made it: [podman] images takes a directory of its own"
        case .path(let path): "\(path) has a comma or a colon in its path, which podman cannot mount from"
        }
    }
}
