import Glibc
import LaminaDigest
import LaminaTestSupport
import Testing

extension EndToEnd {
    /// What a registry and the network can do wrong, and how a pull ends.
    @Suite("pulls through faults")
    struct FaultTable {
        private enum End {
            /// The image is whole and right.
            case whole
            /// An error that names the registry, and this.
            case error(String)
        }

        private struct Row {
            var name: String
            var end: End
            /// How much of the layer may come more than once: a member, and what is on its way with it.
            var repeated: Int64 = 1 << 20
            var faults: (GeneratedImage, CountingProxy) -> Faults
        }

        private static func fault(_ change: (inout Faults) -> Void) -> Faults {
            var faults = Faults()
            change(&faults)
            return faults
        }

        private static func rows(layerSize: Int64) -> [Row] {
            var rows = [1, 100, 5000, 70_000, 300_000, 1_000_000, 5_000_000].map { count in
                Row(name: "cut after \(count) bytes, six times", end: .whole) { _, _ in
                    fault {
                        $0.cutAfter = count
                        $0.cutCount = 6
                    }
                }
            }
            rows += [
                Row(name: "cut after 200000 bytes, always", end: .whole) { _, _ in fault { $0.cutAfter = 200_000 } },
                Row(name: "cut before any byte, always", end: .error("tried 5 times")) { _, _ in
                    fault { $0.cutAfter = 0 }
                },
                Row(name: "429 with Retry-After, twice", end: .whole) { _, _ in
                    fault { ($0.status, $0.statusCount, $0.retryAfter) = (429, 2, 1) }
                },
                Row(name: "500, three times", end: .whole) { _, _ in fault { ($0.status, $0.statusCount) = (500, 3) } },
                Row(name: "503, always", end: .error("503")) { _, _ in fault { $0.status = 503 } },
                Row(name: "404", end: .error("404")) { _, _ in fault { $0.status = 404 } },
                Row(name: "416", end: .error("416")) { _, _ in fault { $0.status = 416 } },
                Row(name: "400", end: .error("400")) { _, _ in fault { $0.status = 400 } },
                Row(name: "stall after 100000 bytes, twice", end: .whole) { _, _ in
                    fault { ($0.stallAfter, $0.stallCount) = (100_000, 2) }
                },
                Row(name: "stall, always", end: .error("nothing of blob")) { _, _ in fault { $0.stallAfter = 0 } },
                Row(name: "slow: 8 MB/s", end: .whole) { _, _ in fault { $0.bytesPerSecond = 8_000_000 } },
                Row(name: "truncated: each answer 700000 bytes short, and says so", end: .whole) { _, _ in
                    fault { $0.shortensRange = 700_000 }
                },
                Row(name: "truncated: fewer bytes than Content-Length says", end: .whole) { _, _ in
                    fault { ($0.cutAfter, $0.cutCount) = (900_000, 4) }
                },
                Row(name: "the same Content-Length for every blob", end: .error("bytes in the registry")) { _, _ in
                    fault { $0.fields = ["Content-Length": "500000"] }
                },
                Row(name: "late: each answer after 0.3 s", end: .whole) { _, _ in fault { $0.delay = 0.3 } },
                Row(name: "another range than asked for", end: .error("instead of")) { _, _ in
                    fault { $0.shiftsRange = -7 }
                },
                Row(name: "a Content-Range of another size", end: .error("9999999999")) { _, _ in
                    fault { $0.fields = ["Content-Range": "bytes 0-1/9999999999"] }
                },
                Row(name: "wrong bytes, once", end: .whole, repeated: 16 << 20) { image, _ in
                    fault { $0.corruptions = [.init(digest: image.layer, offset: image.layerSize / 2, count: 1)] }
                },
                Row(name: "wrong bytes, always", end: .error("layer"), repeated: 16 << 20) { image, _ in
                    fault { $0.corruptions = [.init(digest: image.layer, offset: image.layerSize / 2)] }
                },
                Row(name: "200 for 206", end: .whole, repeated: 4 << 20) { _, _ in fault { $0.ignoresRange = true } },
                Row(name: "200 for 206, chunked, cut once", end: .whole, repeated: layerSize + 4 << 20) { _, _ in
                    fault { ($0.ignoresRange, $0.isChunked, $0.cutAfter, $0.cutCount) = (true, true, 3_000_000, 1) }
                },
                Row(name: "chunked 206", end: .whole) { _, _ in fault { $0.isChunked = true } },
                Row(name: "a manifest of other bytes", end: .error("manifest")) { _, _ in
                    fault { ($0.scope, $0.body) = (.manifests, Array("{}".utf8)) }
                },
                Row(name: "redirects in a circle", end: .error("redirects more than")) { _, proxy in
                    fault { $0.redirect = "http://\(proxy.host)" }
                },
            ]
            return rows
        }

        @Test(
            "every pull ends right, or with an error that names host, URL and cause; bytes that come twice are counted and few"
        )
        func table() throws {
            let image = try Shared.small.get()
            var table = ["\(image.layerSize) bytes of layer; fault | end | requests | sent | of them again | seconds"]
            for row in Self.rows(layerSize: image.layerSize) {
                try Sandbox.with { sandbox in
                    let proxy = try sandbox.proxy()
                    let config = sandbox.directory + "/config.toml"
                    try write("[resolver]\nrequest_timeout_sec = 1\n".utf8, to: config)
                    proxy.faults = row.faults(image, proxy)
                    let began = now()
                    let outcome = try sandbox.attempt(
                        "pull", "--json", "--config", config, image.reference(proxy), seconds: 90)
                    let repeated = proxy.repeatedByteCount(of: image.layer)
                    table.append(
                        "\(row.name) | \(outcome.exitCode.map { "\($0)" } ?? "?") | \(proxy.requests.count) | "
                            + "\(proxy.sentByteCount(of: image.layer)) | \(repeated) | \(Int((now() - began) * 10).description)/10"
                    )
                    #expect(repeated <= row.repeated, "\(row.name)")
                    switch row.end {
                    case .whole:
                        guard outcome.exitCode == 0 else {
                            Issue.record("\(row.name): \(outcome)")
                            return
                        }
                        let report: PullReport = try decoded(outcome.output)
                        #expect(report.complete && report.landedBytes == report.bytes, "\(row.name)")
                        // What landed is right: the store does not hash what it trusts.
                        proxy.faults = Faults()
                        let mount = try sandbox.mount(image.reference(proxy))
                        #expect(try run(["diff", "-r", image.tree, mount]).exitCode == 0, "\(row.name)")
                    case .error(let cause):
                        let text = outcome.errors
                        #expect(outcome.exitCode.map { $0 != 0 && $0 != 130 } == true, "\(row.name): \(outcome)")
                        #expect(text.contains(cause), "\(row.name): \(text)")
                        #expect(
                            text.contains(proxy.host) && text.contains("http://") || cause == "layer",
                            "\(row.name): \(text)")
                    }
                }
            }
            print(table.joined(separator: "\n"))
        }
    }
}
