/// Numbers as people read them; JSON has the exact ones.
enum Units {
    private static let names = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]

    /// `512 B`, `1.5 KiB`, `12 MiB`: at least two digits, and no useless one.
    static func bytes(_ count: Int64) -> String {
        guard abs(count) >= 1024 else { return "\(count) B" }
        var value = Double(count)
        var unit = -1
        // 1023.95 would be written as 1024.0.
        while abs(value) >= 1023.95, unit < names.count - 1 {
            value /= 1024
            unit += 1
        }
        return "\(short(value)) \(names[unit])"
    }

    private static func short(_ value: Double) -> String {
        guard abs(value) < 9.95 else { return "\(Int64(value.rounded()))" }
        let tenths = Int64((value * 10).rounded())
        return "\(tenths / 10).\(abs(tenths % 10))"
    }

    /// Whole percent, rounded down: 100% only if nothing is missing. Nothing of nothing counts as all.
    static func percent(_ part: Int64, of whole: Int64) -> String { "\(percentage(part, of: whole))%" }

    static func percentage(_ part: Int64, of whole: Int64) -> Int {
        guard whole > 0 else { return 100 }
        guard part < whole else { return 100 }
        return min(99, max(0, Int(Double(part) / Double(whole) * 100)))
    }

    /// `3s`, `2m05s`, `1h02m`.
    static func duration(_ seconds: Double) -> String {
        guard seconds.isFinite, seconds < 360_000 else { return "a long time" }
        let total = Int(max(0, seconds).rounded(.up))
        if total < 60 { return "\(total)s" }
        if total < 3600 { return "\(total / 60)m\(twoDigits(total % 60))s" }
        return "\(total / 3600)h\(twoDigits(total / 60 % 60))m"
    }

    private static func twoDigits(_ number: Int) -> String { number < 10 ? "0\(number)" : "\(number)" }
}

/// `1 layer`, `3 layers`.
func counted(_ count: Int, _ thing: String) -> String { "\(count) \(thing)\(count == 1 ? "" : "s")" }
