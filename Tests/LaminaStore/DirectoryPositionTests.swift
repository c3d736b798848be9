import Glibc
import LaminaDigest
import LaminaSystem
import LaminaTestSupport
import Testing

@testable import LaminaStore

@Suite("Positions in directories")
struct DirectoryPositionTests {
    let scratch = Scratch.inMemory()

    /// A directory of this many entries, and its store.
    private func directory(of count: Int) throws -> (store: Store, directory: Int64) {
        let store = try scratch.open()
        let layer = try store.importLayer("a", (0..<count).map { Entry(Self.name($0), .fifo) })
        let view = try #require(try store.views(of: [layer]).first)
        return (store, try #require(try IndexReader(store.index).walk(view, "")).id)
    }

    private static func name(_ position: Int) -> String { "entry-\(1_000_000 + position)" }

    private static func page(
        _ reader: IndexReader, _ directory: Int64, from position: Int64, _ size: Int
    ) throws -> [String] {
        var names: [String] = []
        try reader.entries(of: directory, from: position) { _, name in
            guard names.count < size else { return false }
            names.append(String(decoding: name, as: UTF8.self))
            return true
        }
        return names
    }

    /// Processor time of this thread in seconds.
    private static func threadTime() -> Double {
        var time = timespec()
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }

    @Test(
        "readers that take turns at one directory cost what they cost one after the other, whichever goes on with whose page"
    )
    func several() throws {
        let count = 30_000
        let (store, directory) = try directory(of: count)
        let readers = try (0..<4).map { _ in try IndexReader(store.index) }
        func list(_ pages: Int, _ turn: (Int) -> IndexReader) throws -> Double {
            let start = Self.threadTime()
            var positions = Array(repeating: 0, count: pages)
            var isGoingOn = true
            var calls = 0
            while isGoingOn {
                isGoingOn = false
                for reader in 0..<pages {
                    let names = try Self.page(turn(calls), directory, from: Int64(positions[reader]), 20 + reader)
                    calls += 1
                    if let first = names.first, first != Self.name(positions[reader]) {
                        Issue.record("\(first) at \(positions[reader])")
                    }
                    positions[reader] += names.count
                    isGoingOn = isGoingOn || !names.isEmpty
                }
            }
            #expect(positions == Array(repeating: count, count: pages))
            return Self.threadTime() - start
        }
        let alone = try list(1) { _ in readers[0] }
        // Each page by another connection than the one before.
        let together = try list(4) { readers[$0 * 7919 / 4 % 4] }
        print("CPU of a listing of \(count) entries: alone \(alone) s, each of four \(together / 4) s")
        #expect(together < 4 * alone * 2)
    }

    @Test("a seek is a search once somebody has passed the place, whoever that was")
    func seeks() throws {
        let count = 30_000
        let (store, directory) = try directory(of: count)
        let (first, second) = (try IndexReader(store.index), try IndexReader(store.index))
        // A place that was not reached before is counted to, and then known.
        #expect(try Self.page(first, directory, from: 29_990, 20).count == 10)
        let alone = try {
            let start = Self.threadTime()
            var position = 0
            while case let names = try Self.page(first, directory, from: Int64(position), 100), !names.isEmpty {
                position += names.count
            }
            return Self.threadTime() - start
        }()
        let start = Self.threadTime()
        for number in 0..<300 {
            let position = number * 7919 % count
            let names = try Self.page(second, directory, from: Int64(position), 2)
            #expect(names == (position..<min(position + 2, count)).map(Self.name))
        }
        let seeking = Self.threadTime() - start
        print("CPU of 300 seeks \(seeking) s, of a listing \(alone) s")
        #expect(seeking < 2 * alone)
        #expect(try Self.page(second, directory, from: 30_000, 2) == [])
        #expect(try Self.page(second, directory, from: 31_000, 2) == [])
    }

    @Test("what is kept has a bound, however large the directories are and however many")
    func bound() {
        let positions = DirectoryPositions()
        typealias Place = DirectoryPositions.Place
        let distance = DirectoryPositions.firstDistance
        func place(_ number: Int64) -> Place { Place(position: number * distance, name: Array("\(number)".utf8)) }
        // One with four times as many marks as are kept: every fourth is left, and each is right.
        let marks = Int64(DirectoryPositions.markLimit) * 4
        positions.keep((1...marks).map(place), stop: nil, in: 2)
        #expect(positions.count <= DirectoryPositions.markLimit)
        for number in [1, 2, 3, 4, 100, 4095, marks - 1] as [Int64] {
            let found = positions.nearest(to: number * distance + 5, in: 2)
            #expect(found == .start || found == place(found.position / distance))
            #expect(number * distance + 5 - found.position <= 8 * distance + 5)
        }
        // More directories than are kept: the oldest are dropped, and the newest is there.
        for directory in 3...200 as ClosedRange<Int64> {
            positions.keep((1...1000).map(place), stop: Place(position: 7, name: [1]), in: directory)
        }
        #expect(positions.count <= DirectoryPositions.totalLimit + DirectoryPositions.stopLimit)
        #expect(positions.nearest(to: 1000 * distance, in: 200) == place(1000))
        #expect(positions.nearest(to: 1000 * distance, in: 3) == .start)
        for position in 1...5000 as ClosedRange<Int64> {
            positions.keep([], stop: Place(position: position, name: [2]), in: 500)
        }
        #expect(positions.nearest(to: 5000, in: 500).position == 5000)
        #expect(positions.nearest(to: 1, in: 500) == .start)
    }

    @Test("the root's positions are not kept, as its views come and go")
    func root() throws {
        let store = try scratch.open()
        for number in 0..<200 {
            _ = try store.views(of: [store.importLayer("\(number)", [Entry("x", .fifo)])])
        }
        let reader = try IndexReader(store.index)
        let names = try Self.page(reader, 1, from: 0, 300)
        #expect(names.count == 200)
        #expect(store.index.positions.nearest(to: 128, in: 1) == .start)
        for position in [0, 64, 128, 199] {
            #expect(try Self.page(reader, 1, from: Int64(position), 1) == [names[position]])
        }
    }
}
