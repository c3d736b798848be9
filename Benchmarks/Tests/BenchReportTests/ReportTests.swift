import BenchReport
import Testing

@Suite("the report")
struct ReportTests {
    private let figure = Figure("a", "a | b", .ratio, .atMost(0.9, aim: 0.7), part: "pull", how: "side by side")

    @Test(
        "the median of an even number of samples is the mean of the middle two",
        arguments: [([3.0, 1, 2], 2.0), ([4, 1, 3, 2], 2.5), ([7], 7)] as [([Double], Double)])
    func median(values: [Double], median: Double) {
        #expect(Samples(values).median == median)
    }

    @Test("without samples there is no median, and no verdict")
    func empty() {
        #expect(Samples().median == nil)
        #expect(figure.verdict(of: Samples()) == nil)
    }

    @Test(
        "a verdict compares the median with both bounds",
        arguments: [
            ([0.7], "aim"), ([0.71], "met"), ([0.9], "met"), ([0.91], "NOT met"), ([0.1, 0.95, 0.96], "NOT met"),
        ] as [([Double], String)])
    func verdict(values: [Double], verdict: String) {
        #expect(figure.verdict(of: Samples(values))?.rawValue == verdict)
    }

    @Test("where more is better the bounds are read the other way")
    func atLeast() {
        let rate = Figure("r", "rate", .perSecond, .atLeast(5000, aim: 12000), part: "small", how: "")
        #expect(rate.verdict(of: Samples([4999])) == .missed)
        #expect(rate.verdict(of: Samples([5000])) == .met)
        #expect(rate.verdict(of: Samples([12000])) == .aim)
    }

    @Test(
        "numbers have as many digits as they deserve",
        arguments: [
            (Figure.Unit.ratio, 0.8765, "0.877 ×"), (.perSecond, 1_234_567, "1,234,567 /s"),
            (.seconds, 11.999, "12.00 s"),
            (.mebibytes, 0.04, "0.0 MiB"), (.milliseconds, 1.005, "1.00 ms"), (.bytes, 999.6, "1,000 B"),
        ] as [(Figure.Unit, Double, String)])
    func numbers(unit: Figure.Unit, value: Double, text: String) {
        #expect(unit.text(value) == text)
    }

    @Test("a bar in a cell does not end it, and every line has the same number of them")
    func table() {
        var findings = Findings()
        findings.add("a", 0.8)
        let lines = ReportTable(figures: [figure], findings: findings).markdown().split(separator: "\n")
        #expect(lines.count == 3)
        #expect(lines[2].contains("a \\| b"))
        #expect(lines[2].contains("met"))
        #expect(lines[0].count { $0 == "|" } + 1 == lines[2].count { $0 == "|" })
    }

    @Test("a figure that could not be measured says why")
    func absent() {
        var findings = Findings()
        findings.note("a", "not available: no tool")
        #expect(ReportTable(figures: [figure], findings: findings).markdown().contains("not available: no tool"))
    }

    @Test("what was written by hand survives, however often the page is written anew")
    func notes() {
        let page = BenchmarkPage(
            machine: [("CPU", "x")], table: ReportTable(figures: [], findings: Findings()), absences: [])
        let first = page.markdown(keeping: nil)
        let edited = first.replacing("Nothing is noted yet.", with: "One pass: 30 %.\n\n- and a list")
        let second = page.markdown(keeping: edited)
        #expect(second == edited)
        #expect(page.markdown(keeping: second) == edited)
    }
}
