import LaminaDigest
import LaminaSystem

/// Knows which code works with which name below `content/`. It is in memory alone: one process has the store, and its leases
/// end with it.
///
/// | lease | who has it | what it keeps away |
/// |---|---|---|
/// | writing | a merge, a stream, a repair: from before the first byte to the transaction that records it | removal |
/// | reading | a copy, a proof, a check | removal |
/// | removing | collection, eviction, what was given up | writers and readers, which wait |
///
/// Several writers may have one name: a merge for each repository, a stream. Each writes only bytes that have the digests of the name, so all of
/// them write the same. An open needs no lease: eviction asks the file system first.
///
/// A removal never waits for a name, and no code asks for a lease while it holds the writer of the index. So there is no circle
/// of waiting.
final class NameLeases: Sendable {
    private struct Holders {
        var writers = 0
        var readers = 0
        var isBeingRemoved = false

        var isFree: Bool { writers == 0 && readers == 0 && !isBeingRemoved }
    }

    /// Divided by the digest's first bits: the decoders write files of thousands of names a second.
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

    /// Takes those names that have no lease, while `body` runs. Code that wants one of them meanwhile waits.
    ///
    /// - Parameter body: gets the names that it may remove.
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
        // A name that is being removed has an entry already: nothing is added for the waiter.
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

    /// Puts names aside that were given up, or that could not be removed now.
    func giveUp(_ names: [BackingName]) { givenUp.withLock { $0.formUnion(names) } }

    /// The names that were given up since the last time.
    func takeGivenUp() -> [BackingName] {
        givenUp.withLock { names in
            defer { names = [] }
            return Array(names)
        }
    }

    /// How many names have a lease; for tests.
    var count: Int { parts.reduce(0) { $0 + $1.withLock { $0.count } } }
}

/// The right to write the files of some names: from before their first byte until the index says what they have.
///
/// If it ends without a record, the names are given up: their files are removed, unless there is another lease or the index
/// knows what is in them (`Store.settleGivenUp`).
public struct WritingLease: ~Copyable, Sendable {
    let files: ContentFiles
    // Most leases have one name; a set of one would cost more than the lease.
    private var first: BackingName?
    private var others: Set<BackingName> = []

    init(_ files: ContentFiles) { self.files = files }

    deinit { end(isRecorded: false) }

    /// Takes one more name; waits while that is being removed, which takes some milliseconds. Do not call it with a lock held
    /// that code with the writer of the index may wait for.
    public mutating func cover(_ name: BackingName) {
        guard !covers(name) else { return }
        files.leases.beginWriting(name)
        if first == nil { first = name } else { others.insert(name) }
    }

    public func covers(_ name: BackingName) -> Bool { first == name || !others.isEmpty && others.contains(name) }

    /// Ends the lease of all names: the index says what their files have.
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
