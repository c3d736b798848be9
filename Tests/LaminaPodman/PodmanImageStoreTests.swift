import Glibc
import LaminaDigest
import LaminaStore
import LaminaSystem
import Testing

@testable import LaminaPodman

@Suite("An image store and what podman has upon it")
struct PodmanImageStoreTests {
    @Test("what stands upon an image whose tag has moved keeps that one, and no other from being removed")
    func movedTag() throws {
        let fixture = try ImageStoreFixture()
        let old = try fixture.image("r.example/app:1", "base", "old")
        try fixture.image("r.example/other:1", "other")
        let images = try fixture.imageStore()
        try images.update()
        try fixture.container("web", of: old, above: StorageNames.layers([.of("base"), .of("old")])[1])
        #expect(try images.uses(of: "r.example/app:1").contains { $0.kind == .container && $0.name == "web" })
        // The tag moves: what was there stays without a name.
        try fixture.image("r.example/app:1", "base", "new")
        try images.update()
        #expect(try fixture.store.index.podmanImages().count == 3 && images.keepsMore)
        #expect(try images.uses(of: "r.example/other:1").isEmpty)
        // The new one has the old one's lowest layer. It stays for the container, which is no reason either.
        #expect(try images.uses(of: "r.example/app:1").isEmpty)
    }
}
