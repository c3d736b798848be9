// Sparse files: their stored parts, and the holes between them.

extension TarReader {
    /// What the headers say about a sparse file; nil for any other file.
    func sparseFile(
        _ block: UnsafeRawBufferPointer, _ header: TarHeader, _ place: Int64
    ) throws(FormatError) -> TarSparse? {
        guard header.kind == .regular else { return nil }
        if block[TarField.type] == Self.oldSparseType {
            var sparse = TarSparse()
            guard let size = TarField.number(TarSparse.oldSize, of: block), size >= 0 else {
                throw .tar("its real size is not a number", entry: header.name, offset: place)
            }
            sparse.size = size
            try complain(header.name, place) { () throws(TarPAX.Problem) in
                try sparse.readOld(block, at: TarSparse.oldMap, count: 4)
            }
            return sparse
        }
        // Without a size and a map, or in an unknown version, it is taken as an ordinary file, as Go does.
        guard let sparse = local.sparse, sparse.size >= 0, sparse.hasMapInPayload || !sparse.map.isEmpty,
            sparse.major ?? 0 == 0 || sparse.hasMapInPayload
        else { return nil }
        return sparse
    }

    /// Begins a sparse file; returns its entry if its map is known.
    mutating func begin(
        _ found: TarSparse, _ entry: TarEntry, isExtended: Bool
    ) throws(FormatError) -> TarEntry? {
        sparse = found
        sparseEntry = entry
        (sparsePart, sparsePosition, sparseMap) = (0, 0, TarSparseMapReader())
        left = entry.header.size
        if found.hasMapInPayload {
            // Its payload contains at least the map.
            guard left > 0 else { throw .tar("its map of holes is missing", entry: lastName, offset: offset) }
            phase = .sparseMap
            return nil
        }
        if isExtended, entry.isOldSparse {
            phase = .sparseExtension
            return nil
        }
        return try beginParts()
    }

    /// The map is known: the stored parts follow.
    private mutating func beginParts() throws(FormatError) -> TarEntry? {
        guard let sparse, var entry = sparseEntry, let stored = sparse.storedSize, stored == left else {
            throw .tar("its map of holes does not fit what is stored of it", entry: lastName, offset: offset)
        }
        holeBytes += sparse.size - stored
        guard holeBytes <= Self.holeLimit else {
            throw .tar(
                "its holes are larger than the limit of \(Self.holeLimit) bytes", entry: lastName, offset: offset)
        }
        entry.header.size = sparse.size
        entry.holeSize = sparse.size - stored
        entry.isSparse = true
        sparseEntry = nil
        paddingAfter = Tar.padding(offset - entry.payloadOffset + left)
        phase = left > 0 ? .payload : paddingAfter > 0 ? .padding : .header
        if left == 0 { left = Int64(paddingAfter) }
        if sparse.size == 0 { self.sparse = nil }
        return entry
    }

    /// How much is left of the current part; unlimited for a file that is not sparse.
    var partLeft: Int64 {
        guard let sparse, sparsePart < sparse.map.count else { return .max }
        return sparse.map[sparsePart] + sparse.map[sparsePart + 1] - sparsePosition
    }

    /// The zeros that come next, if a hole is next.
    mutating func takeHole() -> Int? {
        guard let sparse, sparseEntry == nil else { return nil }
        while sparsePart < sparse.map.count, partLeft == 0, sparse.map[sparsePart] <= sparsePosition { sparsePart += 2 }
        let end = sparsePart < sparse.map.count ? sparse.map[sparsePart] : sparse.size
        let count = min(end - sparsePosition, Int64(Self.zerosAtOnce))
        if count > 0 {
            sparsePosition += count
            if sparsePosition == sparse.size { self.sparse = nil }
            return Int(count)
        }
        if sparsePosition == sparse.size { self.sparse = nil }
        return nil
    }

    mutating func takeSparseExtension(
        _ piece: inout UnsafeRawBufferPointer
    ) throws(FormatError) -> TarEntry? {
        pending += take(min(Tar.blockSize - pending.count, piece.count), of: &piece)
        guard pending.count == Tar.blockSize, var found = sparse else { return nil }
        let block = pending
        pending.removeAll(keepingCapacity: true)
        var problem: TarPAX.Problem?
        block.withUnsafeBytes { bytes in
            do throws(TarPAX.Problem) { try found.readOld(bytes, at: 0, count: 21) } catch { problem = error }
        }
        if let problem { throw .tar(problem.text, entry: lastName, offset: offset) }
        sparse = found
        if block[TarSparse.extensionIsExtended] != 0 { return nil }
        // The extension does not belong to the payload.
        sparseEntry?.payloadOffset = offset
        return try beginParts()
    }

    mutating func takeSparseMap(_ piece: inout UnsafeRawBufferPointer) throws(FormatError) -> TarEntry? {
        guard var found = sparse, let entry = sparseEntry else { return nil }
        while !piece.isEmpty, left > 0 {
            let byte = take(1, of: &piece)[0]
            left -= 1
            if !sparseMap.isDone {
                let name = lastName
                let place = offset
                try complain(name, place) { () throws(TarPAX.Problem) in try sparseMap.take(byte, into: &found) }
            }
            // The map fills whole blocks.
            guard sparseMap.isDone, (offset - entry.payloadOffset) % Int64(Tar.blockSize) == 0 else { continue }
            sparse = found
            return try beginParts()
        }
        sparse = found
        if left == 0 { throw .tar("its map of holes is cut short", entry: lastName, offset: offset) }
        return nil
    }

    private func complain(
        _ name: [UInt8], _ place: Int64, _ body: () throws(TarPAX.Problem) -> Void
    ) throws(FormatError) {
        do throws(TarPAX.Problem) { try body() } catch {
            throw .tar(error.text, entry: name, offset: place, unsupported: error.unsupported)
        }
    }
}
