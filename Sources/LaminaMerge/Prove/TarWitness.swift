import LaminaDigest
import LaminaFormats
import LaminaStore
import LaminaSystem

/// Makes a layer's tree of its tar, as it comes by to be hashed, and holds it against the one that the table of contents said.
///
/// The table of contents of zstd:chunked, and one that is in another image, is in no tar: a diff ID that is right says nothing of it. Files
/// under other names, with other owners or other modes would pass. In an eStargz it is a file of the tar.
final class TarWitness {
    private static let zeros = [UInt8](repeating: 0, count: 64 << 10)

    private var reader = TarReader()
    private var lines: [UInt8] = []
    private var packed: [[UInt8]] = []
    private var file: (entry: TarEntry, hash: SHA256, received: Int64)?
    private var size: Int64 = 0
    private let limits: FormatLimits
    private var count = 0
    private var bytes = 0

    init(_ limits: FormatLimits) { self.limits = limits }

    /// Throws ``FormatError`` for what is no tar.
    func take(_ bytes: UnsafeRawBufferPointer) throws {
        var piece = bytes
        size += Int64(bytes.count)
        while true {
            switch try reader.next(&piece) {
            case .more: return
            case .entry(let entry):
                if entry.header.kind == .regular, entry.header.size > 0 {
                    file = (entry, SHA256(), 0)
                } else {
                    try append(entry, nil)
                }
            case .payload(let payload): try take(payload: payload)
            case .zeros(let count):
                var rest = count
                while rest > 0 {
                    let part = min(rest, Self.zeros.count)
                    try Self.zeros.withUnsafeBytes { try take(payload: UnsafeRawBufferPointer(rebasing: $0[..<part])) }
                    rest -= part
                }
            }
        }
    }

    private func take(payload: UnsafeRawBufferPointer) throws {
        file?.hash.update(payload)
        file?.received += Int64(payload.count)
        guard let done = file, done.received == done.entry.header.size else { return }
        try append(done.entry, done.hash.digest())
        file = nil
    }

    private func append(_ entry: TarEntry, _ digest: Digest?) throws {
        let before = lines.count
        EntryLines.append(entry, digest: digest, to: &lines)
        count += 1
        bytes += lines.count - before
        try limits.check(entries: count, bytes: bytes)
        guard lines.count > 1 << 20 else { return }
        packed.append(EntryLines.pack(lines))
        lines.removeAll(keepingCapacity: true)
    }

    /// Whether the tar has the tree that the index has of the layer. Waits for memory for its own, and then takes the same as one that is
    /// put into the index.
    func confirms(
        _ layer: LayerID, _ index: Index, _ memory: TOCMemory?, _ shouldStop: () -> Bool
    ) throws -> Bool {
        let shares = [
            try memory?.take(bytes: bytes, shouldStop),
            try memory?.takeTree(TOCMemory.treeBytes(ofJSON: bytes), shouldStop),
        ]
        defer { withExtendedLifetime(shares) {} }
        try reader.finish()
        if !lines.isEmpty { packed.append(EntryLines.pack(lines)) }
        // Landmarks, and a table of contents, are no files of the tree.
        let document = DisposableBytes(try EntryLines.document(packed, limits: limits))
        packed = []
        let found = try document.consume { bytes, dispose in
            let tree = try LayerTree.parse(
                entries: bytes, tarSize: size, format: .stargz, limits: limits, didRead: dispose)
            // As one that is put into the index: a few names may be a million directories, whose paths have gigabytes together.
            let most = Int64(clamping: limits.entries) * IndexBytes.entry
            guard IndexBytes(of: tree, isIsolated: false).bytes <= most else {
                throw FormatError(.tooLarge, "the tar has too many entries, or too large ones")
            }
            return tree.facts
        }
        let expected = try index.treeFacts(of: layer)
        guard found.count == expected.count else { return false }
        // Each has a path of its own.
        let all = Set(found)
        return all.count == found.count && expected.allSatisfy(all.contains)
    }
}

extension LayerTree {
    fileprivate var facts: [Digest] {
        var paths = [[UInt8]?](repeating: nil, count: nodes.count)
        if !nodes.isEmpty { paths[0] = [] }
        var attributes: [Int32: [(name: [UInt8], value: [UInt8])]] = [:]
        return withArena { arena in
            for xattr in xattrs {
                attributes[xattr.node, default: []].append(
                    (Array(arena[nameRange(of: xattr)]), Array(arena[valueRange(of: xattr)])))
            }
            // A directory's own name may stand behind what is in it.
            var names: [Int32: Int] = [:]
            for (index, dirent) in dirents.enumerated() where dirent.node != 0 { names[dirent.node] = index }
            func path(of directory: Int32) -> [UInt8] {
                if let known = paths[Int(directory)] { return known }
                guard let index = names[directory] else { return [] }
                let parent = path(of: dirents[index].parent)
                let made =
                    (parent.isEmpty ? [] : parent + [UInt8(ascii: "/")]) + Array(arena[nameRange(of: dirents[index])])
                paths[Int(directory)] = made
                return made
            }
            func fact(_ number: Int32, _ path: [UInt8]) -> Digest {
                let node = nodes[Int(number)]
                var fact = TreeFact()
                fact.path = path
                (fact.mode, fact.uid, fact.gid) = (node.mode, node.uid, node.gid)
                (fact.size, fact.device) = (node.size, node.device)
                fact.target = targetRange(of: number).map { Array(arena[$0]) } ?? []
                fact.content = node.content >= 0 ? contents[Int(node.content)].digest : nil
                fact.attributes = attributes[number] ?? []
                return fact.digest
            }
            var facts = [fact(0, [])]
            facts.reserveCapacity(dirents.count + 1)
            for dirent in dirents {
                let parent = path(of: dirent.parent)
                facts.append(
                    fact(
                        dirent.node,
                        (parent.isEmpty ? [] : parent + [UInt8(ascii: "/")]) + Array(arena[nameRange(of: dirent)])))
            }
            return facts
        }
    }
}
