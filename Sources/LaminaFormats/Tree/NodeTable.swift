/// The names of a tree under construction: (directory, name) → what has it. Open addressing over one array of slots; names are
/// in an arena. The hash uses the process's own seed, so that an attacker cannot make an image whose names collide.
struct NodeTable {
    /// A name in use. Its node changes when a later entry replaces an earlier one.
    struct Slot {
        var parent: Int32
        var node: Int32
        var nameOffset: UInt32
        var nameLength: UInt32
        fileprivate var hash: UInt32
    }

    private(set) var slots: [Slot] = []
    /// Names; the builder puts targets and attributes here too.
    var arena: [UInt8] = []
    /// Numbers of slots, -1 if empty; a power of two, never more than half full.
    private var table = [Int32](repeating: -1, count: 1024)

    /// Makes room for this many names, before the first is added.
    mutating func reserveCapacity(_ count: Int) {
        slots.reserveCapacity(count)
        arena.reserveCapacity(count * 16)
        var capacity = table.count
        while capacity < count * 2 { capacity *= 2 }
        table = [Int32](repeating: -1, count: capacity)
    }

    /// The slot of a name, if it is in use.
    @inline(__always)
    func find(_ parent: Int32, _ name: UnsafeRawBufferPointer) -> Int? {
        let found = table[place(parent, name, Self.hash(parent, name))]
        return found < 0 ? nil : Int(found)
    }

    /// Adds a name that was not in use; returns the number of its slot.
    mutating func add(_ parent: Int32, _ name: UnsafeRawBufferPointer, node: Int32) -> Int {
        let hash = Self.hash(parent, name)
        table[place(parent, name, hash)] = Int32(slots.count)
        slots.append(
            Slot(
                parent: parent, node: node, nameOffset: UInt32(arena.count), nameLength: UInt32(name.count), hash: hash)
        )
        arena.append(contentsOf: name)
        if slots.count * 2 > table.count { grow() }
        return slots.count - 1
    }

    /// Gives the memory back that finding takes: nothing is found after that.
    mutating func dropTable() { table = [] }

    /// Gives a slot's name to another node.
    mutating func replace(_ slot: Int, with node: Int32) { slots[slot].node = node }

    /// Where the name is in the table, or where it would be.
    @inline(__always)
    private func place(_ parent: Int32, _ name: UnsafeRawBufferPointer, _ hash: UInt32) -> Int {
        let mask = table.count - 1
        var place = Int(hash) & mask
        while table[place] >= 0 {
            let slot = slots[Int(table[place])]
            if slot.hash == hash, slot.parent == parent, slot.nameLength == name.count {
                let isEqual = arena.withUnsafeBytes {
                    UnsafeRawBufferPointer(
                        rebasing: $0[Int(slot.nameOffset)..<Int(slot.nameOffset) + name.count]
                    ).isEqual(to: name)
                }
                if isEqual { break }
            }
            place = (place + 1) & mask
        }
        return place
    }

    @inline(__always)
    private static func hash(_ parent: Int32, _ name: UnsafeRawBufferPointer) -> UInt32 {
        var hasher = Hasher()
        hasher.combine(parent)
        hasher.combine(bytes: name)
        return UInt32(truncatingIfNeeded: hasher.finalize())
    }

    private mutating func grow() {
        table = [Int32](repeating: -1, count: table.count * 2)
        let mask = table.count - 1
        for (number, slot) in slots.enumerated() {
            var place = Int(slot.hash) & mask
            while table[place] >= 0 { place = (place + 1) & mask }
            table[place] = Int32(number)
        }
    }
}
