public import LaminaDigest
public import LaminaOCI

/// An eStargz layer put together by hand, so that tests know where each chunk is, and can say something untrue.
///
/// Members hold their payload uncompressed (stored blocks), so sizes are known beforehand. They have no tar headers except the
/// table of contents' own; lamina reads none.
public struct ForgedLayer: Sendable {
    public var blob: [UInt8] = []
    /// Of the table of contents, as in the blob.
    public private(set) var tocOffset: Int64 = 0
    public private(set) var tocDigest = SHA256.hash([UInt8]())
    private var entries: [String] = []

    public init() {}

    public var digest: Digest { SHA256.hash(blob) }

    /// How many bytes the member of a payload has.
    public static func memberSize(_ payload: Int) -> Int { 18 + payload + 5 * max(1, (payload + 0xfffe) / 0xffff) }

    /// Adds a member.
    ///
    /// - Returns: its offset in the blob.
    public mutating func member(_ payload: [UInt8]) -> Int64 {
        let offset = Int64(blob.count)
        blob += Self.gzip(payload)
        return offset
    }

    /// Adds an entry to the table of contents: a JSON object without its braces.
    public mutating func entry(_ json: String) { entries.append("{\(json)}") }

    public mutating func directory(_ name: String, mode: Int = 0o755, rest: String = "") {
        entry(#""name":"\#(name)/","type":"dir","mode":\#(mode)\#(rest)"#)
    }

    /// Adds a file, each chunk in its own member.
    ///
    /// - Parameters:
    ///   - chunkSize: in bytes.
    ///   - claim: the digest that the table of contents gives, if not the true one.
    ///   - rest: more fields, each with a comma before it.
    /// - Returns: the chunks' offsets in the blob.
    @discardableResult
    public mutating func file(
        _ name: String, _ bytes: [UInt8], chunkSize: Int = 64 << 10, claiming claim: Digest? = nil, rest: String = ""
    ) -> [Int64] {
        let digest = claim ?? SHA256.hash(bytes)
        var offsets: [Int64] = []
        var start = 0
        let head = #""name":"\#(name)","type":"reg","size":\#(bytes.count),"mode":420,"digest":"\#(digest)"\#(rest)"#
        if bytes.isEmpty { entry(head) }
        while start < bytes.count {
            let chunk = Array(bytes[start..<min(start + chunkSize, bytes.count)])
            offsets.append(member(chunk))
            let place =
                #""offset":\#(offsets[offsets.count - 1]),"chunkOffset":\#(start),"chunkSize":\#(chunk.count),"#
                + #""chunkDigest":"\#(SHA256.hash(chunk))""#
            entry(start == 0 ? "\(head),\(place)" : #""name":"\#(name)","type":"chunk",\#(place)"#)
            start += chunk.count
        }
        return offsets
    }

    /// Adds several small files whose bytes are in one member, one after the other, with `gap` bytes before each.
    @discardableResult
    public mutating func packed(_ files: [(name: String, bytes: [UInt8])], gap: Int = 0) -> Int64 {
        var payload: [UInt8] = []
        var inner: [Int] = []
        for file in files {
            payload += [UInt8](repeating: 0xAA, count: gap)
            inner.append(payload.count)
            payload += file.bytes
        }
        let offset = member(payload)
        for (file, inner) in zip(files, inner) {
            entry(
                #""name":"\#(file.name)","type":"reg","size":\#(file.bytes.count),"mode":420,"offset":\#(offset),"#
                    + #""innerOffset":\#(inner),"digest":"\#(SHA256.hash(file.bytes))","#
                    + #""chunkDigest":"\#(SHA256.hash(file.bytes))""#)
        }
        return offset
    }

    /// Adds the table of contents and the footer.
    public mutating func finish() {
        let json = Array(#"{"version":1,"entries":[\#(entries.joined(separator: ","))]}"#.utf8)
        tocDigest = SHA256.hash(json)
        tocOffset = Int64(blob.count)
        var tar = Self.header("stargz.index.json", size: json.count)
        tar += json
        tar += [UInt8](repeating: 0, count: (512 - json.count % 512) % 512 + 1024)
        blob += Self.gzip(tar)
        let digits = String(tocOffset, radix: 16)
        blob += [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 26, 0] + Array("SG".utf8) + [22, 0]
        blob += Array((String(repeating: "0", count: 16 - digits.count) + digits + "STARGZ").utf8)
        blob += [1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]
    }

    private static func header(_ name: String, size: Int) -> [UInt8] {
        var header = [UInt8](repeating: 0, count: 512)
        func put(_ text: String, at offset: Int) {
            header.replaceSubrange(offset..<(offset + text.utf8.count), with: text.utf8)
        }
        func octal(_ value: Int, _ digits: Int) -> String {
            let text = String(value, radix: 8)
            return String(repeating: "0", count: digits - text.count) + text
        }
        put(name, at: 0)
        put(octal(0o444, 7), at: 100)
        put(octal(size, 11), at: 124)
        put("        ", at: 148)
        put("0", at: 156)
        put("ustar", at: 257)
        put("00", at: 263)
        put(octal(header.reduce(0) { $0 + Int($1) }, 6), at: 148)
        header[154] = 0
        return header
    }

    /// One gzip member of stored blocks (RFC 1951 §3.2.4, RFC 1952).
    private static func gzip(_ payload: [UInt8]) -> [UInt8] {
        func little(_ value: UInt32) -> [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } }
        var bytes: [UInt8] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]
        var start = 0
        repeat {
            let count = min(0xffff, payload.count - start)
            let isLast = start + count == payload.count
            let length = [UInt8(truncatingIfNeeded: count), UInt8(truncatingIfNeeded: count >> 8)]
            bytes += [isLast ? 1 : 0] + length + length.map { ~$0 }
            bytes += payload[start..<(start + count)]
            start += count
        } while start < payload.count
        return bytes + little(crc(payload)) + little(UInt32(truncatingIfNeeded: payload.count))
    }

    private static let table: [UInt32] = (0..<256).map { index in
        (0..<8).reduce(UInt32(index)) { value, _ in value & 1 == 1 ? 0xEDB8_8320 ^ value >> 1 : value >> 1 }
    }

    private static func crc(_ bytes: [UInt8]) -> UInt32 {
        table.withUnsafeBufferPointer { table in
            bytes.withUnsafeBufferPointer { bytes in
                var value: UInt32 = ~0
                for byte in bytes { value = table[Int(UInt8(truncatingIfNeeded: value) ^ byte)] ^ value >> 8 }
                return ~value
            }
        }
    }
}

/// A layer for ``writeImage(_:tag:layout:)``: its blob, and what the manifest says about its table of contents.
public struct ImageLayer: Sendable {
    public var blob: [UInt8]
    /// nil: the manifest does not say.
    public var tocDigest: Digest?
    /// nil: made up, because the layer is not unpacked.
    public var diffID: Digest?

    public init(blob: [UInt8], tocDigest: Digest?, diffID: Digest? = nil) {
        self.blob = blob
        self.tocDigest = tocDigest
        self.diffID = diffID
    }

    /// A finished layer.
    public init(_ layer: ForgedLayer) { self.init(blob: layer.blob, tocDigest: layer.tocDigest) }
}

/// Writes an image to an OCI layout.
///
/// - Parameter layers: bottom first.
/// - Returns: the layers' descriptors.
@discardableResult
public func writeImage(_ layers: [ImageLayer], tag: String, layout: String) throws -> [Descriptor] {
    let writer = try OCILayoutWriter(directory: layout, durable: false)
    var descriptors: [Descriptor] = []
    for layer in layers {
        var descriptor = try writer.addBlob(layer.blob, mediaType: MediaType.ociLayerGzip)
        if let digest = layer.tocDigest {
            descriptor.annotations["containerd.io/snapshot/stargz/toc.digest"] = digest.description
        }
        descriptors.append(descriptor)
    }
    let diffIDs = zip(layers, descriptors).map { "\"\($0.diffID ?? $1.digest)\"" }.joined(separator: ",")
    let config = #"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[\#(diffIDs)]}}"#
    let manifest = ImageManifest(
        config: try writer.addBlob(Array(config.utf8), mediaType: MediaType.ociConfig), layers: descriptors)
    try writer.setManifest(
        try writer.addBlob(manifest.serialized(), mediaType: MediaType.ociManifest), tag: tag)
    return descriptors
}
