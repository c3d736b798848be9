import Testing

@testable import LaminaFilesystem

@Suite("where a walk goes on")
struct DirectoryWalkTests {
    /// Directories by number, with their children: 1 has 2, 3, 4; 2 has 5, 6; 3 has none; 4 has 7, which has 8; 20 has 21 to
    /// 25.
    private static let tree: [Int64: [Int64]] = [1: [2, 3, 4], 2: [5, 6], 4: [7], 7: [8], 20: [21, 22, 23, 24, 25]]

    /// Reads directories whole, one after the other; returns what was expected before each.
    private static func read(_ order: [Int64], with walk: inout DirectoryWalk) -> [Int64?] {
        order.map { directory in
            let expected = walk.next
            #expect(expected == nil || expected?.offset == 0)
            walk.read(.init(directory: directory, offset: 0), found: tree[directory] ?? [], rest: nil)
            return expected?.directory
        }
    }

    @Test("the first directory first: after two of them, every next one is known, and the end")
    func forward() {
        var walk = DirectoryWalk()
        let order: [Int64] = [1, 2, 5, 6, 3, 4, 7, 8]
        #expect(Self.read(order, with: &walk) == [nil, nil, nil, 6, 3, 4, 7, 8])
        #expect(walk.next == nil)
    }

    @Test("the last directory first")
    func backward() {
        var walk = DirectoryWalk()
        #expect(Self.read([1, 4, 7, 8, 3, 2, 6, 5], with: &walk) == [nil, nil, nil, 8, 3, 2, 6, 5])
        #expect(walk.next == nil)
    }

    @Test("what is left out is passed over, and the order found again")
    func pruned() {
        var walk = DirectoryWalk()
        #expect(Self.read([20, 21, 23, 24], with: &walk) == [nil, nil, nil, 24])
        #expect(walk.next?.directory == 25)
        walk = DirectoryWalk()
        #expect(Self.read([20, 25, 23, 22], with: &walk) == [nil, nil, nil, 22])
        #expect(walk.next?.directory == 21)
    }

    @Test("a directory from elsewhere begins another walk, and single ones nothing")
    func elsewhere() {
        var walk = DirectoryWalk()
        _ = Self.read([1, 2, 5], with: &walk)
        #expect(walk.next?.directory == 6)
        #expect(Self.read([40, 50, 40], with: &walk) == [6, nil, nil])
        #expect(walk.next == nil)
        // The same directory again and again, as a program does that waits for a file.
        #expect(Self.read([1, 1, 1, 1], with: &walk) == [nil, nil, nil, nil])
    }

    @Test("a directory in several parts goes on, and then come those of all its parts")
    func parts() {
        var walk = DirectoryWalk()
        walk.read(.init(directory: 1, offset: 0), found: [2], rest: 10)
        #expect(walk.next == nil, "most who look into a directory do not go on")
        walk.read(.init(directory: 1, offset: 10), found: [], rest: 20)
        #expect(walk.next == .init(directory: 1, offset: 20))
        walk.read(.init(directory: 1, offset: 20), found: [3, 4], rest: nil)
        #expect(walk.next == nil)
        #expect(Self.read([2, 5, 6, 3], with: &walk) == [nil, nil, 6, 3])
        #expect(walk.next?.directory == 4)
    }

    @Test("no tree is too deep or too wide")
    func bounds() {
        var walk = DirectoryWalk()
        for directory in 1...1000 as ClosedRange<Int64> {
            walk.read(.init(directory: directory, offset: 0), found: [directory + 1], rest: nil)
        }
        #expect(walk.next?.directory == 1001)
        walk.read(.init(directory: 5000, offset: 0), found: Array(10000..<20000), rest: 3)
        walk.read(.init(directory: 5000, offset: 3), found: Array(20000..<30000), rest: nil)
        for directory in 10000..<20000 as Range<Int64> {
            walk.read(.init(directory: directory, offset: 0), found: [], rest: nil)
        }
        #expect(walk.next == nil, "those that were left out are not expected")
    }
}
