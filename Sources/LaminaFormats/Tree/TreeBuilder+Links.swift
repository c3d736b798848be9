extension TreeBuilder {
    /// Adds another name to a node. If its target is not there yet, it may come later: a placeholder node is used until
    /// ``resolveLinks(_:)``.
    mutating func addHardLink(
        in parent: Int32, named name: UnsafeRawBufferPointer, _ entry: TOCEntry, _ parser: TOCParser
    ) throws(FormatError) {
        try parser.reader.withBytes(entry.linkName) { (target) throws(FormatError) in try linkPath.clean(target) }
        guard !linkPath.path.isEqual(to: path.path) else { throw Self.ring() }
        if let found = try target(), drafts[Int(found)].kind == .other || drafts[Int(found)].kind == .unresolvedLink {
            return link(found, in: parent, named: name)
        }
        var node = LayerTree.Node(mode: 0, uid: 0, gid: 0, mtimeSeconds: 0, mtimeNanoseconds: 0)
        node.target = UInt32(names.arena.count)
        node.size = Int64(linkPath.path.count)
        var draft = Draft(kind: .unresolvedLink)
        draft.position = Int32(truncatingIfNeeded: entry.position)
        names.arena.append(contentsOf: linkPath.path)
        try place(node, draft, in: parent, named: name)
        hasUnresolvedLinks = true
    }

    /// Adds a name to an existing node.
    private mutating func link(_ node: Int32, in parent: Int32, named name: UnsafeRawBufferPointer) {
        guard let slot = names.find(parent, name) else {
            _ = names.add(parent, name, node: node)
            return
        }
        replace(slot, with: node)
    }

    /// What ``linkPath`` leads to now.
    private mutating func target() throws(FormatError) -> Int32? {
        var node: Int32 = 0
        for index in 0..<linkPath.componentCount {
            guard let slot = names.find(node, linkPath.component(index)) else {
                // There may be a symbolic link on the way.
                return index > 0 && drafts[Int(node)].kind == .other ? try targetBehindLinks() : nil
            }
            node = names.slots[slot].node
        }
        return node
    }

    /// Replaces the placeholder nodes with their targets, for each name that `isAlive`.
    ///
    /// Throws ``FormatError`` `badEntry`, naming the link, if it leads nowhere, to a directory, to a whiteout or in a cycle.
    mutating func resolveLinks(_ isAlive: (NodeTable.Slot) -> Bool) throws(FormatError) {
        guard hasUnresolvedLinks else { return }
        // By draft: its target, -1 if that is not known yet, -2 while it is being followed.
        var resolved = [Int32](repeating: -1, count: drafts.count)
        var trail: [Int32] = []
        for number in names.slots.indices {
            let slot = names.slots[number]
            guard drafts[Int(slot.node)].kind == .unresolvedLink, isAlive(slot) else { continue }
            var node = slot.node
            trail.removeAll(keepingCapacity: true)
            while drafts[Int(node)].kind == .unresolvedLink {
                if resolved[Int(node)] >= 0 {
                    node = resolved[Int(node)]
                    break
                }
                guard resolved[Int(node)] == -1 else { throw named(Self.ring(), slot) }
                resolved[Int(node)] = -2
                trail.append(node)
                do throws(FormatError) { node = try follow(node) } catch { throw named(error, slot) }
            }
            for link in trail { resolved[Int(link)] = node }
            names.replace(number, with: node)
        }
    }

    /// The node that a placeholder's path leads to.
    private mutating func follow(_ link: Int32) throws(FormatError) -> Int32 {
        let draft = drafts[Int(link)]
        let node = nodes[Int(link)]
        let start = Int(node.target)
        try names.arena.withUnsafeBufferPointer { (arena) throws(FormatError) in
            let target = UnsafeRawBufferPointer(arena)[start..<start + Int(node.size)]
            try linkPath.clean(UnsafeRawBufferPointer(rebasing: target))
        }
        guard let found = try target(), drafts[Int(found)].kind != .whiteout else {
            throw FormatError(
                .badEntry, "the hard link leads nowhere", offset: Int64(draft.position),
                actual: "'\(FormatError.display(linkPath.path))'")
        }
        guard drafts[Int(found)].kind != .directory else {
            throw FormatError(
                .badEntry, "the hard link leads to a directory", offset: Int64(draft.position),
                actual: "'\(FormatError.display(linkPath.path))'")
        }
        return found
    }

    private static func ring() -> FormatError { FormatError(.badEntry, "the hard link leads to itself") }

    /// Adds the entry of a slot to an error.
    private func named(_ error: FormatError, _ slot: NodeTable.Slot) -> FormatError {
        error.naming(path(of: slot))
    }

    /// The path of a name: a directory's draft knows the directory above it, and each directory has one name there.
    private func path(of slot: NodeTable.Slot) -> String {
        var slotOfDirectory: [Int32: NodeTable.Slot] = [:]
        for slot in names.slots where drafts[Int(slot.node)].kind == .directory { slotOfDirectory[slot.node] = slot }
        var components = [display(slot)]
        var directory = slot.parent
        while directory != 0, let slot = slotOfDirectory[directory] {
            components.append(display(slot))
            directory = slot.parent
        }
        return components.reversed().joined(separator: "/")
    }

    private func display(_ slot: NodeTable.Slot) -> String {
        names.arena[Int(slot.nameOffset)..<Int(slot.nameOffset) + Int(slot.nameLength)].withUnsafeBytes {
            FormatError.display($0)
        }
    }
}
