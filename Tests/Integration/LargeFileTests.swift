import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("a file of 1 GiB, not merged")
    struct LargeFile {
        private struct Times: Decodable {
            var open: Double
            var first: Double
            var last: Double
            var digest: String
        }

        @Test("open, the first and the last 4 KiB take under 100 ms each on loopback")
        func latency() throws {
            let image = try Shared.large.get()
            let expected: Times = try decoded(
                run(["python3", "-c", Scripts.firstAndLast, "\(image.tree)/large"]).orThrow().output)
            // Other work on the machine only adds to them: the shortest of five counts.
            let all = try (0..<5).map { _ in
                try Sandbox.with { sandbox in
                    let reference = image.reference(try sandbox.proxy())
                    try sandbox.lamina("pull", "--lazy", reference)
                    let mount = try sandbox.mount(reference)
                    let outcome = try run(["python3", "-c", Scripts.firstAndLast, "\(mount)/large"], seconds: 30)
                        .orThrow()
                    let times: Times = try decoded(outcome.output)
                    #expect(times.digest == expected.digest)
                    return times
                }
            }
            func shortest(_ value: KeyPath<Times, Double>) -> Double {
                all.map { $0[keyPath: value] }.min() ?? .infinity
            }
            let (open, first, last) = (shortest(\.open), shortest(\.first), shortest(\.last))
            print("1 GiB, not merged, in ms: open \(open), first 4 KiB \(first), last 4 KiB \(last)")
            #expect(open < 100 && first < 100 && last < 100)
        }

        @Test("mmap is right at any moment while it merges")
        func mapped() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.large.get()
                let reference = image.reference(try sandbox.proxy())
                let mount = try sandbox.mount(reference)
                let stop = sandbox.directory + "/stop"
                let readers = try (0..<4).map { seed in
                    try sandbox.startProgram(
                        [
                            "python3", "-c", Scripts.mappedPages, "\(mount)/large", "\(image.tree)/large", stop,
                            "\(seed)",
                        ])
                }
                let isMerged = try eventually(seconds: 60) {
                    usleep(100_000)
                    return try sandbox.number("SELECT count(*) FROM image_status WHERE state = 'complete'") == 1
                }
                #expect(isMerged, "opening it does not merge it")
                // A little longer, until after the change to merged.
                usleep(300_000)
                try write([], to: stop)
                var pages = 0
                for reader in readers { pages += Int(try reader.wait(seconds: 30).orThrow().output.dropLast()) ?? 0 }
                print("compared \(pages) pages of a mapping while the file merged")
                #expect(try sandbox.opens().cached >= 1)
            }
        }

        @Test("two hundred readers at once: every byte is right, and each chunk is fetched once")
        func manyReaders() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.large.get()
                let proxy = try sandbox.proxy()
                let reference = image.reference(proxy)
                try sandbox.lamina("pull", "--lazy", reference)
                let mount = try sandbox.mount(reference)
                // What the table of contents took is not included.
                proxy.reset()
                let readers = try sandbox.startProgram(
                    ["python3", "-c", Scripts.manyReaders, "\(mount)/large", "\(image.tree)/large", "200"])
                let outcome = readers.wait(seconds: 120)
                #expect(outcome.exitCode == 0, "\(outcome)")
                #expect(
                    try eventually(seconds: 30) {
                        try sandbox.number("SELECT count(*) FROM image_status WHERE state = 'complete'") == 1
                    })
                let sent = proxy.sentByteCount(of: image.layer)
                print("200 readers of 1 GiB: \(outcome.seconds) s, \(sent) bytes of a blob of \(image.layerSize)")
                #expect(proxy.repeatedByteCount(of: image.layer) == 0)
                #expect(sent <= image.layerSize)
            }
        }
    }
}
