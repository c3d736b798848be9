// How a name leads through the tree as it is when its entry comes.

extension TreeBuilder {
    /// What a name in a directory leads to.
    private enum Step {
        case directory(Int32)
        /// A symbolic link: where its target lies in the arena.
        case link(Range<Int>)
        case nothing
    }

    /// The directory that contains ``path``. It and those above it are made if they are missing, also behind symbolic links of
    /// this layer, because an unpacking program follows these (`lib -> usr/lib`, then `lib/libx.so`).
    mutating func directory() throws(FormatError) -> Int32 {
        if let lastDirectory, lastDirectory.path.withUnsafeBytes({ $0.isEqual(to: path.directory) }) {
            return lastDirectory.node
        }
        var node: Int32 = 0
        for index in 0..<max(path.componentCount - 1, 0) {
            switch try enter(path.component(index), of: node) {
            case .directory(let next): node = next
            case .link(let target):
                var walk = LinkWalk(limits: limits)
                try walk.begin(path)
                node = try directory(of: &walk, behind: index, target)
                lastDirectory = (Array(path.directory), node)
                return node
            case .nothing: break
            }
        }
        lastDirectory = (Array(path.directory), node)
        return node
    }

    private mutating func directory(
        of walk: inout LinkWalk, behind link: Int, _ target: Range<Int>
    ) throws(FormatError) -> Int32 {
        var next: (index: Int, target: Range<Int>)? = (link, target)
        var node: Int32 = 0
        while let (link, target) = next {
            next = nil
            try walk.follow(link, to: names.arena[target], work: &linkWork)
            node = 0
            for index in 0..<max(walk.componentCount - 1, 0) {
                switch try enter(walk.component(index), of: node) {
                case .directory(let found): node = found
                case .link(let target): next = (index, target)
                case .nothing: break
                }
                if next != nil { break }
            }
        }
        return node
    }

    /// Goes into a directory, which is made if it is missing.
    private mutating func enter(_ name: UnsafeRawBufferPointer, of node: Int32) throws(FormatError) -> Step {
        guard let slot = names.find(node, name) else {
            var draft = Draft(kind: .directory)
            draft.isHidden = node == 0 && name.begins(with: ".wh..wh.")
            return .directory(try place(Self.implicitDirectory(in: node), draft, in: node, named: name))
        }
        let found = names.slots[slot].node
        switch drafts[Int(found)].kind {
        case .directory: return .directory(found)
        case .whiteout:
            let new = Self.implicitDirectory(in: node)
            return .directory(try place(new, Draft(kind: .directory), in: node, named: name))
        case .other, .unresolvedLink:
            if let target = target(of: found) { return .link(target) }
            throw FormatError(
                .badEntry, "the entry lies below something that is no directory",
                actual: "'\(FormatError.display(name))'")
        }
    }

    /// What ``linkPath`` leads to now; if it ends in a symbolic link, what that leads to.
    mutating func targetBehindLinks() throws(FormatError) -> Int32? {
        var walk = LinkWalk(limits: limits)
        try walk.begin(linkPath)
        restart: while true {
            var node: Int32 = 0
            for index in 0..<walk.componentCount {
                guard let slot = names.find(node, walk.component(index)) else { return nil }
                node = names.slots[slot].node
                if index < walk.componentCount - 1, let target = target(of: node) {
                    try walk.follow(index, to: names.arena[target], work: &linkWork)
                    continue restart
                }
            }
            return node
        }
    }

    /// Where a symbolic link's target is in the arena; nil for anything else.
    private func target(of node: Int32) -> Range<Int>? {
        let found = nodes[Int(node)]
        guard drafts[Int(node)].kind == .other, found.mode & FileType.mask == FileType.symlink else { return nil }
        return Int(found.target)..<Int(found.target) + Int(found.size)
    }
}
