import LaminaDigest
import LaminaFormats
import LaminaOCI
import LaminaStore
import Synchronization

// From a descriptor to the bytes of a table of contents: by the annotations if they give its place, else by the footer.

extension LayerIndexer {
    /// How many bytes at the end of a blob are fetched with the footer: the TOCs of most layers are smaller.
    private static let tailSize: Int64 = 256 << 10
    /// The maximum size of a compressed TOC, in bytes: it is in memory beside the JSON, which is at least four times as large.
    static let memberLimit = Int64(TOCMemory.compressedBytes)
    /// How long a table of contents may take while other images wait for memory: so many seconds, and its size at so many bytes a second.
    private static let patience = 20.0
    private static let leastRate = Double(1 << 20)

    /// The layer's table of contents, or that it has none that can be used.
    func fetchTOC(_ descriptor: Descriptor, _ claims: TOCClaims) throws -> LayerKind {
        if let place = claims.position {
            return .withTOC(try fetchChunked(descriptor, place, claims.tarSplit, tail: nil))
        }
        // What an earlier process has found out need not be fetched again, unless another repository has said it.
        if claims.tocDigest == nil,
            let begun = try store.index.streamState(of: descriptor.digest, origin: source.location),
            let format = StreamState.decode(begun)?.format
        {
            return .plain(format)
        }
        let tailStart = max(0, descriptor.size - Self.tailSize)
        let tail = try read(descriptor, tailStart..<descriptor.size)
        let footer = try tail.withUnsafeBytes { try LayerFooter.find(in: $0, blobSize: descriptor.size) }
        switch footer {
        case .estargz(let tocOffset):
            return .withTOC(try fetchMember(descriptor, tocOffset, tail, tailStart))
        case .zstdChunked(let place, let tarSplit):
            return .withTOC(try fetchChunked(descriptor, place, tarSplit, tail: (tail, tailStart)))
        case .estargzExternal(let end):
            return .withTOC(try fetchExternal(descriptor, membersEnd: end))
        case .stargz: return .plain(.stargz)
        case nil: return .plain(nil)
        }
    }

    /// The table of contents in a gzip member before an eStargz footer.
    private func fetchMember(
        _ descriptor: Descriptor, _ tocOffset: Int64, _ tail: [UInt8], _ tailStart: Int64
    ) throws -> FetchedTOC {
        let tocEnd = descriptor.size - Int64(EStargz.footerSize)
        try checkSize(tocEnd - tocOffset, at: tocOffset)
        let share = try takeCompressed(tocEnd - tocOffset)
        var bytes = try completed(tail, from: tailStart, with: tocOffset, descriptor)
        let whole = (tocOffset, Int64(bytes.count), SHA256.hash(bytes))
        bytes.removeLast(bytes.count - Int(tocEnd - tocOffset))
        let toc = compressed(bytes, share) { [limits] in try EStargz.extractTOC(fromMember: $0, limits: limits) }
        return try FetchedTOC(toc, format: .estargz, membersEnd: tocOffset, tail: whole)
    }

    /// Waits for room for what is about to be fetched, where it is more than comes with a footer.
    func takeCompressed(_ size: Int64) throws -> TOCMemory.Share? {
        guard size > Self.tailSize else { return nil }
        return try memory?.takeCompressed(Int(clamping: size), shouldStop)
    }

    func compressed(
        _ bytes: [UInt8], _ share: TOCMemory.Share?, inflate: @escaping (UnsafeRawBufferPointer) throws -> [UInt8]
    ) -> CompressedTOC {
        let count = bytes.count
        return CompressedTOC(
            bytes, share, memory: { [memory, shouldStop] in try memory?.take(compressed: count, shouldStop) },
            inflate: inflate)
    }

    /// The table of contents in a skippable frame of zstd:chunked.
    ///
    /// - Parameter tail: the end of the blob, and where it begins, if it was read already.
    private func fetchChunked(
        _ descriptor: Descriptor, _ place: ZstdChunked.Place, _ tarSplit: ZstdChunked.Place?,
        tail: (bytes: [UInt8], start: Int64)?
    ) throws -> FetchedTOC {
        try checkSize(place.compressedSize, at: place.offset)
        let share = try takeCompressed(place.compressedSize)
        var bytes: [UInt8]
        if let tail {
            bytes = try completed(tail.bytes, from: tail.start, with: place.offset, descriptor)
        } else {
            bytes = try readInTime(descriptor, place.range)
        }
        let whole = (place.offset, Int64(bytes.count), SHA256.hash(bytes))
        bytes.removeLast(bytes.count - Int(place.compressedSize))
        let toc = compressed(bytes, share) { [limits] in try ZstdChunked.extractTOC($0, place: place, limits: limits) }
        return try FetchedTOC(
            toc, format: .zstdChunked, membersEnd: place.offset - ZstdChunked.frameHeadSize, tail: whole,
            checksum: SHA256.hash(bytes), tarSplit: tarSplit)
    }

    func checkSize(_ size: Int64, at offset: Int64) throws(FormatError) {
        guard size <= Self.memberLimit else {
            throw FormatError(
                .tooLarge, "the table of contents is over its limit", offset: offset,
                expected: "at most \(Self.memberLimit) bytes", actual: "\(size)")
        }
    }

    /// The blob's bytes from `offset` to its end, of which those from `start` on were read.
    private func completed(
        _ tail: [UInt8], from start: Int64, with offset: Int64, _ descriptor: Descriptor
    ) throws -> [UInt8] {
        if offset >= start { return Array(tail[Int(offset - start)...]) }
        return try readInTime(descriptor, offset..<start) + tail
    }

    func read(_ descriptor: Descriptor, _ range: Range<Int64>) throws -> [UInt8] {
        try read(descriptor, range, shouldStop: shouldStop)
    }

    /// Reads what has a share of the memory. If it takes much longer than on a line that works, and others wait for memory, it ends.
    private func readInTime(_ descriptor: Descriptor, _ range: Range<Int64>) throws -> [UInt8] {
        let end = ContinuousClock.now + .seconds(Self.patience + Double(range.count) / Self.leastRate)
        let isLate = Atomic<Bool>(false)
        do {
            return try read(descriptor, range) { [memory, shouldStop] in
                if ContinuousClock.now > end, memory?.isCompressedWanted == true {
                    isLate.store(true, ordering: .relaxed)
                }
                return isLate.load(ordering: .relaxed) || shouldStop()
            }
        } catch {
            guard isLate.load(ordering: .relaxed), !shouldStop() else { throw error }
            throw MergeError(
                .fetch, "layer \(descriptor.digest): its table of contents does not come, and other images wait",
                cause: error)
        }
    }

    private func read(
        _ descriptor: Descriptor, _ range: Range<Int64>, shouldStop: @Sendable () -> Bool
    ) throws -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(range.count)
        try source.read(descriptor.digest, size: descriptor.size, range: range, shouldStop: shouldStop) {
            bytes.append(contentsOf: $0)
        }
        didFetch(bytes.count)
        return bytes
    }
}

extension LayerIndexer {
    /// Compares the TOC with what the manifest says about it.
    ///
    /// The manifest names the blob, not the TOC. Without an annotation only the blob's own digest ties the TOC to the manifest.
    /// So the whole blob is read and hashed before its TOC is trusted, and compared with the TOC that was read before, because
    /// a source may give other bytes to each request.
    ///
    /// The pass over the whole blob also gives its diff ID.
    func verify(
        _ toc: inout FetchedTOC, _ claims: TOCClaims, _ descriptor: Descriptor, _ diffID: Digest?
    ) throws -> LayerProof {
        let pairs = [(claims.tocDigest, Optional(toc.digest)), (claims.checksum, toc.checksum)]
        var isProven = false
        for (expected, actual) in pairs {
            guard let expected, let actual else { continue }
            guard expected == actual else {
                throw MergeError(
                    .badImage,
                    "layer \(descriptor.digest): the table of contents is not the manifest's: expected \(expected), got \(actual)"
                )
            }
            isProven = true
        }
        if isProven, !requiresDiffID { return LayerProof(toc: .manifest) }
        guard isProven || toc.tail != nil else {
            throw MergeError(
                .badImage,
                "layer \(descriptor.digest): its table of contents is in another image, and its manifest vouches for none: "
                    + "push the image again with the annotation containerd.io/snapshot/stargz/toc.digest")
        }
        // Others need not wait until the blob has come.
        toc.park()
        let witness = Self.witness(for: toc.format, limits)
        let pass = try readWhole(
            descriptor, diffID, toc.format.compression, tail: toc.tail, witness: witness,
            keepingFrom: toc.tail?.offset)
        toc.restore(pass.kept.bytes, pass.kept.share)
        guard pass.tail == toc.tail?.digest else {
            throw MergeError(
                .badImage, "layer \(descriptor.digest): its table of contents was another when it was read again")
        }
        return LayerProof(
            toc: isProven ? .manifest : .blob, diffID: pass.diffID, computedDiffID: pass.computed, isOfWholeBlob: true,
            witness: pass.diffID == .proven || pass.diffID == .unpadded ? witness : nil)
    }

    /// Computes the diff ID of a layer that is in the store, if the operator wants it known.
    func provingDiffID(of layer: LayerID, _ descriptor: Descriptor, _ diffID: Digest?) throws -> LayerID {
        guard requiresDiffID else { return layer }
        let ledger = try store.index.ledger(of: layer)
        guard ledger.diffIDState == .unknown || ledger.diffIDState == .notProvable,
            let format = LayerFormat(rawValue: Int32(clamping: ledger.format))
        else { return layer }
        let witness = Self.witness(for: format, limits)
        let membersEnd = format == .estargz ? try store.index.tarSource(of: layer)?.membersEnd : nil
        let pass = try readWhole(
            descriptor, ledger.diffID ?? diffID, format.compression, tail: nil, witness: witness,
            keepingFrom: membersEnd)
        if membersEnd != nil {
            // The blob is what its digest says: so is the table of contents in it, and the tree may have been made of another one.
            let share = try memory?.take(compressed: pass.kept.bytes.count, shouldStop)
            let toc = try pass.kept.bytes.dropLast(EStargz.footerSize).withUnsafeBytes {
                SHA256.hash(try EStargz.extractTOC(fromMember: $0, limits: limits))
            }
            withExtendedLifetime((share, pass.kept.share)) {}
            try store.recordTOC(toc, checksum: nil, of: descriptor.digest)
            if toc != ledger.tocDigest { return layer }
        }
        try record(pass.diffID, pass.computed, of: layer, witness)
        return layer
    }

    /// Reads a blob once more for its layer's tar-split alone.
    func keepTarSplit(of layer: LayerID) throws {
        let ledger = try store.index.ledger(of: layer)
        guard let blob = try store.index.blob(of: layer), let diffID = ledger.diffID,
            let format = LayerFormat(rawValue: Int32(clamping: ledger.format))
        else { return }
        let descriptor = Descriptor(mediaType: "", digest: blob.digest, size: blob.size)
        _ = try readWhole(descriptor, diffID, format.compression, tail: nil)
    }

    private static func witness(for format: LayerFormat, _ limits: FormatLimits) -> TarWitness? {
        format == .estargz ? nil : TarWitness(limits)
    }

    /// Records what was found of a diff ID, once the tar's tree was held against the layer's.
    func record(_ state: DiffIDState, _ computed: Digest?, of layer: LayerID, _ witness: TarWitness?) throws {
        var state = state
        var computed = computed
        if state == .proven || state == .unpadded, let witness {
            let isConfirmed: Bool
            do {
                isConfirmed = try witness.confirms(layer, store.index, memory, shouldStop)
            } catch is FormatError {
                isConfirmed = false
            }
            if !isConfirmed { (state, computed) = (.notProvable, nil) }
        }
        try store.recordDiffID(state, computed: computed, of: layer)
    }

    /// Reads a blob from end to end: its digest must be right; tells its tar's, and that of a part of it.
    private func readWhole(
        _ descriptor: Descriptor, _ diffID: Digest?, _ compression: StreamDecompressor.Compression,
        tail: (offset: Int64, size: Int64, digest: Digest)?, witness: TarWitness? = nil, keepingFrom kept: Int64? = nil
    ) throws -> (
        tail: Digest?, diffID: DiffIDState, computed: Digest?, kept: (bytes: [UInt8], share: TOCMemory.Share?)
    ) {
        if let kept { try checkSize(descriptor.size - kept, at: kept) }
        var keptBytes: [UInt8] = []
        var share: TOCMemory.Share?
        var hash = SHA256()
        var tailHash = SHA256()
        // A blob that cannot be decompressed has no diff ID; its chunks show whether it can be served.
        var tar: (stream: StreamDecompressor, hash: SHA256)? = try (StreamDecompressor(compression), SHA256())
        let split = TarSplitKeeper(store, diffID, isWanted: keepsTarSplits, space: space)
        var position: Int64 = 0
        let tailRange = tail.map { $0.offset..<($0.offset + $0.size) } ?? 0..<0
        try source.read(
            descriptor.digest, size: descriptor.size, range: 0..<descriptor.size, shouldStop: shouldStop
        ) { bytes in
            hash.update(bytes)
            let part = tailRange.clamped(to: position..<(position + Int64(bytes.count)))
            if !part.isEmpty {
                let range = Int(part.lowerBound - position)..<Int(part.upperBound - position)
                tailHash.update(UnsafeRawBufferPointer(rebasing: bytes[range]))
            }
            if let stream = tar?.stream {
                do {
                    try stream.push(bytes) {
                        tar?.hash.update($0)
                        split?.take($0)
                        try witness?.take($0)
                    }
                } catch {
                    tar = nil
                }
            }
            if let kept, position + Int64(bytes.count) > kept {
                if keptBytes.isEmpty { share = try takeCompressed(descriptor.size - kept) }
                keptBytes += bytes[Int(max(0, kept - position))...]
            }
            position += Int64(bytes.count)
            didFetch(bytes.count)
        }
        let actual = hash.digest()
        guard actual == descriptor.digest else {
            throw MergeError(.badImage, "layer \(descriptor.digest): the blob has another digest: \(actual)")
        }
        let (state, computed): (DiffIDState, Digest?) =
            switch (diffID, tar) {
            case (nil, _): (.unknown, nil)
            case (_, nil): (.notProvable, nil)
            case (let diffID?, let tar?): TarProver.judge(tar.hash, diffID)
            }
        if state == .proven { split?.keep() }
        return (tail.map { _ in tailHash.digest() }, state, computed, (keptBytes, share))
    }
}

/// What is known of a layer when it is indexed.
struct LayerProof {
    var toc: TOCProof
    var diffID = DiffIDState.unknown
    var computedDiffID: Digest?
    /// Whether the blob was hashed, with the table of contents in it.
    var isOfWholeBlob = false
    /// Has seen the tar, where its table of contents is not in it: until the trees were held against each other, nothing is proven.
    var witness: TarWitness?
}
