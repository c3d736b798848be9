import LaminaDigest
import LaminaOCI

/// An eStargz layer written by hand, so that it can lie: https://github.com/containerd/stargz-snapshotter/blob/main/docs/estargz.md
///
/// Nothing is compressed: members are gzip around stored blocks.
struct HandmadeLayer {
    struct Entry {
        var name: String
        var type = "reg"
        var bytes: [UInt8] = []
        /// How many bytes a chunk has; by default all.
        var chunkSize: Int?
        /// What the table of contents says instead about the first chunk; null removes a member.
        var changes: [String: JSON] = [:]
        /// And about the chunks after it.
        var chunkChanges: [String: JSON] = [:]

        init(
            _ name: String, _ bytes: [UInt8] = [], type: String = "reg", chunkSize: Int? = nil,
            changes: [String: JSON] = [:], chunkChanges: [String: JSON] = [:]
        ) {
            self.name = name
            self.type = type
            self.bytes = bytes
            self.chunkSize = chunkSize
            self.changes = changes
            self.chunkChanges = chunkChanges
        }
    }

    /// The finished blob up to its table of contents.
    private(set) var payload: [UInt8] = []
    /// The table of contents as JSON.
    var toc: [UInt8] = []
    /// Where each file's chunks are in the blob.
    private(set) var offsets: [String: [Int]] = [:]
    private var uncompressed = SHA256()

    init(_ entries: [Entry]) {
        var pending: [UInt8] = []
        var listed: [JSON] = []
        for entry in entries {
            pending += Self.tarHeader(entry.name, type: entry.type, size: entry.bytes.count)
            var first: [String: JSON] = [
                "name": .string(entry.name), "type": .string(entry.type), "mode": .integer(0o644),
                "modtime": .string("2024-01-02T03:04:05Z"),
            ]
            var chunks: [JSON] = []
            if !entry.bytes.isEmpty {
                first["size"] = .integer(Int64(entry.bytes.count))
                first["digest"] = .string(SHA256.hash(entry.bytes).description)
                let step = entry.chunkSize ?? entry.bytes.count
                for start in stride(from: 0, to: entry.bytes.count, by: step) {
                    let chunk = Array(entry.bytes[start..<min(start + step, entry.bytes.count)])
                    addMember(pending)
                    var place: [String: JSON] = [
                        "offset": .integer(Int64(payload.count)),
                        "chunkDigest": .string(SHA256.hash(chunk).description),
                        "chunkOffset": .integer(Int64(start)), "chunkSize": .integer(Int64(chunk.count)),
                    ]
                    offsets[entry.name, default: []].append(payload.count)
                    pending = chunk
                    if start == 0 {
                        first.merge(place) { $1 }
                    } else {
                        place["name"] = .string(entry.name)
                        place["type"] = .string("chunk")
                        chunks.append(Self.object(place, changedBy: entry.chunkChanges))
                    }
                }
                pending += [UInt8](repeating: 0, count: (512 - entry.bytes.count % 512) % 512)
            }
            listed.append(Self.object(first, changedBy: entry.changes))
            listed += chunks
        }
        addMember(pending)
        toc = JSON.object([.init("version", .integer(1)), .init("entries", .array(listed))]).sortedBytes()
    }

    /// The whole blob.
    ///
    /// - Parameters:
    ///   - tocSize: the JSON's size in the tar header.
    ///   - tocOffset: what the footer says.
    ///   - member: changes the member that holds the table of contents.
    func blob(tocSize: Int? = nil, tocOffset: Int? = nil, member: ([UInt8]) -> [UInt8] = { $0 }) -> [UInt8] {
        payload + member(Self.gzip(tocTar(size: tocSize ?? toc.count))) + Self.footer(tocOffset ?? payload.count)
    }

    /// Of the tar that the blob is.
    var diffID: Digest {
        var hash = uncompressed
        hash.update(tocTar(size: toc.count))
        return hash.digest()
    }

    private func tocTar(size: Int) -> [UInt8] {
        Self.tarHeader("stargz.index.json", type: "reg", size: size) + toc
            + [UInt8](repeating: 0, count: (512 - toc.count % 512) % 512 + 1024)
    }

    private mutating func addMember(_ bytes: [UInt8]) {
        if bytes.isEmpty { return }
        uncompressed.update(bytes)
        payload += Self.gzip(bytes)
    }

    private static func object(_ members: [String: JSON], changedBy changes: [String: JSON]) -> JSON {
        .object(members.merging(changes) { $1 }.filter { $0.value != .null }.map { JSON.Member($0.key, $0.value) })
    }

    // MARK: Bytes

    /// POSIX.1-1988 ustar.
    static func tarHeader(_ name: String, type: String, size: Int) -> [UInt8] {
        var header = [UInt8](repeating: 0, count: 512)
        func put(_ text: String, at place: Int) {
            header.replaceSubrange(place..<(place + text.utf8.count), with: text.utf8)
        }
        func octal(_ value: Int, _ width: Int) -> String {
            let digits = String(value, radix: 8)
            return String(repeating: "0", count: max(0, width - digits.count)) + digits
        }
        put(String(name.prefix(99)), at: 0)
        put(octal(0o644, 7), at: 100)
        put(octal(0, 7), at: 108)
        put(octal(0, 7), at: 116)
        put(octal(size, 11), at: 124)
        put(octal(1_700_000_000, 11), at: 136)
        put("        ", at: 148)
        put(["reg": "0", "hardlink": "1", "symlink": "2", "dir": "5"][type] ?? "0", at: 156)
        put("ustar\u{0}00", at: 257)
        put(octal(header.reduce(0) { $0 + Int($1) }, 6) + "\u{0} ", at: 148)
        return header
    }

    /// One member, RFC 1952, of stored blocks, RFC 1951 §3.2.4.
    static func gzip(_ bytes: [UInt8]) -> [UInt8] {
        var result: [UInt8] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]
        var start = 0
        repeat {
            let count = min(0xFFFF, bytes.count - start)
            let low = UInt8(count & 0xFF), high = UInt8(count >> 8)
            result += [start + count == bytes.count ? 1 : 0, low, high, ~low, ~high]
            result += bytes[start..<(start + count)]
            start += count
        } while start < bytes.count
        for word in [crc(bytes), UInt32(truncatingIfNeeded: bytes.count)] {
            withUnsafeBytes(of: word.littleEndian) { result += $0 }
        }
        return result
    }

    /// As in RFC 1952 §8.
    private static let crcTable = (0..<256).map { start in
        var value = UInt32(start)
        for _ in 0..<8 { value = value & 1 == 0 ? value >> 1 : (value >> 1) ^ 0xEDB8_8320 }
        return value
    }

    private static func crc(_ bytes: [UInt8]) -> UInt32 {
        var value = UInt32.max
        for byte in bytes { value = (value >> 8) ^ crcTable[Int(UInt8(truncatingIfNeeded: value) ^ byte)] }
        return ~value
    }

    /// The 51 bytes that say where the table of contents is.
    static func footer(_ offset: Int) -> [UInt8] {
        let digits = String(offset, radix: 16)
        let head: [UInt8] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0, 0x53, 0x47, 22, 0]
        let text = String(repeating: "0", count: max(0, 16 - digits.count)) + digits + "STARGZ"
        return head + Array(text.utf8) + [1, 0, 0, 0xff, 0xff] + [UInt8](repeating: 0, count: 8)
    }
}

/// An OCI layout with one image of handmade layers.
struct HandmadeImage {
    let directory: String
    let reference: String
    private(set) var manifest: Digest
    private(set) var layers: [Digest] = []

    var manifestPath: String { blobPath(manifest) }
    var indexPath: String { directory + "/index.json" }
    func blobPath(_ digest: Digest) -> String { "\(directory)/blobs/sha256/\(digest.hex)" }

    /// Writes the image of one blob.
    ///
    /// - Parameters:
    ///   - tocDigest: for the annotation that ties the table of contents to the manifest; left out if nil.
    ///   - change: what the manifest says instead.
    init(
        _ directory: String, blob: [UInt8], diffID: Digest, tocDigest: Digest?, config: [UInt8]? = nil,
        change: (inout ImageManifest) -> Void = { _ in }
    ) throws {
        self.directory = directory
        reference = "oci:\(directory):x"
        let writer = try OCILayoutWriter(directory: directory, durable: false)
        var layer = try writer.addBlob(blob, mediaType: MediaType.ociLayerGzip)
        if let tocDigest { layer.annotations["containerd.io/snapshot/stargz/toc.digest"] = tocDigest.description }
        let own =
            #"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["\#(diffID)"]}}"#
        let described = try writer.addBlob(config ?? Array(own.utf8), mediaType: MediaType.ociConfig)
        var manifest = ImageManifest(config: described, layers: [layer])
        change(&manifest)
        let descriptor = try writer.addBlob(manifest.serialized(), mediaType: MediaType.ociManifest)
        try writer.setManifest(descriptor, tag: "x")
        self.manifest = descriptor.digest
        layers = [layer.digest]
    }

    /// Writes an honest image of a handmade layer.
    init(_ directory: String, _ layer: HandmadeLayer, blob: [UInt8]? = nil) throws {
        try self.init(
            directory, blob: blob ?? layer.blob(), diffID: layer.diffID, tocDigest: SHA256.hash(layer.toc))
    }
}

/// Bytes that look random and are the same each time.
func noise(_ count: Int, seed: UInt64 = 1) -> [UInt8] {
    var state = seed &* 0x9E37_79B9_7F4A_7C15 | 1
    return (0..<count).map { _ in
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return UInt8(truncatingIfNeeded: state >> 24)
    }
}
