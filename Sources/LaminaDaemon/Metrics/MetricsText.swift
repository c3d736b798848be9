import LaminaSystem

/// Metrics in the text format of Prometheus, version 0.0.4
/// (https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format).
///
/// Names end in their unit, and in `_total` if they only go up. The values of a label are few and known beforehand, so that no
/// image or path ever makes a new time series.
struct MetricsText {
    static let contentType = "text/plain; version=0.0.4; charset=utf-8"

    enum Kind: String { case counter, gauge, histogram }

    private(set) var text = ""

    mutating func gauge(_ name: String, _ help: String, _ value: some BinaryInteger) {
        family(name, .gauge, help)
        sample(name, [], "\(value)")
    }

    mutating func gauge(_ name: String, _ help: String, _ value: Double) {
        family(name, .gauge, help)
        sample(name, [], Self.number(value))
    }

    /// - Parameter name: ends in `_total`.
    mutating func counter(_ name: String, _ help: String, _ value: some BinaryInteger) {
        family(name, .counter, help)
        sample(name, [], "\(value)")
    }

    mutating func counter(_ name: String, _ help: String, _ value: Double) {
        family(name, .counter, help)
        sample(name, [], Self.number(value))
    }

    /// A metric with one label, all of whose values are listed.
    mutating func family(
        _ name: String, _ kind: Kind, _ help: String, by label: String, _ values: [(label: String, value: UInt64)]
    ) {
        family(name, kind, help)
        for value in values { sample(name, [(label, value.label)], "\(value.value)") }
    }

    mutating func histogram(_ name: String, _ help: String, _ bounds: [Double], _ snapshot: Histogram.Snapshot) {
        family(name, .histogram, help)
        for (index, count) in snapshot.cumulativeCounts.enumerated() {
            let bound = index < bounds.count ? Self.number(bounds[index]) : "+Inf"
            sample(name + "_bucket", [("le", bound)], "\(count)")
        }
        sample(name + "_sum", [], Self.number(snapshot.sum))
        sample(name + "_count", [], "\(snapshot.count)")
    }

    /// A metric whose value is 1 and whose labels have the information.
    mutating func info(_ name: String, _ help: String, _ labels: [(String, String)]) {
        family(name, .gauge, help)
        sample(name, labels, "1")
    }

    private mutating func family(_ name: String, _ kind: Kind, _ help: String) {
        text += "# HELP \(name) \(Self.escaped(help, quotes: false))\n# TYPE \(name) \(kind.rawValue)\n"
    }

    private mutating func sample(_ name: String, _ labels: [(String, String)], _ value: String) {
        let list = labels.map { "\($0.0)=\"\(Self.escaped($0.1, quotes: true))\"" }.joined(separator: ",")
        text += list.isEmpty ? "\(name) \(value)\n" : "\(name){\(list)} \(value)\n"
    }

    /// In the form of Go's ParseFloat.
    static func number(_ value: Double) -> String {
        if value.isNaN { return "NaN" }
        if value.isInfinite { return value < 0 ? "-Inf" : "+Inf" }
        return value == value.rounded() && abs(value) < 1e15 ? "\(Int64(value))" : "\(value)"
    }

    /// Backslash and line feed, and in a label's value double quotes, are escaped by a backslash.
    static func escaped(_ text: String, quotes: Bool) -> String {
        let plain = text.replacing("\\", with: "\\\\").replacing("\n", with: "\\n")
        return quotes ? plain.replacing("\"", with: "\\\"") : plain
    }
}
