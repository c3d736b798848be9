/// One figure of the report: what it is, what it should reach, and how it is measured.
public struct Figure: Sendable {
    public enum Unit: Sendable {
        case ratio, seconds, milliseconds, microseconds, mebibytes, perSecond, megabytesPerSecond, bytes
    }

    /// What must be reached, and what is aimed at.
    public enum Bound: Sendable, Equatable {
        case atMost(Double, aim: Double)
        case atLeast(Double, aim: Double)
    }

    public enum Verdict: String, Sendable {
        case aim = "aim"
        case met = "met"
        case missed = "NOT met"
    }

    /// Which of the samples represents all.
    public enum Summary: Sendable {
        case median, maximum
    }

    public var id: String
    public var title: String
    public var unit: Unit
    public var bound: Bound?
    public var summary: Summary
    /// The command that measures this figure alone.
    public var part: String
    /// What is compared, and what is cold.
    public var how: String

    public init(
        _ id: String, _ title: String, _ unit: Unit, _ bound: Bound? = nil, summary: Summary = .median, part: String,
        how: String
    ) {
        (self.id, self.title, self.unit, self.bound) = (id, title, unit, bound)
        (self.summary, self.part, self.how) = (summary, part, how)
    }

    public func value(of samples: Samples) -> Double? {
        switch summary {
        case .median: samples.median
        case .maximum: samples.maximum
        }
    }

    public func verdict(of samples: Samples) -> Verdict? {
        guard let bound, let value = value(of: samples) else { return nil }
        switch bound {
        case .atMost(let limit, let aim): return value <= aim ? .aim : value <= limit ? .met : .missed
        case .atLeast(let limit, let aim): return value >= aim ? .aim : value >= limit ? .met : .missed
        }
    }

    /// `≤ 0.9 ×`: the sign, the number and the unit.
    func text(of value: Double, sign: Bool) -> String {
        let number = unit.text(value)
        guard sign, let bound else { return number }
        if case .atMost = bound { return "≤ " + number }
        return "≥ " + number
    }
}

extension Figure.Unit {
    /// A number with a sensible number of digits.
    public func text(_ value: Double) -> String {
        switch self {
        case .ratio: Self.number(value, value < 10 ? 3 : 1) + " ×"
        case .seconds: Self.number(value, 2) + " s"
        case .milliseconds: Self.number(value, value < 10 ? 2 : 1) + " ms"
        case .microseconds: Self.number(value, 1) + " µs"
        case .mebibytes: Self.number(value, 1) + " MiB"
        case .perSecond: Self.number(value, 0) + " /s"
        case .megabytesPerSecond: Self.number(value, 0) + " MB/s"
        case .bytes: Self.number(value, 0) + " B"
        }
    }

    /// Decimal places, and a comma between thousands.
    static func number(_ value: Double, _ places: Int) -> String {
        guard value.isFinite, abs(value) < 1e15 else { return "\(value)" }
        var scale = 1.0
        for _ in 0..<places { scale *= 10 }
        let scaled = (abs(value) * scale).rounded()
        let digits = String(Int64(scaled / scale))
        var grouped = ""
        for (place, digit) in digits.enumerated() {
            if place > 0, (digits.count - place) % 3 == 0 { grouped.append(",") }
            grouped.append(digit)
        }
        let sign = value < 0 && scaled > 0 ? "-" : ""
        guard places > 0 else { return sign + grouped }
        let fraction = String(Int64(scaled.truncatingRemainder(dividingBy: scale)))
        return sign + grouped + "." + String(repeating: "0", count: places - fraction.count) + fraction
    }
}
