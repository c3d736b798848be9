/// A path that is walked through symbolic links of its own layer, as who unpacks the layer walks it: a link's target is
/// taken from the layer's root where it is absolute, never from above it, and begins anew there.
///
/// Made when a first link is met; what has none on its way never pays for it.
struct LinkWalk: ~Copyable {
    /// How many links one path may lead through, as in containerd's unpack (continuity, `fs.RootPath`).
    static let linkLimit = 255
    /// How many bytes of paths are written anew for one layer's links: each of some ten thousand entries through a few.
    static let workLimit = 256 << 20

    private var path: PathCleaner
    private var text: [UInt8] = []
    private var links = 0

    init(limits: FormatLimits) { path = PathCleaner(limits: limits) }

    /// The components to walk from the root; those before the link that was followed are directories.
    var componentCount: Int { path.componentCount }

    /// A component's bytes, until the next link is followed.
    func component(_ index: Int) -> UnsafeRawBufferPointer { path.component(index) }

    /// The components before the last.
    var directory: UnsafeRawBufferPointer { path.directory }

    /// The whole, without a slash in front.
    var whole: UnsafeRawBufferPointer { path.path }

    /// Begins with the path that another one has.
    mutating func begin(_ other: borrowing PathCleaner) throws(FormatError) { try path.clean(other.path) }

    /// Begins with a name as it stands in an archive.
    mutating func begin(_ name: UnsafeRawBufferPointer) throws(FormatError) {
        links = 0
        try path.clean(name)
    }

    /// Puts a link's target in the place of the component that it is; the walk begins at the root again.
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
        // Longer than any path of Linux: the cleaner says so.
        let copy = text
        var failure: FormatError?
        copy.withUnsafeBytes { bytes in
            do throws(FormatError) { try path.clean(bytes) } catch { failure = error }
        }
        if let failure { throw failure }
    }
}
