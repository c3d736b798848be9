/// Names an element of `Slots`; never used again for another one.
struct SlotKey: Hashable, Sendable {
    fileprivate var index: Int32
    fileprivate var generation: UInt32
}

/// Elements that come and go, each found by its key in constant time. A key whose element is gone finds nothing, even if its
/// place is used again.
struct Slots<Element> {
    private var elements: [Element?] = []
    private var generations: [UInt32] = []
    private var free: [Int32] = []

    var count: Int { elements.count - free.count }
    var isEmpty: Bool { count == 0 }

    mutating func insert(_ make: (SlotKey) -> Element) -> SlotKey {
        let index: Int32
        if let known = free.popLast() {
            index = known
        } else {
            index = Int32(elements.count)
            elements.append(nil)
            generations.append(0)
        }
        let key = SlotKey(index: index, generation: generations[Int(index)])
        elements[Int(index)] = make(key)
        return key
    }

    /// Removes an element; does nothing if it is gone.
    @discardableResult
    mutating func remove(_ key: SlotKey) -> Element? {
        guard contains(key), let element = elements[Int(key.index)] else { return nil }
        elements[Int(key.index)] = nil
        generations[Int(key.index)] &+= 1
        free.append(key.index)
        return element
    }

    func contains(_ key: SlotKey) -> Bool { generations[Int(key.index)] == key.generation }

    subscript(key: SlotKey) -> Element? {
        _read { yield contains(key) ? elements[Int(key.index)] : nil }
        _modify {
            // Through the place itself, so that an element in use is not copied.
            if contains(key) {
                yield &elements[Int(key.index)]
            } else {
                var nothing: Element?
                yield &nothing
            }
        }
    }

    /// The keys of all elements.
    var keys: [SlotKey] {
        elements.indices.compactMap { index in
            elements[index] == nil ? nil : SlotKey(index: Int32(index), generation: generations[index])
        }
    }
}

/// A queue in the order of arrival.
struct FIFO<Element> {
    private var elements: [Element?] = []
    private var head = 0

    var isEmpty: Bool { head == elements.count }
    var count: Int { elements.count - head }

    mutating func append(_ element: Element) { elements.append(element) }

    mutating func pop() -> Element? {
        guard head < elements.count else { return nil }
        let element = elements[head]
        elements[head] = nil
        head += 1
        if head > 64, head * 2 > elements.count {
            elements.removeFirst(head)
            head = 0
        }
        return element
    }

    /// Removes the first element that `matches`; returns whether there was one.
    mutating func removeFirst(where matches: (Element) -> Bool) -> Bool {
        for index in head..<elements.count {
            guard let element = elements[index], matches(element) else { continue }
            elements.remove(at: index)
            return true
        }
        return false
    }

    mutating func drain() -> [Element] {
        defer {
            elements = []
            head = 0
        }
        return elements[head...].compactMap { $0 }
    }
}

/// The elements that were added last, up to a number, and when.
struct Recent<Element: Hashable> {
    private let limit: Int
    private var members: [Element: UInt64] = [:]
    private var order = FIFO<Element>()
    /// How many elements were added so far.
    private(set) var clock: UInt64 = 0

    init(limit: Int) { self.limit = limit }

    /// Whether an element was added after the clock showed `time`.
    func contains(_ element: Element, since time: UInt64) -> Bool { members[element].map { $0 > time } ?? false }

    mutating func insert(_ element: Element) {
        clock += 1
        guard members.updateValue(clock, forKey: element) == nil else { return }
        order.append(element)
        if members.count > limit, let oldest = order.pop() { members[oldest] = nil }
    }
}
