/// Byte strings, each numbered once in the order in which they come: one arena and one table, no allocation for a name.
///
/// For the names of a layer, of which there may be millions. Numbers fit in 32 bits. The hash uses the process's own seed, so
/// that an attacker cannot make an archive whose names collide.
struct NameTable: Sendable {
    private var bytes: [UInt8] = []
    /// Where each name starts in `bytes`, and after the last start its end.
    private var starts: [Int] = [0]
    /// Open addressing, linear: number + 1, 0 for none. Never more than half full.
    private var slots = [UInt32](repeating: 0, count: 64)

    var count: Int { starts.count - 1 }

    subscript(number: Int) -> ArraySlice<UInt8> { bytes[starts[number]..<starts[number + 1]] }

    /// The number of an existing name.
    func find(_ name: UnsafeRawBufferPointer) -> Int? {
        let found = slots[slot(of: name)]
        return found == 0 ? nil : Int(found) - 1
    }

    /// The number of a name, a new one if it was not there.
    mutating func number(of name: UnsafeRawBufferPointer) -> Int {
        let place = slot(of: name)
        if slots[place] != 0 { return Int(slots[place]) - 1 }
        bytes.append(contentsOf: name)
        starts.append(bytes.count)
        slots[place] = UInt32(count)
        if count * 2 > slots.count { grow() }
        return count - 1
    }

    private func slot(of name: UnsafeRawBufferPointer) -> Int {
        var place = hash(name) & (slots.count - 1)
        while slots[place] != 0, !self[Int(slots[place]) - 1].elementsEqual(name) {
            place = (place + 1) & (slots.count - 1)
        }
        return place
    }

    private func hash(_ name: UnsafeRawBufferPointer) -> Int {
        var hasher = Hasher()
        hasher.combine(bytes: name)
        return hasher.finalize()
    }

    private mutating func grow() {
        slots = [UInt32](repeating: 0, count: slots.count * 2)
        bytes.withUnsafeBytes { all in
            for number in 0..<count {
                var place =
                    hash(UnsafeRawBufferPointer(rebasing: all[starts[number]..<starts[number + 1]])) & (slots.count - 1)
                while slots[place] != 0 { place = (place + 1) & (slots.count - 1) }
                slots[place] = UInt32(number + 1)
            }
        }
    }
}
