import LaminaDigest
import LaminaSystem

/// Says who works with which name below `content/`. In memory alone: one process has the store, and a lease is over when
/// that process is.
///
/// | lease | who has it | what it keeps away |
/// |---|---|---|
/// | writing | a merge, a stream, a repair: from before the first byte to the transaction that records it | removal |
/// | reading | a copy, a proof, a check | removal |
/// | removing | collection, eviction, what was given up | writers and readers, which wait |
///
/// Several writers may have one name. Of a name without a claim each writes the same bytes, those that have its digest; a name
/// with a claim is merged once at a time (`MergeEngine`). An open needs no lease: who evicts asks the file system first.
///
/// A removal never waits for a name, and nobody asks for a lease with the writer of the index locked. So nobody waits in a circle.
final class NameLeases: Sendable {
    private struct Holders {
        var writers = 0
        var readers = 0
        var isBeingRemoved = false

        var isFree: Bool { writers == 0 && readers == 0 && !isBeingRemoved }
    }

    /// By the digest's first bits: the decoders write files of thousands of names a second.
    private let parts = (0..<16).map { _ in Monitor<[BackingName: Holders]>([:]) }
    private let givenUp = Monitor<Set<BackingName>>([])

    private func part(of name: BackingName) -> Monitor<[BackingName: Holders]> {
        parts[Int(name.digest.withUnsafeBytes { $0[0] }) % parts.count]
    }

    /// Waits while the name is being removed.
    func beginWriting(_ name: BackingName) {
        begin(name) { $0.writers += 1 }
    }

    /// - Parameter isRecorded: whether the index says what the file has; otherwise the name is given up.
    func endWriting(_ name: BackingName, isRecorded: Bool) {
        end(name) { $0.writers -= 1 }
        if !isRecorded { givenUp.withLock { _ = $0.insert(name) } }
    }

    /// Waits while the name is being removed.
    func beginReading(_ name: BackingName) {
        begin(name) { $0.readers += 1 }
    }

    func endReading(_ name: BackingName) { end(name) { $0.readers -= 1 } }

    /// Takes those names that nobody has, for as long as `body` runs. Those that come for them meanwhile wait.
    ///
    /// - Parameter body: gets the names that it may take away.
    func removing<Result>(_ names: [BackingName], _ body: ([BackingName]) throws -> Result) rethrows -> Result {
        let taken = names.filter { name in
            part(of: name).withLock { names in
                guard names[name]?.isFree != false else { return false }
                names[name, default: Holders()].isBeingRemoved = true
                return true
            }
        }
        defer { for name in taken { end(name) { $0.isBeingRemoved = false } } }
        return try body(taken)
    }

    func isFree(_ name: BackingName) -> Bool { part(of: name).withLock { $0[name]?.isFree != false } }

    private func begin(_ name: BackingName, _ change: (inout Holders) -> Void) {
        // What is being removed is there already: nothing is put in for who has to wait.
        func take(_ holders: inout Holders) -> Void? {
            if holders.isBeingRemoved { return nil }
            return change(&holders)
        }
        part(of: name).wait { names in take(&names[name, default: Holders()]) }
    }

    private func end(_ name: BackingName, _ change: (inout Holders) -> Void) {
        part(of: name).withLock(notify: true) { names in
            guard let index = names.index(forKey: name) else { return }
            change(&names.values[index])
            if names.values[index].isFree { names.remove(at: index) }
        }
    }

    /// Puts names aside that somebody gave up, or that could not be removed just now.
    func giveUp(_ names: [BackingName]) { givenUp.withLock { $0.formUnion(names) } }

    /// The names that were given up since the last time.
    func takeGivenUp() -> [BackingName] {
        givenUp.withLock { names in
            defer { names = [] }
            return Array(names)
        }
    }

    /// How many names somebody has a lease of; for tests.
    var count: Int { parts.reduce(0) { $0 + $1.withLock { $0.count } } }
}

/// The right to write the files of some names: from before their first byte until the index says what they have.
///
/// Who lets go of it without having recorded gives the names up: their files are taken away, unless somebody else has a lease
/// or the index knows what is in them (`Store.settleGivenUp`).
public struct WritingLease: ~Copyable, Sendable {
    let files: ContentFiles
    // Most leases are of one name; a set of one would cost more than the lease.
    private var first: BackingName?
    private var others: Set<BackingName> = []

    init(_ files: ContentFiles) { self.files = files }

    deinit { end(isRecorded: false) }

    /// Takes one more name; waits while it is being removed, which takes some milliseconds. Call it with no lock that the
    /// writer of the index may be waited for with.
    public mutating func cover(_ name: BackingName) {
        guard !covers(name) else { return }
        files.leases.beginWriting(name)
        if first == nil { first = name } else { others.insert(name) }
    }

    public func covers(_ name: BackingName) -> Bool { first == name || !others.isEmpty && others.contains(name) }

    /// Lets go of all names: the index says what their files have.
    public mutating func recorded() {
        end(isRecorded: true)
        first = nil
        others.removeAll(keepingCapacity: true)
    }

    private func end(isRecorded: Bool) {
        if let first { files.leases.endWriting(first, isRecorded: isRecorded) }
        for name in others { files.leases.endWriting(name, isRecorded: isRecorded) }
    }
}
