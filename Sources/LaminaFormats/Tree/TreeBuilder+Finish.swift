extension TreeBuilder {
    /// Drops what was replaced, counts names, numbers what is left, and sorts it.
    consuming func finish() throws(FormatError) -> LayerTree {
        try finishFile()
        // Not needed any more, and as large as what is made now.
        contentByHash = [:]
        let isAlive = livingDirectories()
        try resolveLinks { isAlive[Int($0.parent)] }
        let slots = names.slots.filter { isAlive[Int($0.parent)] && !drafts[Int($0.node)].isHidden }
        names.dropTable()
        let numbers = number(slots)
        var tree = LayerTree()
        tree.nodes = takeNodes(slots, numbers)
        tree.dirents = dirents(slots, numbers, nodeCount: tree.nodes.count)
        tree.xattrs = attributes(numbers, withWhiteouts: directoriesWithWhiteouts(slots))
        tree.prioritizedEnd = hasNoPrefetchMark ? nil : prioritizedEnd
        keepContents(of: &tree)
        tree.contents = contents
        tree.chunks = chunks
        tree.arena = names.arena
        return tree
    }

    /// By draft: whether it is a directory that still exists. A directory's draft comes after that of the directory above it.
    private func livingDirectories() -> [Bool] {
        var isAlive = [Bool](repeating: false, count: drafts.count)
        isAlive[0] = true
        for index in drafts.indices.dropFirst() where drafts[index].kind == .directory {
            isAlive[index] =
                !drafts[index].isReplaced && !drafts[index].isHidden && isAlive[Int(nodes[index].parent)]
        }
        return isAlive
    }

    /// By draft: its number in the tree, in the same order; -1 if it has no name any more.
    private func number(_ slots: [NodeTable.Slot]) -> [Int32] {
        var numbers = [Int32](repeating: -1, count: drafts.count)
        numbers[0] = 0
        for slot in slots { numbers[Int(slot.node)] = 0 }
        var count: Int32 = 0
        for index in numbers.indices where numbers[index] == 0 {
            numbers[index] = count
            count += 1
        }
        return numbers
    }

    /// The nodes of the tree, in the array that they are in: no number is higher than its draft's.
    private mutating func takeNodes(_ slots: [NodeTable.Slot], _ numbers: [Int32]) -> [LayerTree.Node] {
        var nodes: [LayerTree.Node] = []
        swap(&nodes, &self.nodes)
        var count = 0
        for (index, number) in numbers.enumerated() where number >= 0 {
            nodes[count] = nodes[index]
            nodes[count].nlink = drafts[index].kind == .directory ? 2 : 0
            count += 1
        }
        nodes.removeLast(nodes.count - count)
        for slot in slots {
            let node = Int(numbers[Int(slot.node)])
            let parent = numbers[Int(slot.parent)]
            if drafts[Int(slot.node)].kind == .directory {
                nodes[node].parent = parent
                nodes[Int(parent)].nlink += 1
            } else {
                // Slots are in the order of the entries: the first name is the first slot.
                if nodes[node].nlink == 0 { nodes[node].parent = parent }
                nodes[node].nlink += 1
            }
        }
        return nodes
    }

    /// Sorts by parent by counting, then each directory by name: usually it is sorted already.
    private func dirents(
        _ slots: [NodeTable.Slot], _ numbers: [Int32], nodeCount: Int
    ) -> [LayerTree.Dirent] {
        var ends = [Int](repeating: 0, count: nodeCount + 1)
        for slot in slots { ends[Int(numbers[Int(slot.parent)]) + 1] += 1 }
        for index in 1..<ends.count { ends[index] += ends[index - 1] }
        let starts = ends
        var dirents = [LayerTree.Dirent](
            repeating: LayerTree.Dirent(parent: 0, node: 0, nameOffset: 0, nameLength: 0), count: slots.count)
        for slot in slots {
            let parent = numbers[Int(slot.parent)]
            dirents[ends[Int(parent)]] = LayerTree.Dirent(
                parent: parent, node: numbers[Int(slot.node)], nameOffset: slot.nameOffset,
                nameLength: slot.nameLength)
            ends[Int(parent)] += 1
        }
        names.arena.withUnsafeBytes { arena in
            for parent in 0..<nodeCount where ends[parent] - starts[parent] > 1 {
                Self.sort(&dirents[starts[parent]..<ends[parent]], arena)
            }
        }
        return dirents
    }

    private static func sort(_ dirents: inout ArraySlice<LayerTree.Dirent>, _ arena: UnsafeRawBufferPointer) {
        func precedes(_ left: LayerTree.Dirent, _ right: LayerTree.Dirent) -> Bool {
            name(left, arena).precedes(name(right, arena))
        }
        if zip(dirents, dirents.dropFirst()).allSatisfy(precedes) { return }
        dirents.sort(by: precedes)
    }

    @inline(__always)
    private static func name(
        _ dirent: LayerTree.Dirent, _ arena: UnsafeRawBufferPointer
    ) -> UnsafeRawBufferPointer {
        let start = Int(dirent.nameOffset)
        return UnsafeRawBufferPointer(rebasing: arena[start..<start + Int(dirent.nameLength)])
    }
}

extension TreeBuilder {
    /// The attributes of what is left, with those that make a directory opaque to overlayfs: one for a mount by root, and one
    /// for a mount by a user (`-o userxattr`), https://docs.kernel.org/filesystems/overlayfs.html.
    private mutating func attributes(
        _ numbers: [Int32], withWhiteouts: [Bool]
    ) -> [LayerTree.Xattr] {
        let opaque = overlayXattrs("opaque", value: "y")
        let origin = overlayXattrs("origin", value: "")
        var all: [LayerTree.Xattr] = []
        var own: [LayerTree.Xattr] = []
        for (index, number) in numbers.enumerated() where number >= 0 {
            let draft = drafts[index]
            let isOpaque = draft.kind == .directory && (draft.isOpaque || draft.isWhitedOut)
            guard isOpaque || withWhiteouts[index] || !draft.xattrs.isEmpty else { continue }
            own.removeAll(keepingCapacity: true)
            own.append(contentsOf: xattrs[Int(draft.xattrs.lowerBound)..<Int(draft.xattrs.upperBound)])
            if isOpaque { own.append(contentsOf: opaque) }
            if withWhiteouts[index] { own.append(contentsOf: origin) }
            for attribute in Self.sorted(own, names.arena) {
                all.append(attribute)
                all[all.count - 1].node = number
            }
        }
        return all
    }

    /// Sorts by name; if several have one name, the last stays.
    private static func sorted(_ xattrs: [LayerTree.Xattr], _ arena: [UInt8]) -> [LayerTree.Xattr] {
        arena.withUnsafeBytes { arena in
            func name(_ index: Int) -> UnsafeRawBufferPointer {
                let start = Int(xattrs[index].nameOffset)
                return UnsafeRawBufferPointer(rebasing: arena[start..<start + Int(xattrs[index].nameLength)])
            }
            let order = xattrs.indices.sorted {
                let (left, right) = (name($0), name($1))
                return left.isEqual(to: right) ? $0 < $1 : left.precedes(right)
            }
            return order.indices.compactMap { index in
                let isReplaced = index + 1 < order.count && name(order[index]).isEqual(to: name(order[index + 1]))
                return isReplaced ? nil : xattrs[order[index]]
            }
        }
    }

    private mutating func overlayXattrs(_ what: StaticString, value: StaticString) -> [LayerTree.Xattr] {
        ["trusted.overlay.", "user.overlay."].map { prefix in
            let name = "\(prefix)\(what)"
            let start = UInt32(names.arena.count)
            names.arena.append(contentsOf: name.utf8)
            let valueStart = UInt32(names.arena.count)
            names.arena.append(contentsOf: UnsafeBufferPointer(start: value.utf8Start, count: value.utf8CodeUnitCount))
            return LayerTree.Xattr(
                node: 0, nameOffset: start, nameLength: valueStart - start, valueOffset: valueStart,
                valueLength: UInt32(value.utf8CodeUnitCount))
        }
    }

    /// By draft: whether it is a directory with a whiteout in it.
    ///
    /// overlayfs shows a directory that only one layer has unchanged, with its whiteouts, unless it has `overlay.origin` with
    /// any value: then it removes whiteouts from each listing (`ovl_dir_is_real`, fs/overlayfs/readdir.c).
    private func directoriesWithWhiteouts(_ slots: [NodeTable.Slot]) -> [Bool] {
        var result = [Bool](repeating: false, count: drafts.count)
        for slot in slots where drafts[Int(slot.node)].kind == .whiteout { result[Int(slot.parent)] = true }
        return result
    }
}

extension TreeBuilder {
    /// Drops contents that no file of `tree` has any more, and sets the ends of the others' members.
    private mutating func keepContents(of tree: inout LayerTree) {
        var numbers = [Int32](repeating: -1, count: contents.count)
        for node in tree.nodes where node.content >= 0 { numbers[Int(node.content)] = 0 }
        if numbers.contains(-1) {
            dropContents(&numbers)
            for index in tree.nodes.indices where tree.nodes[index].content >= 0 {
                tree.nodes[index].content = numbers[Int(tree.nodes[index].content)]
            }
        }
        boundMembers()
    }

    /// Keeps the contents whose number is not -1, and gives them their new ones.
    private mutating func dropContents(_ numbers: inout [Int32]) {
        var kept: [LayerTree.Content] = []
        var keptChunks: [LayerTree.Chunk] = []
        for (index, content) in contents.enumerated() where numbers[index] >= 0 {
            numbers[index] = Int32(kept.count)
            let start = Int32(keptChunks.count)
            keptChunks.append(
                contentsOf: chunks[Int(content.chunks.lowerBound)..<Int(content.chunks.upperBound)])
            kept.append(
                LayerTree.Content(
                    digest: content.digest, size: content.size, chunks: start..<Int32(keptChunks.count)))
        }
        contents = kept
        chunks = keptChunks
    }

    /// A member ends where the next one begins, whichever file that belongs to, or where the table of contents begins.
    private mutating func boundMembers() {
        if !memberOffsetsAreSorted { memberOffsets.sort() }
        for index in chunks.indices where chunks[index].blobSize != 0 {
            let offset = chunks[index].blobOffset
            var low = 0
            var high = memberOffsets.count
            while low < high {
                let middle = (low + high) / 2
                if memberOffsets[middle] <= offset { low = middle + 1 } else { high = middle }
            }
            chunks[index].blobSize = (low < memberOffsets.count ? memberOffsets[low] : tocOffset) - offset
        }
    }
}
