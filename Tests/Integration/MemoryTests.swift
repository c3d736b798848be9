import Glibc
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("memory, with default settings, of an image with a file of 2 GiB and 20,000 small ones")
    struct Memory {
        static let limit: Int64 = 200 << 20

        @Test("pulling it takes at most 200 MiB, and so does mounting and reading it")
        func pulled() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.huge.get()
                let reference = image.reference(try sandbox.proxy())
                let pull = try sandbox.lamina("pull", reference, seconds: 180)
                let mount = try sandbox.mount(reference)
                let server = try #require(try sandbox.status().server)
                try run(["diff", "-r", mount, image.tree], seconds: 120).orThrow()
                let serverPeak = try #require(processPeakBytes(server.pid))
                print(
                    "peak memory, merged: pull \(pull.peakBytes >> 20) MiB in \(pull.seconds) s, server \(serverPeak >> 20) MiB"
                )
                #expect(pull.peakBytes > 0 && pull.peakBytes <= Self.limit)
                #expect(serverPeak <= Self.limit)
            }
        }

        @Test("mounting it and reading it while nothing is merged takes at most 200 MiB")
        func lazy() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.huge.get()
                let mount = try sandbox.mount(image.reference(try sandbox.proxy()))
                let server = try #require(try sandbox.status().server)
                let started = now()
                // Small ones first, as files that wait; the large one while it merges behind its reader.
                try run(["diff", "-r", "\(mount)/files", "\(image.tree)/files"], seconds: 120).orThrow()
                try run(["cmp", "\(mount)/huge", "\(image.tree)/huge"], seconds: 120).orThrow()
                let peak = try #require(processPeakBytes(server.pid))
                print("peak memory, not merged: server \(peak >> 20) MiB, read in \(now() - started) s")
                #expect(peak <= Self.limit)
            }
        }
    }
}
