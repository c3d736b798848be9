/// Splits a name of a table of contents as Go's `path.Clean("/" + name)` does, so that nothing climbs out of the root.
///
/// It has its own buffer, which is reused for each entry: there is no allocation for a name, and pointers into the buffer stay
/// valid while the tree changes, until the next name is cleaned.
struct PathCleaner: ~Copyable {
    private let buffer: UnsafeMutableRawBufferPointer
    private let componentLimit: Int
    private var count = 0
    private var components: [Range<Int>] = []

    /// For names of up to `limits.nameBytes`, which the parser guarantees.
    init(limits: FormatLimits) {
        buffer = .allocate(byteCount: max(limits.nameBytes, 1), alignment: 16)
        componentLimit = limits.componentBytes
    }

    deinit { buffer.deallocate() }

    /// Cleans `name`. Throws ``FormatError`` `badEntry` for a component that is too long for Linux.
    mutating func clean(_ name: UnsafeRawBufferPointer) throws(FormatError) {
        count = 0
        components.removeAll(keepingCapacity: true)
        guard name.count <= buffer.count else { throw FormatError(.badEntry, "the name is too long") }
        var start = 0
        while start < name.count {
            var stop = start
            while stop < name.count, name[stop] != UInt8(ascii: "/") { stop += 1 }
            try append(UnsafeRawBufferPointer(rebasing: name[start..<stop]))
            start = stop + 1
        }
    }

    // Never longer than the part of the name that was read so far: it fits the buffer.
    @inline(__always)
    private mutating func append(_ component: UnsafeRawBufferPointer) throws(FormatError) {
        if component.count <= 2, component.isEmpty || component.isEqual(to: ".") { return }
        if component.isEqual(to: "..") {
            // At the root there is nothing to pop: `..` of the root is the root.
            if let last = components.popLast() { count = max(last.lowerBound - 1, 0) }
            return
        }
        guard component.count <= componentLimit else {
            throw FormatError(
                .badEntry, "a component of the name is too long", expected: "at most \(componentLimit) bytes",
                actual: "\(component.count)")
        }
        if count > 0 {
            buffer[count] = UInt8(ascii: "/")
            count += 1
        }
        UnsafeMutableRawBufferPointer(rebasing: buffer[count...]).copyMemory(from: component)
        components.append(count..<count + component.count)
        count += component.count
    }

    /// The cleaned path without a leading slash, empty for the root; valid until the next ``clean(_:)``.
    var path: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: buffer[..<count]) }

    /// The path of the directory of the last component; valid until the next ``clean(_:)``.
    var directory: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(rebasing: buffer[..<max((components.last?.lowerBound ?? 0) - 1, 0)])
    }

    /// The number of components; 0 for the root.
    var componentCount: Int { components.count }

    /// A component's bytes; valid until the next ``clean(_:)``.
    @inline(__always)
    func component(_ index: Int) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(rebasing: buffer[components[index]])
    }
}
