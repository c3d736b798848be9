import LaminaSystem
import Testing

extension EndToEnd {
    @Suite("what is left")
    struct WhatIsLeft {
        @Test("no mount, no process and no directory of these tests is left")
        func nothing() throws {
            let mounts = try Mount.all().filter { $0.directory.contains("/" + Sandbox.prefix) }
            #expect(mounts.isEmpty, "\(mounts.map(\.directory))")
            #expect(processes(withArgumentContaining: "/" + Sandbox.prefix).isEmpty)
            #expect(!names(in: Requirements.directory).contains { $0.hasPrefix(Sandbox.prefix) })
        }
    }
}
