import LaminaOCI
import LaminaSystem
import Testing

@testable import LaminaDaemon

@Suite("metrics and health, without a store")
struct MetricsTests {
    @Test("the text is what Prometheus' format says, escapes and numbers included")
    func text() {
        var text = MetricsText()
        text.info("a_info", "A \\ and\na line.", [("name", "quoted \"x\"\n\\")])
        text.counter("b_total", "Bytes.", UInt64.max)
        text.family("c_total", .counter, "By cause.", by: "cause", [("one", 1), ("two", 0)])
        let histogram = Histogram(bounds: [0.5, 2])
        for value in [0.5, 0.25, 1, 3, 40] { histogram.record(value) }
        text.histogram("d_seconds", "Times.", histogram.bounds, histogram.snapshot)
        #expect(
            text.text == """
                # HELP a_info A \\\\ and\\na line.
                # TYPE a_info gauge
                a_info{name="quoted \\"x\\"\\n\\\\"} 1
                # HELP b_total Bytes.
                # TYPE b_total counter
                b_total 18446744073709551615
                # HELP c_total By cause.
                # TYPE c_total counter
                c_total{cause="one"} 1
                c_total{cause="two"} 0
                # HELP d_seconds Times.
                # TYPE d_seconds histogram
                d_seconds_bucket{le="0.5"} 2
                d_seconds_bucket{le="2"} 3
                d_seconds_bucket{le="+Inf"} 5
                d_seconds_sum 44.75
                d_seconds_count 5

                """)
        let numbers: [(Double, String)] = [
            (0, "0"), (-3, "-3"), (0.001, "0.001"), (1e20, "1e+20"), (.infinity, "+Inf"), (-.infinity, "-Inf"),
            (.nan, "NaN"),
        ]
        for (number, want) in numbers { #expect(MetricsText.number(number) == want) }
    }

    @Test("an address to listen at is a host and a port, and nothing else is one")
    func addresses() {
        #expect(ListenAddress("127.0.0.1:9323") == ListenAddress(host: "127.0.0.1", port: 9323))
        #expect(ListenAddress("[::1]:0") == ListenAddress(host: "::1", port: 0))
        #expect(ListenAddress(":9323") == ListenAddress(host: "0.0.0.0", port: 9323))
        #expect(ListenAddress("[::1]:1")?.description == "[::1]:1")
        for text in ["", "9323", "host:", "host:65536", "host:-1", "::1:9323", "a b:1", "host:1x"] {
            #expect(ListenAddress(text) == nil, "\(text)")
        }
    }

    @Test("pulls are counted by how they end, and only what failed is told")
    func pulls() {
        let counters = PullCounters()
        var told = 0
        func pull(_ error: OCIError.Code?) {
            try? counters.count(
                { if let error { throw OCIError(error, "a test") } }, failed: { _ in told += 1 })
        }
        for code in [nil, nil, .notFound, .interrupted] as [OCIError.Code?] { pull(code) }
        #expect(counters.snapshot.results == [.success: 2, .failure: 1, .interrupted: 1])
        #expect(counters.snapshot.running == 0 && counters.durations.snapshot.count == 4 && told == 1)
    }

    @Test("a server that is not ready says why with status 503, and is alive all the same")
    func notReady() async throws {
        try await onThread("test") {
            let engine = FakeEngine()
            let server = try TestServer(engine)
            func ask(_ path: String) throws -> (Int, String) {
                var connection = try ControlConnection(ControlSocket(root: server.root), shouldStop: { false })
                try connection.send("GET", path, body: [])
                let status = try connection.receiveHead()
                return (status, String(decoding: try connection.receiveBody(), as: UTF8.self))
            }
            #expect(try ask("/readyz") == (200, "ok\n"))
            #expect(try ask("/metrics") == (200, "# HELP fake A test's.\n# TYPE fake gauge\nfake 1\n"))
            engine.state.withLock { $0.whyNotReady = "no mount" }
            #expect(try ask("/readyz") == (503, "no mount\n"))
            #expect(try ask("/healthz") == (200, "ok\n"))
            #expect(try server.stop())
        }
    }
}
