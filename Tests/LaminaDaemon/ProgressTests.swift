import Glibc
import Testing

@testable import LaminaDaemon

@Suite("progress")
struct ProgressTests {
    private static let mebibyte: Int64 = 1 << 20

    private func merging(_ landed: Int64, current: String? = nil) -> PullProgress {
        PullProgress(
            stage: .merging, reference: "r", layers: 2, indexedLayers: 2, bytes: 100 * Self.mebibyte,
            landedBytes: landed * Self.mebibyte, fetchedBytes: landed * Self.mebibyte / 2, current: current)
    }

    @Test("the line shows percent, bytes, rate, time left and what is merged")
    func line() {
        var model = ProgressModel()
        model.update(merging(10), now: 0)
        model.update(merging(20), now: 1)
        model.update(merging(30, current: "usr/bin/app"), now: 2)
        #expect(
            model.line(width: 120, usesColor: false) == "merging  30%  30 MiB of 100 MiB  10 MiB/s  ETA 7s  usr/bin/app"
        )
        #expect(model.line(width: 120, usesColor: true).hasPrefix("\u{1B}[1mmerging\u{1B}[0m  30%"))
    }

    @Test("the line is never wider than the terminal, and holds no control character")
    func width() {
        var model = ProgressModel()
        model.update(merging(1, current: String(repeating: "päth/", count: 60) + "\n\u{1B}[2Jend"), now: 0)
        for width in [0, 1, 20, 61, 80, 200] {
            let line = model.line(width: width, usesColor: false)
            #expect(line.count <= width)
            #expect(!line.unicodeScalars.contains { $0.value < 0x20 })
        }
        #expect(model.line(width: 80, usesColor: false).hasSuffix("end"))
    }

    @Test("the rate is that of the last seconds")
    func rate() {
        var model = ProgressModel()
        for second in 0...10 { model.update(merging(Int64(second)), now: Double(second)) }
        for second in 11...20 { model.update(merging(10 + Int64(second - 10) * 5), now: Double(second)) }
        #expect(model.rate.map { Int($0 / Double(Self.mebibyte)) } == 5)
    }

    @Test("elsewhere than on a terminal each step is one line, however often it is reported")
    func steps() {
        var model = ProgressModel()
        var lines: [String] = []
        func report(_ progress: PullProgress, _ now: Double) {
            for _ in 0..<3 {
                model.update(progress, now: now)
                lines += model.steps()
            }
        }
        report(PullProgress(stage: .resolving, reference: "r"), 0)
        report(PullProgress(stage: .indexing, reference: "r", layers: 2), 0.1)
        report(PullProgress(stage: .indexing, reference: "r", layers: 2, indexedLayers: 1), 0.2)
        report(merging(5), 1)
        report(merging(25), 2)
        report(merging(29), 3)
        report(merging(100), 4)
        #expect(lines.count == 5)
        #expect(lines[0] == "resolving r")
        #expect(lines[1] == "indexing 2 layers")
        #expect(lines[2] == "merging 100 MiB, of which 5.0 MiB are in the store")
        #expect(lines[3].hasPrefix("merged 20%, 13 MiB fetched, "))
        #expect(lines[4].hasPrefix("merged 100%"))
    }

    @Test("an image that was skipped to its end still has its steps")
    func skipped() {
        var model = ProgressModel()
        model.update(PullProgress(stage: .done, reference: "r", layers: 1, indexedLayers: 1), now: 0)
        #expect(model.steps() == ["resolving r", "indexing 1 layer"])
        #expect(model.steps().isEmpty)
    }

    @Test(
        "bytes",
        arguments: [
            (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (10_240, "10 KiB"),
            (1_048_575, "1.0 MiB"),
            (79 << 20, "79 MiB"), (1 << 30, "1.0 GiB"), (Int64.max, "8.0 EiB"), (-2048, "-2.0 KiB"),
        ] as [(Int64, String)])
    func bytes(count: Int64, text: String) { #expect(Units.bytes(count) == text) }

    @Test("percent is rounded down: all is all, and nothing of nothing is too")
    func percent() {
        #expect(Units.percent(999, of: 1000) == "99%")
        #expect(Units.percent(1000, of: 1000) == "100%")
        #expect(Units.percent(0, of: 0) == "100%")
        #expect(Units.percent(Int64.max - 1, of: Int64.max) == "99%")
        #expect(Units.duration(59.2) == "1m00s" && Units.duration(0) == "0s" && Units.duration(3720) == "1h02m")
        #expect(Units.duration(.infinity) == "a long time")
    }

    @Test("tables align, and lines end without spaces")
    func table() {
        let table = TextTable(
            ["A", "NUMBER", "LAST"], rightAligned: [1], [["long name", "1", "x"], ["b", "22", "longer"]])
        #expect(table.text == "A          NUMBER  LAST\nlong name       1  x\nb              22  longer")
    }

    @Test("a layer that is read as a whole has its own percentage, and a line of its own where no terminal is")
    func streaming() {
        func reading(_ layer: Int, _ landed: Int64) -> PullProgress {
            PullProgress(
                stage: .streaming, reference: "r", layers: 2, indexedLayers: layer, bytes: 100 * Self.mebibyte,
                landedBytes: landed * Self.mebibyte)
        }
        var model = ProgressModel()
        for (time, progress) in [reading(0, 10), reading(0, 20), reading(0, 30)].enumerated() {
            model.update(progress, now: Double(time))
        }
        #expect(
            model.line(width: 120, usesColor: false) == "reading layer 1 of 2  30%  30 MiB of 100 MiB  10 MiB/s  ETA 7s"
        )
        #expect(model.steps().last == "reading layer 1 of 2, which has no table of contents: 100 MiB")
        #expect(model.steps() == [])
        model.update(reading(1, 1), now: 4)
        #expect(model.steps() == ["reading layer 2 of 2, which has no table of contents: 100 MiB"])
    }
}
