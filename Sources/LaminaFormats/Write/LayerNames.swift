/// Which entries of an archive are left after unpacking: a later entry replaces an earlier one of the same name, and everything
/// below it if the later one is no directory.
///
/// A hard link to an entry that is replaced *after* the link keeps the old file, as on a disk. Costs about 20 bytes and the
/// name for each entry.
public struct LayerNames: Sendable {
    /// What happens to an entry.
    public enum Fate: Sendable, Equatable {
        case stays
        /// Replaced by a later entry.
        case replaced
        /// A hard link whose target was replaced: it is now the file that the entry with this number was.
        case becomes(Int)
        /// A hard link whose target is now found under the name of the entry with this number.
        case linksTo(Int)
    }

    private static let none = UInt32.max

    private var names = NameTable()
    /// By name: the last entry, and the last one that is no directory.
    private var last: [UInt32] = []
    private var lastNonDirectory: [UInt32] = []
    /// By entry: its name, and for hard links the entry that the target's name meant at that point.
    private var nameOf: [UInt32] = []
    private var target: [UInt32: UInt32] = [:]
    private var hardLinks: [UInt32] = []
    private var hasReplaced = false
    private var scratch: [UInt8] = []

    public init() {}

    /// The number of entries added.
    public var count: Int { nameOf.count }

    /// Adds the next entry of the archive; entries are numbered from 0.
    public mutating func add(_ header: TarHeader) {
        let entry = UInt32(count)
        Tar.clean(header.name, into: &scratch)
        let name = scratch.withUnsafeBytes { names.number(of: $0) }
        if name == last.count {
            last.append(Self.none)
            lastNonDirectory.append(Self.none)
        } else {
            hasReplaced = true
        }
        if header.kind == .hardLink {
            hardLinks.append(entry)
            Tar.clean(header.linkName, into: &scratch)
            if let linked = scratch.withUnsafeBytes({ names.find($0) }), last[linked] != Self.none {
                target[entry] = last[linked]
            }
        }
        last[name] = entry
        if header.kind != .directory { lastNonDirectory[name] = entry }
        nameOf.append(UInt32(name))
    }

    /// The number of the entry that has a cleaned name at the end, even if its parents were replaced.
    public func entry(named name: [UInt8]) -> Int? {
        guard let number = name.withUnsafeBytes({ names.find($0) }) else { return nil }
        return Int(last[number])
    }

    /// The cleaned name of an entry.
    public func name(of entry: Int) -> ArraySlice<UInt8> { names[Int(nameOf[entry])] }

    /// What happens to every entry; `nil` if all stay unchanged.
    public func fates() -> [Fate]? {
        var fates = [Fate](repeating: .stays, count: count)
        var isChanged = false
        for entry in 0..<count where isReplaced(entry) {
            fates[entry] = .replaced
            isChanged = true
        }
        guard isChanged else { return nil }
        // The one link that takes the place of a replaced file.
        var bearer: [Int: Int] = [:]
        for link in hardLinks.map(Int.init) where fates[link] == .stays {
            guard let first = target[UInt32(link)], fates[Int(first)] == .replaced else { continue }
            // Targets come before their links, so this goes down and ends.
            var source = Int(first)
            while let next = target[UInt32(source)] { source = Int(next) }
            if fates[source] == .stays {
                fates[link] = .linksTo(source)
            } else if let other = bearer[source] {
                fates[link] = .linksTo(other)
            } else {
                fates[link] = .becomes(source)
                bearer[source] = link
            }
        }
        return fates
    }

    private func isReplaced(_ entry: Int) -> Bool {
        if hasReplaced, last[Int(nameOf[entry])] != UInt32(entry) { return true }
        // Something that is no directory replaced a parent.
        let name = names[Int(nameOf[entry])]
        return name.withUnsafeBytes { bytes in
            for index in bytes.indices where bytes[index] == UInt8(ascii: "/") {
                guard let parent = names.find(UnsafeRawBufferPointer(rebasing: bytes[..<index])) else { continue }
                let replacing = lastNonDirectory[parent]
                if replacing != Self.none, replacing > UInt32(entry) { return true }
            }
            return false
        }
    }
}
