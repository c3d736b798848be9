import LaminaDigest
import LaminaFormats
import LaminaOCI
import LaminaSystem

/// What a manifest says of a layer's table of contents, by the annotations of the layer's descriptor.
struct TOCClaims {
    /// SHA-256 of the JSON (https://github.com/containerd/stargz-snapshotter/blob/main/docs/estargz.md).
    var tocDigest: Digest?
    /// SHA-256 of the JSON as it stands in the blob, compressed; for zstd:chunked.
    var checksum: Digest?
    /// Where it stands; for zstd:chunked.
    var position: ZstdChunked.Place?
    /// Where the tar-split stands; for zstd:chunked in the containers dialect.
    var tarSplit: ZstdChunked.Place?

    /// Whether the manifest proves the table of contents. A digest that cannot be read proves nothing, and is refused with the
    /// rest of the layer.
    var isVouchedFor: Bool { tocDigest != nil || checksum != nil }

    /// - Throws: `MergeError.badImage` for annotations that exist and make no sense.
    init(_ descriptor: Descriptor) throws(MergeError) {
        let annotations = descriptor.annotations
        func text(_ keys: [String]) -> (key: String, text: String)? {
            for key in keys { if let text = annotations[key] { return (key, text) } }
            return nil
        }
        func digest(_ keys: [String]) throws(MergeError) -> Digest? {
            guard let (key, text) = text(keys) else { return nil }
            guard let digest = Digest(parsing: text) else {
                throw MergeError(
                    .badImage, "layer \(descriptor.digest): the annotation \(key) is no digest: '\(text.prefix(100))'")
            }
            return digest
        }
        func place(_ keys: [String], hasType: Bool) throws(MergeError) -> ZstdChunked.Place? {
            guard let (key, text) = text(keys) else { return nil }
            guard let place = ZstdChunked.parsePosition(text, hasType: hasType),
                let checked = try? ZstdChunked.checked(place, before: descriptor.size)
            else {
                throw MergeError(
                    .badImage,
                    "layer \(descriptor.digest): the annotation \(key) is no place in the blob: '\(text.prefix(100))'")
            }
            return checked
        }
        let prefixes = ["io.github.containers.zstd-chunked.", "io.containers.zstd-chunked."]
        tocDigest = try digest(["containerd.io/snapshot/stargz/toc.digest"])
        checksum = try digest(prefixes.map { $0 + "manifest-checksum" })
        position = try place(prefixes.map { $0 + "manifest-position" }, hasType: true)
        // Only the proof of the diff ID needs it.
        tarSplit = try? place(prefixes.map { $0 + "tarsplit-position" }, hasType: false)
    }
}

/// A layer's table of contents as it was fetched, before any of it is trusted.
struct FetchedTOC {
    let format: LayerFormat
    /// SHA-256 of the JSON.
    let digest: Digest
    /// Where in the blob the last member ends.
    let membersEnd: Int64
    /// The bytes of the blob that hold the TOC; `nil` if it is in another blob.
    let tail: (offset: Int64, size: Int64, digest: Digest)?
    /// SHA-256 of the JSON as it stands in the blob, compressed; for zstd:chunked.
    let checksum: Digest?
    let tarSplit: ZstdChunked.Place?

    /// As it came, and what that takes of the memory for tables of contents; nil once it is done with.
    private(set) var compressed: CompressedTOC?
    private let compressedCount: Int
    /// The JSON, and what it takes of that memory, until the tree is made of it.
    private var json: (bytes: DisposableBytes, share: TOCMemory.Share?)?
    private let jsonCount: Int

    /// Decompresses and hashes it.
    ///
    /// - Throws: `FormatError`; `MergeError.stopped` while it waits for memory.
    init(
        _ compressed: CompressedTOC, format: LayerFormat, membersEnd: Int64,
        tail: (offset: Int64, size: Int64, digest: Digest)? = nil, checksum: Digest? = nil,
        tarSplit: ZstdChunked.Place? = nil
    ) throws {
        self.format = format
        self.compressed = compressed
        compressedCount = compressed.bytes.count
        let (bytes, share) = try compressed.inflated()
        jsonCount = bytes.count
        digest = SHA256.hash(bytes)
        json = (DisposableBytes(bytes), share)
        self.membersEnd = membersEnd
        self.tail = tail
        self.checksum = checksum
        self.tarSplit = tarSplit
    }

    /// What of the layer's tar stands behind its last member: the compressed table of contents of an eStargz, as it is in the blob.
    var tarTail: [UInt8]? { format == .estargz ? compressed?.bytes : nil }

    /// Lets the JSON go while the whole blob is read, and the compressed bytes if they come again with it.
    mutating func park() {
        json = nil
        if tail != nil { compressed?.empty() }
    }

    /// Has the compressed bytes again, from the end of the blob.
    mutating func restore(_ end: [UInt8], _ share: TOCMemory.Share?) {
        guard tail != nil else { return }
        compressed?.restore(Array(end.prefix(compressedCount)), share)
    }

    /// Has the JSON again, after `park`.
    ///
    /// - Throws: as `init`.
    mutating func unpark() throws {
        guard json == nil, let compressed else { return }
        let (bytes, share) = try compressed.inflated()
        json = (DisposableBytes(bytes), share)
    }

    /// Lets all of it go: the layer is read in another way.
    mutating func drop() { (json, compressed) = (nil, nil) }

    /// Makes the tree, once: the JSON is gone then.
    ///
    /// - Throws: `FormatError`.
    mutating func makeTree(_ limits: FormatLimits) throws -> LayerTree {
        defer { json = nil }
        guard let json else { throw FormatError(.badTOC, "the table of contents is gone") }
        return try json.bytes.consume { bytes, dispose in
            try LayerTree.parse(toc: bytes, tocOffset: membersEnd, format: format, limits: limits, didRead: dispose)
        }
    }

    /// How many bytes of memory its tree may come to take, at most.
    var treeBytes: Int { TOCMemory.treeBytes(ofJSON: jsonCount) }
}

/// The compressed bytes of a table of contents.
struct CompressedTOC {
    private(set) var bytes: [UInt8]
    /// What they take of the memory for tables of contents; nil: they are few.
    private var share: TOCMemory.Share?
    /// Waits for memory for the JSON.
    private let memory: () throws -> TOCMemory.Share?
    private let inflate: (UnsafeRawBufferPointer) throws -> [UInt8]

    init(
        _ bytes: [UInt8], _ share: TOCMemory.Share?, memory: @escaping () throws -> TOCMemory.Share?,
        inflate: @escaping (UnsafeRawBufferPointer) throws -> [UInt8]
    ) {
        (self.bytes, self.share, self.memory, self.inflate) = (bytes, share, memory, inflate)
    }

    fileprivate mutating func empty() { (bytes, share) = ([], nil) }

    fileprivate mutating func restore(_ bytes: [UInt8], _ share: TOCMemory.Share?) {
        (self.bytes, self.share) = (bytes, share)
    }

    fileprivate func inflated() throws -> ([UInt8], TOCMemory.Share?) {
        let share = try memory()
        let json = try bytes.withUnsafeBytes(inflate)
        share?.shrink(to: json.count)
        return (json, share)
    }
}
