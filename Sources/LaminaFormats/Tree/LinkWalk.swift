/// A path that is followed through symbolic links of its own layer, as an unpacking program follows it: the target of an
/// absolute link begins at the layer's root, and no link leads above the root.
///
/// It is made when the first link is met; paths without links do not pay for it.
struct LinkWalk: ~Copyable {
    /// How many links one path may lead through, as in containerd's unpack (continuity, `fs.RootPath`).
    static let linkLimit = 255
    /// How many bytes of paths may be rewritten for one layer's links: enough for some ten thousand entries with a few links
    /// each.
    static let workLimit = 256 << 20

    private var path: PathCleaner
    private var text: [UInt8] = []
    private var links = 0

    init(limits: FormatLimits) { path = PathCleaner(limits: limits) }

    /// The components to follow from the root; those before the followed link are directories.
    var componentCount: Int { path.componentCount }

    /// A component's bytes, until the next link is followed.
    func component(_ index: Int) -> UnsafeRawBufferPointer { path.component(index) }

    /// The components before the last.
    var directory: UnsafeRawBufferPointer { path.directory }

    /// The whole, without a slash in front.
    var whole: UnsafeRawBufferPointer { path.path }

    /// Begins with the path of another cleaner.
    mutating func begin(_ other: borrowing PathCleaner) throws(FormatError) { try path.clean(other.path) }

    /// Begins with a name as it is in an archive.
    mutating func begin(_ name: UnsafeRawBufferPointer) throws(FormatError) {
        links = 0
        try path.clean(name)
    }

    /// Replaces a component, which is a link, with the link's target; the walk begins at the root again.
    ///
    /// - Parameter work: what all paths of the layer have cost so far.
    mutating func follow(_ index: Int, to target: ArraySlice<UInt8>, work: inout Int) throws(FormatError) {
        links += 1
        text.removeAll(keepingCapacity: true)
        let slash = UInt8(ascii: "/")
        if target.first != slash {
            for component in 0..<index {
                text += path.component(component)
                text.append(slash)
            }
        }
        text += target
        for component in (index + 1)..<max(path.componentCount, index + 1) {
            text.append(slash)
            text += path.component(component)
        }
        work += text.count
        guard links <= Self.linkLimit, work <= Self.workLimit else {
            throw FormatError(.badEntry, "too many symbolic links are on the way of the path")
        }
        // It is longer than any path of Linux: the cleaner reports that.
        let copy = text
        var failure: FormatError?
        copy.withUnsafeBytes { bytes in
            do throws(FormatError) { try path.clean(bytes) } catch { failure = error }
        }
        if let failure { throw failure }
    }
}
