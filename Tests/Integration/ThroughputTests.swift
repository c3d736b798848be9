import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    /// How fast layers that need no decompression come from a registry on this machine, compared with the least that can be
    /// done with a blob: fetch it, keep it, hash it.
    @Suite("throughput")
    struct Throughput {
        /// One way of getting the layer, measured several times.
        private struct Way {
            var name: String
            /// The best of all rounds: a slower one was disturbed.
            var seconds = Double.infinity
            var processorSeconds = Double.infinity

            mutating func measure(_ body: () throws -> Void) rethrows {
                let (began, spent) = (now(), Self.childSeconds())
                try body()
                seconds = min(seconds, now() - began)
                processorSeconds = min(processorSeconds, Self.childSeconds() - spent)
            }

            /// For the children that have ended, and their children; the registry goes on and is not among them.
            private static func childSeconds() -> Double {
                var usage = rusage()
                getrusage(RUSAGE_CHILDREN.rawValue, &usage)
                return [usage.ru_utime, usage.ru_stime].reduce(0) { $0 + Double($1.tv_sec) + Double($1.tv_usec) / 1e6 }
            }

            func line(of bytes: Double) -> String {
                "\(name): \(Int(bytes / seconds / 1e6)) MB/s, \(Int(processorSeconds * 1000)) ms of processors"
            }
        }

        @Test(
            "an image whose layer is stored without compression is pulled at 70 % of curl, file and sha256sum, in the same run",
            arguments: ["tar", "eStargz of level 0"])
        func stored(kind: String) throws {
            try Sandbox.with { sandbox in
                let tree = sandbox.directory + "/tree"
                try run([
                    "sh", "-c",
                    "mkdir -p '\(tree)' && for i in 1 2 3 4 5 6 7 8; do head -c 33554432 /dev/urandom > '\(tree)'/$i; done",
                ])
                .orThrow()
                let registry = try Shared.registry.get()
                let name = kind == "tar" ? "stored/tar" : "stored/estargz"
                let layer: String
                let size: Double
                if kind == "tar" {
                    let tar = sandbox.directory + "/layer.tar"
                    try run(["tar", "-C", tree, "-cf", tar, "."]).orThrow()
                    let made = try PlainImages.layout(of: tar, "tar", in: sandbox)
                    try registry.push(layout: made.layout, name: name, tag: "x")
                    (layer, size) = (made.layer, Double(made.size))
                } else {
                    let layout = "\(sandbox.directory)/stored"
                    let converted: ConvertReport = try decoded(
                        sandbox.lamina("convert", "--json", "--level", "0", "dir:\(tree)", "oci:\(layout):x").output)
                    try registry.push(layout: layout, sourceTag: "x", name: name, tag: "x")
                    (layer, size) = (converted.layers[0].digest, Double(converted.layers[0].compressedBytes))
                }
                let url = "http://\(registry.host)/v2/\(name)/blobs/\(layer)"
                var curl = Way(name: "curl | tee | sha256sum")
                var lamina = Way(name: "lamina")
                // In turns, so that both meet the same machine.
                for round in 0..<5 {
                    try curl.measure {
                        try run(["sh", "-c", "curl -sSf '\(url)' | tee '\(sandbox.directory)/blob' | sha256sum"])
                            .orThrow()
                    }
                    let store = "\(sandbox.directory)/store\(round)"
                    try lamina.measure {
                        try sandbox.startProgram(
                            [Requirements.lamina, "pull", "\(registry.host)/\(name):x", "--root", store]
                        ).wait(seconds: 120).orThrow()
                    }
                    removeTree(store)
                }
                print("throughput of \(Int(size / 1e6)) MB, \(kind): \(lamina.line(of: size)); \(curl.line(of: size))")
                #expect(lamina.seconds * 0.7 <= curl.seconds)
                #expect(lamina.processorSeconds * 0.7 <= curl.processorSeconds)
            }
        }
    }
}
