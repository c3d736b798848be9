import LaminaDigest
import LaminaOCI

/// What one of containerd's manifests says of layers, and whether it says what only clients say.
///
/// containerd hands annotations of a layer's descriptor on to its snapshotter where they begin like its own labels, and nobody can
/// tell them from those of a client. Only its label with the chain ID is always its own: so layers are found by their chain, in the
/// configurations of all manifests. A document that Go may read otherwise than lamina does is believed in nothing.
public struct ManifestTestimony: Sendable {
    /// What annotations begin with that name an image like a client's labels. No honest manifest has one.
    private static let prefixes = [LayerOffer.criPrefix, LayerOffer.annotationPrefix]

    /// Whether the manifest can be read, and has nothing that looks like a client's label.
    private let isClean: Bool
    /// The diff IDs of its layers by the layers' chain IDs.
    private var layers: [Digest: Digest] = [:]
    /// Whatever may be a diff ID in a configuration that cannot be read.
    private var rumours: Set<Digest> = []
    /// Whether one of its configurations is too long to be read at all.
    private var isBeyondReading = false

    /// - Parameters:
    ///   - manifest: its bytes; nil if it has too many.
    ///   - configurations: of each that containerd takes for the manifest's the bytes; nil if it has too many.
    public init(manifest: [UInt8]?, configurations: [[UInt8]?]) {
        isClean = manifest.flatMap { try? JSON.parse($0) }.map { !Self.speaks($0) } ?? false
        for configuration in configurations {
            guard let configuration else {
                isBeyondReading = true
                continue
            }
            guard let diffIDs = Self.diffIDs(in: configuration) else {
                rumours.formUnion(Self.digests(in: configuration))
                continue
            }
            for (chain, diffID) in zip(LayerNames.chains(diffIDs), diffIDs) { layers[chain] = diffID }
        }
    }

    /// About how many bytes it takes.
    public var byteCount: Int { 256 + 128 * layers.count + 64 * rumours.count }

    /// Why nobody can tell that the labels of a layer are a client's; nil if the manifests tell.
    ///
    /// - Parameter manifests: all that containerd has in the layer's namespace, by name.
    public static func doubt(about chain: String, _ manifests: [(name: String, says: ManifestTestimony)]) -> String? {
        guard let chain = Digest(parsing: chain),
            let diffID = manifests.lazy.compactMap({ $0.says.layers[chain] }).first
        else { return "containerd has no manifest with the layer" }
        for (name, says) in manifests where !says.isClean {
            guard says.layers[chain] != nil || says.rumours.contains(diffID) || says.isBeyondReading else { continue }
            let names = prefixes.map { $0 + "*" }.joined(separator: ", ")
            return
                "the manifest \(name), which may have the layer, has annotations that only clients set (\(names)), or cannot be read"
        }
        return nil
    }

    /// Whether any object of a document has a member that looks like a client's label: wherever it is, and however what is around it is
    /// called.
    private static func speaks(_ document: JSON) -> Bool {
        switch document {
        case .object(let members):
            members.contains { member in
                prefixes.contains { member.name.utf8.starts(with: $0.utf8) } || speaks(member.value)
            }
        case .array(let elements): elements.contains(where: speaks)
        default: false
        }
    }

    /// The diff IDs of a configuration; nil if Go may read others.
    private static func diffIDs(in configuration: [UInt8]) -> [Digest]? {
        guard let document = try? JSON.parse(configuration), let filesystem = only("rootfs", of: document),
            case .array(let elements)? = only("diff_ids", of: filesystem)
        else { return nil }
        var digests: [Digest] = []
        for element in elements {
            guard case .string(let text) = element, let digest = Digest(parsing: text), digest.description == text
            else {
                return nil
            }
            digests.append(digest)
        }
        return digests
    }

    /// The value of a member; nil if there is none, or another one that Go takes for it: Go does not look at the case of letters, and
    /// the last of several members counts.
    private static func only(_ name: String, of object: JSON) -> JSON? {
        guard case .object(let members) = object else { return nil }
        let found = members.filter { $0.name.uppercased().lowercased() == name }
        guard found.count == 1, let member = found.first, member.name == name else { return nil }
        return member.value
    }

    /// All SHA-256 digests in a text of JSON, be it valid or not.
    private static func digests(in text: [UInt8]) -> Set<Digest> {
        var found: Set<Digest> = []
        var digits: [UInt8] = []
        var rest = text[...]
        while let byte = rest.popFirst() {
            var byte = byte
            // \u0061 is an a.
            if byte == UInt8(ascii: "\\"), rest.first == UInt8(ascii: "u"), rest.count > 4,
                let code = UInt8(String(decoding: rest.dropFirst().prefix(4), as: UTF8.self), radix: 16)
            {
                rest = rest.dropFirst(5)
                byte = code
            }
            guard UInt8(ascii: "0")...UInt8(ascii: "9") ~= byte || UInt8(ascii: "a")...UInt8(ascii: "f") ~= byte else {
                digits.removeAll(keepingCapacity: true)
                continue
            }
            // A digest's digits begin behind its colon.
            guard digits.count < 64 else { continue }
            digits.append(byte)
            if digits.count == 64, let digest = Digest(hex: String(decoding: digits, as: UTF8.self)) {
                found.insert(digest)
            }
        }
        return found
    }
}
