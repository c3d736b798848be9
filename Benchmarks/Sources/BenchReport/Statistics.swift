/// What was measured several times.
public struct Samples: Sendable, Equatable {
    /// In the order in which they came.
    public private(set) var values: [Double] = []

    public init(_ values: [Double] = []) { self.values = values }

    public mutating func add(_ value: Double) { values.append(value) }

    public var count: Int { values.count }
    public var minimum: Double? { values.min() }
    public var maximum: Double? { values.max() }
    public var median: Double? { percentile(0.5) }

    /// Between two samples, their weighted mean: the median of an even number is the mean of the middle two.
    public func percentile(_ fraction: Double) -> Double? {
        guard !values.isEmpty else { return nil }
        let sorted = values.sorted()
        let place = Double(sorted.count - 1) * min(max(fraction, 0), 1)
        let below = Int(place)
        let above = min(below + 1, sorted.count - 1)
        return sorted[below] + (sorted[above] - sorted[below]) * (place - Double(below))
    }
}
