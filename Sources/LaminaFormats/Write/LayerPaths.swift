/// Where the entries of a tar are after unpacking: names are cleaned, and lead through the symbolic links that the layer itself
/// has by then (`lib -> usr/lib`, then `lib/libx.so`), as in ``LayerTree``.
///
/// For code that rewrites a layer's entries. Costs about 40 bytes and the last component of the name for each entry.
public struct LayerPaths {
    private enum Kind: Equatable {
        case directory
        /// A symbolic link: where its target lies in the arena.
        case link(start: UInt32, count: UInt32)
        case other
    }

    private let limits: FormatLimits
    private var names = NodeTable()
    private var kinds: [Kind] = [.directory]
    private var work = 0

    public init(limits: FormatLimits = FormatLimits()) { self.limits = limits }

    /// Takes the next entry of the archive. If unpacking puts the entry, or the target of a hard link, under another name, it
    /// gives it that name.
    ///
    /// - Returns: false if nothing can be made of it: an entry without a name, or one that climbs to the root, and is no
    ///   directory.
    /// - Throws: `FormatError` `badEntry` for a name that is below a file, or too long.
    public mutating func place(_ header: inout TarHeader) throws(FormatError) -> Bool {
        do throws(FormatError) {
            return try placing(&header)
        } catch {
            throw error.naming(header.displayName)
        }
    }

    private mutating func placing(_ header: inout TarHeader) throws(FormatError) -> Bool {
        var walk = LinkWalk(limits: limits)
        if header.kind == .hardLink {
            if let target = try walked(&walk, header.linkName, creating: nil) { header.linkName = target }
        }
        let kind = header.kind
        guard let name = try walked(&walk, header.name, creating: header) else { return true }
        guard !name.isEmpty else {
            if Tar.climbs(header.name) { header.name = Array("./".utf8) }
            return kind == .directory
        }
        header.name = kind == .directory ? name + [UInt8(ascii: "/")] : name
        return true
    }

    /// Follows a path; returns where it ends, if that differs from the path.
    ///
    /// - Parameter creating: what will be there; missing directories on the way are made. Nil only looks.
    private mutating func walked(
        _ walk: inout LinkWalk, _ name: [UInt8], creating header: TarHeader?
    ) throws(FormatError) -> [UInt8]? {
        var failure: FormatError?
        name.withUnsafeBytes { bytes in
            do throws(FormatError) { try walk.begin(bytes) } catch { failure = error }
        }
        if let failure { throw failure }
        var isOther = Tar.climbs(name) || walk.componentCount == 0
        restart: while true {
            var node: Int32 = 0
            for index in 0..<max(walk.componentCount - 1, 0) {
                let component = walk.component(index)
                let found = names.find(node, component).map { names.slots[$0].node }
                switch found.map({ kinds[Int($0)] }) {
                case .directory: node = found ?? 0
                case .link(let start, let count):
                    let target = names.arena[Int(start)..<Int(start) + Int(count)]
                    try walk.follow(index, to: target, work: &work)
                    isOther = true
                    continue restart
                case .other where header != nil:
                    throw FormatError(
                        .badEntry, "the entry lies below something that is no directory",
                        actual: "'\(FormatError.display(component))'")
                case .other, nil:
                    // A target that is not there yet has no links on its way.
                    guard header != nil else { return isOther ? Array(walk.whole) : nil }
                    node = try give(.directory, component, of: node)
                }
            }
            if let header, walk.componentCount > 0 {
                try add(header, walk.component(walk.componentCount - 1), of: node)
            }
            return isOther ? Array(walk.whole) : nil
        }
    }

    private mutating func add(
        _ header: TarHeader, _ name: UnsafeRawBufferPointer, of parent: Int32
    ) throws(FormatError) {
        var kind = Kind.other
        switch header.kind {
        case .directory:
            if let slot = names.find(parent, name), kinds[Int(names.slots[slot].node)] == .directory { return }
            kind = .directory
        case .symbolicLink:
            kind = .link(start: UInt32(names.arena.count), count: UInt32(header.linkName.count))
            names.arena += header.linkName
        case .hardLink: if let target = find(Tar.clean(header.linkName)) { kind = kinds[Int(target)] }
        default: break
        }
        _ = try give(kind, name, of: parent)
    }

    /// What has a cleaned path that leads through no link.
    private func find(_ path: [UInt8]) -> Int32? {
        var node: Int32 = 0
        for component in path.split(separator: UInt8(ascii: "/")) {
            guard let slot = component.withUnsafeBytes({ names.find(node, $0) }) else { return nil }
            node = names.slots[slot].node
        }
        return kinds[Int(node)] == .directory ? nil : node
    }

    private mutating func give(
        _ kind: Kind, _ name: UnsafeRawBufferPointer, of parent: Int32
    ) throws(FormatError) -> Int32 {
        guard kinds.count <= limits.entries, names.arena.count <= Int(UInt32.max) / 2 else {
            throw FormatError(.tooLarge, "the layer has too many entries", expected: "at most \(limits.entries)")
        }
        let node = Int32(kinds.count)
        kinds.append(kind)
        if let slot = names.find(parent, name) {
            names.replace(slot, with: node)
        } else {
            _ = names.add(parent, name, node: node)
        }
        return node
    }
}
