import LaminaSystem
import Testing

extension EndToEnd {
    @Suite("what is left")
    struct WhatIsLeft {
        @Test("no mount and no process of these tests is left")
        func nothing() throws {
            let mounts = try Mount.all().filter { $0.directory.contains("/lamina-test-") }
            #expect(mounts.isEmpty, "\(mounts.map(\.directory))")
            #expect(processes(withArgumentContaining: "/lamina-test-").isEmpty)
        }
    }
}
