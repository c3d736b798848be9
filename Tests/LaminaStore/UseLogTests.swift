import LaminaSystem
import Testing

@testable import LaminaStore

@Suite("What was opened first")
struct UseLogTests {
    @Test("however many files were opened before, the next ones are noted, in their order, and each once")
    func endless() {
        let log = UseLog()
        for inode in 1...200_000 as ClosedRange<Int64> { log.note(inode, ContentID(1)) }
        #expect(log.take().firsts.count <= UseLog.firstsLimit)
        for inode in 300_001...300_020 as ClosedRange<Int64> {
            for _ in 0..<3 { log.note(inode, ContentID(2)) }
        }
        #expect(log.take().firsts == Array(300_001...300_020))
    }

    @Test("the inodes of late are remembered, the oldest are not")
    func oldest() {
        let log = UseLog()
        for inode in 1...60_000 as ClosedRange<Int64> { log.note(inode, ContentID(1)) }
        _ = log.take()
        for inode in 1...60_000 as ClosedRange<Int64> { log.note(inode, ContentID(1)) }
        #expect(log.take().firsts == [])
        for inode in 100_001...400_000 as ClosedRange<Int64> { log.note(inode, ContentID(1)) }
        _ = log.take()
        log.note(1, ContentID(1))
        #expect(log.take().firsts == [1])
    }

    @Test("what cannot be recorded has a bound: the oldest go")
    func bound() {
        let log = UseLog()
        for _ in 0..<3 {
            for inode in 1...100_000 as ClosedRange<Int64> { log.note(inode, ContentID(1)) }
            let (uses, firsts) = log.take()
            log.restore(uses, firsts)
            for inode in 200_001...300_000 as ClosedRange<Int64> { log.note(inode, ContentID(1)) }
        }
        let firsts = log.take().firsts
        #expect(firsts.count <= UseLog.firstsLimit && firsts.last == 300_000)
    }
}
