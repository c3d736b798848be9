import LaminaDigest
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Testing

@testable import LaminaMerge

@Suite("A tar-split that is being made")
struct TarSplitKeeperTests {
    @Test(
        "one without room in the store goes at once, and gives back what it had taken; one with room counts in the store's size"
    )
    func room() throws {
        let fixture = try Fixture()
        defer { withExtendedLifetime(fixture) {} }
        let store = try fixture.openStore()
        let empty = try store.spaceUsed()
        // Its bytes are in the tar-split.
        let tar = try PlainLayer([(".wh.large", noise(3 << 20, seed: 1))]).tar
        let diffID = SHA256.hash(tar)
        let small = SpaceKeeper(limit: 200_000)
        let refused = try #require(TarSplitKeeper(store, diffID, isWanted: true, space: small))
        tar.withUnsafeBytes { refused.take($0) }
        #expect(try File.names(inDirectory: store.root + "/tar-split").isEmpty)
        #expect(small.takeIfRoom(200_000) && !small.takeIfRoom(1))
        #expect(refused.keep() != nil)
        #expect(try !store.hasTarSplit(of: diffID))

        let large = SpaceKeeper(limit: 8 << 20)
        let kept = try #require(TarSplitKeeper(store, diffID, isWanted: true, space: large))
        tar.withUnsafeBytes { kept.take($0) }
        #expect(kept.keep() == nil)
        #expect(try store.hasTarSplit(of: diffID))
        #expect(!large.takeIfRoom(6 << 20))
        #expect(try store.spaceUsed() - empty > 2 << 20)
    }
}
